"""The one door: a pure ASGI guard over HTTP and WebSocket, pages included.

Middleware of Starlette's kind does not see WebSockets, and pages mounted
later must not come around it, so it wraps the whole application.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote, urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.api.auth import Access, Session
from pipeline.api.problems import MEDIA_TYPE, problem_body
from pipeline.api.settings import ApiSettings, is_loopback

SESSION_KEY = "petawatch.session"
"""Where the guard leaves the caller's Session (None: a program, or loopback)."""
PUBLIC = frozenset({"/healthz", "/readyz", "/login"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FOREIGN = frozenset({"cross-site", "same-site"})


def cookie_name(scheme: str) -> str:
    """The session cookie's name; under TLS the prefix ties it to this host and to TLS."""
    return "__Host-petawatch" if scheme in {"https", "wss"} else "petawatch"


def cookie_value(scope: Scope) -> str | None:
    """The session cookie of a request."""
    jar = SimpleCookie()
    try:
        jar.load(_headers(scope).get("cookie", ""))
    except CookieError:
        return None
    morsel = jar.get(cookie_name(scope["scheme"]))
    return None if morsel is None else morsel.value


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _hostname(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    detail: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


_TOO_LARGE = "The body is larger than {limit} bytes."
_LOGIN = _Refusal(
    401,
    "Log in at /login, or send the header Authorization: Bearer TOKEN.",
    ((b"www-authenticate", b"Bearer"),),
)


_POLICY = (
    # Dash and its charts set styles inline; no script is inline.
    b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    b"font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    b"form-action 'self'; frame-ancestors 'none'"
)
_SECURITY = {
    b"content-security-policy": _POLICY,
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}
_PRIVATE = {**_SECURITY, b"cache-control": b"no-store"}


class Guard:
    """Checks host, origin, body size and login, sets the security headers, counts answers."""

    def __init__(
        self, app: ASGIApp, access: Access, settings: ApiSettings, answers: Counter[int]
    ) -> None:
        """`answers` counts by the first digit of the status."""
        self._answers = answers
        self._app = app
        self._access = access
        self._settings = settings
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._loopback = is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or socket."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        refusal = self._refusal(scope, headers)
        if scope["type"] == "websocket":
            if refusal is not None:
                await send({"type": "websocket.close", "code": 4000 + refusal.status})
                return
            await self._app(scope, receive, send)
            return
        guarded = self._sender(scope, send)
        if refusal is None:
            await self._app(scope, self._receiver(receive), guarded)
        else:
            await _answer(refusal, scope, headers, guarded)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> _Refusal | None:
        host = headers.get("host", "")
        if not self._host_allowed(host):
            return _Refusal(421, f"This server is not called {host!r}; ask it by its address.")
        if not self._origin_allowed(scope, headers, host):
            return _Refusal(403, "Requests from another site are refused.")
        if self._too_long(headers):
            return _Refusal(413, _TOO_LARGE.format(limit=self._settings.body_limit_bytes))
        return self._login_refusal(scope, headers)

    def _host_allowed(self, host: str) -> bool:
        """On loopback only its own names, else a page elsewhere could rebind its name to us."""
        name = _hostname(host)
        if name in self._hosts or is_loopback(name):
            return True
        return bool(name) and not self._loopback and not self._hosts

    def _origin_allowed(self, scope: Scope, headers: dict[str, str], host: str) -> bool:
        if scope["type"] == "http" and scope["method"] in _SAFE:
            return True
        if headers.get("sec-fetch-site") in _FOREIGN:
            return False
        origin = headers.get("origin")
        if origin is None:
            return True
        netloc = urlsplit(origin).netloc.lower() if origin != "null" else ""
        return bool(netloc) and (netloc == host.lower() or _hostname(netloc) in self._hosts)

    def _too_long(self, headers: dict[str, str]) -> bool:
        length = headers.get("content-length", "0")
        return not length.isdecimal() or int(length) > self._settings.body_limit_bytes

    def _login_refusal(self, scope: Scope, headers: dict[str, str]) -> _Refusal | None:
        session: Session | None = None
        known = not self._access.login_required
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if self._access.login_required and scheme.lower() == "bearer":
            known = self._access.token_valid(token.strip())
        elif self._access.login_required:
            cookie = cookie_value(scope)
            session = self._access.sessions.find(cookie) if cookie else None
            known = session is not None
        scope[SESSION_KEY] = session
        return None if known or scope["path"] in PUBLIC else _LOGIN

    def _receiver(self, receive: Receive) -> Receive:
        limit = self._settings.body_limit_bytes
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, _TOO_LARGE.format(limit=limit))
            return message

        return limited

    def _sender(self, scope: Scope, send: Send) -> Send:
        private = scope["path"].startswith(("/api/", "/login", "/metrics"))
        wanted = _PRIVATE if private else _SECURITY

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answers[message["status"] // 100] += 1
                headers: list[tuple[bytes, bytes]] = list(message.get("headers", []))
                present = {name.lower() for name, _ in headers}
                added = [(name, text) for name, text in wanted.items() if name not in present]
                message["headers"] = headers + added
            await send(message)

        return sender


async def _answer(refusal: _Refusal, scope: Scope, headers: dict[str, str], send: Send) -> None:
    """A page is led to the login, everything else gets the problem."""
    page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
    if refusal is _LOGIN and page:
        target = quote(scope["path"] + _query(scope), safe="/")
        status, body = 303, b""
        extra = ((b"location", f"/login?next={target}".encode()),)
    else:
        status, body = refusal.status, problem_body(refusal.status, refusal.detail)
        extra = ((b"content-type", MEDIA_TYPE.encode()), *refusal.headers)
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *extra]})
    await send({"type": "http.response.body", "body": body})


def _query(scope: Scope) -> str:
    text = scope.get("query_string", b"").decode("latin-1")
    return f"?{text}" if text else ""
