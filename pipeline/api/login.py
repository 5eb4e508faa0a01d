"""The login page: a plain form, a session cookie, a way out."""

from __future__ import annotations

import html
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from pipeline.api.deps import Api, Served
from pipeline.api.guard import cookie_name, cookie_value

router = APIRouter(include_in_schema=False)
_PAGE = """<!doctype html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in – Petawatch</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; --ink: #1b2430; --soft: #566273; --ground: #f4f6f8; --card: #fff;
  --line: #c9d1da; --accent: #14609e; --bad: #a4161a }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8edf3; --soft: #a3b0c0; --ground: #0d1218;
  --card: #151c25; --line: #36424f; --accent: #7cc0ff; --bad: #ff9b9b }} }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 Inter, system-ui, sans-serif }}
form {{ width: min(22rem, 100vw - 3rem); box-sizing: border-box; padding: 2rem; display: grid; gap: .75rem;
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem }}
h1 {{ margin: 0; font-size: 1.25rem }} p {{ margin: 0; color: var(--soft) }}
p[role=alert] {{ color: var(--bad) }}
input, button {{ font: inherit; padding: .6rem .75rem; border-radius: .5rem; border: 1px solid var(--line) }}
input {{ background: var(--ground); color: var(--ink) }}
button {{ background: var(--accent); color: var(--card); border: 0; font-weight: 600; cursor: pointer }}
:focus-visible {{ outline: 2px solid var(--accent); outline-offset: 2px }}
</style>
</head>
<body>
<main>
<form method="post" action="/login">
<h1>Petawatch</h1>
<p>{greeting}</p>
{alert}
<label for="password">Operators’ password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
<input name="username" type="text" autocomplete="username" value="operator" hidden>
<input name="next" type="hidden" value="{target}">
<button>Log in</button>
</form>
</main>
</body>
</html>
"""


def _local(target: str) -> str:
    """The address to go on to: one of this server, else its first page."""
    plain = target.startswith("/") and not target.startswith("//")
    return target if plain and "\\" not in target and target.isprintable() else "/"


def _page(status: int, target: str, alert: str = "", wait_s: float = 0.0) -> HTMLResponse:
    text = f'<p role="alert">{html.escape(alert)}</p>' if alert else ""
    body = _PAGE.format(
        greeting="Log in to see the centre.", alert=text, target=html.escape(_local(target))
    )
    headers = {"Retry-After": str(int(wait_s) + 1)} if wait_s else None
    return HTMLResponse(body, status, headers)


@router.get("/login")
async def login_page(next: str = "/") -> HTMLResponse:  # noqa: A002 (the parameter's usual name)
    """The form."""
    return _page(200, next)


@router.post("/login")
async def log_in(
    request: Request,
    api: Served,
    password: Annotated[str, Form(max_length=1_024)] = "",
    next: Annotated[str, Form(max_length=2_048)] = "/",  # noqa: A002
) -> Response:
    """Checks the password; five failures a minute and address are heard, no more."""
    address = request.client.host if request.client else ""
    wait_s = api.access.limiter.wait_s(address)
    if wait_s:
        return _page(429, next, "Too many attempts. Wait a minute, then try again.", wait_s)
    succeeded = api.access.limiter.begin(address)
    if not await api.access.password_valid(password):
        return _page(401, next, "That password is not right.")
    succeeded()
    _end(api, request)
    response = RedirectResponse(_local(next), 303)
    scheme = request.scope["scheme"]
    response.set_cookie(
        cookie_name(scheme),
        api.access.sessions.open(),
        max_age=int(api.settings.session_s),
        path="/",
        secure=scheme == "https",
        httponly=True,
        samesite="lax",
    )
    return response


@router.post("/logout")
async def log_out(request: Request, api: Served) -> Response:
    """Ends the session, and with it the sockets it had opened."""
    _end(api, request)
    response = RedirectResponse("/login", 303)
    scheme = request.scope["scheme"]
    response.delete_cookie(
        cookie_name(scheme), path="/", secure=scheme == "https", httponly=True, samesite="lax"
    )
    return response


def _end(api: Api, request: Request) -> None:
    cookie = cookie_value(request.scope)
    if cookie:
        api.access.sessions.close(cookie)
        api.hub.session_ended()
