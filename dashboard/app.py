"""Puts the Dash pages onto a FastAPI server; the wiring diagram of this package.

The pages live in an application of their own under the server's own routes:
so an unknown address below `/api` stays the API's 404, and Dash's catch-all
route and its process-wide notion of "the app" never come into play.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import httpx
from dash import Dash, Input, Output, backends, html
from dash.development.base_component import Component
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from dashboard.alerts_page import alerts_page
from dashboard.api_client import ApiClient
from dashboard.incident_callbacks import add_incident_callbacks
from dashboard.incident_page import incident_page, runbook_page
from dashboard.live_page import live_page
from dashboard.node_callbacks import add_node_callbacks
from dashboard.node_page import node_list_page, node_page, trouble
from dashboard.shell import PAGES, index_string, shell
from dashboard.static import Squeezed, StaticFiles
from dashboard.usage_callbacks import add_usage_callbacks
from dashboard.usage_page import usage_page

_log = logging.getLogger(__name__)
_LAZY = ("async-graph", "async-markdown")
_PAGE = re.compile(r"/(nodes|usage|alerts|runbooks)(/[^/]*)?/?")
_SCRIPT = re.compile(r'src="(/_dash-component-suites/[^"]+)"')


def create_pages(server: FastAPI, *, api_base: str, client: httpx.AsyncClient) -> None:
    """Mounts the pages on `server`, after its own routes.

    `client` asks the HTTP API at `<api_base>/api/v1/…`; `api_base` is empty
    where the client has a base address of its own (in one process: httpx's
    ASGI transport on the same server).  The browser asks the server it came
    from.  Call `warm_up(server)` in the server's lifespan.
    """
    files = StaticFiles(Path(__file__).parent / "assets")
    pages = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    dash = _dash(pages, files)
    api = ApiClient(client, api_base)
    _add_router(dash, api)
    add_node_callbacks(dash, api)
    add_incident_callbacks(dash, api)
    add_usage_callbacks(dash, api)
    server.mount("/static", files, name="petawatch-static")
    server.mount("", Squeezed(_OneDocument(pages)), name="petawatch-pages")


async def warm_up(server: FastAPI) -> None:
    """Asks for what every first visitor needs, so that none pays for it.

    Dash sets its callbacks up on its first request and compression costs
    0.2 s; both are done here, through the same door as a browser's requests.
    Raises httpx.HTTPStatusError when the pages do not answer.
    """
    transport = httpx.ASGITransport(app=_PagesDoor(server))
    headers = {"Accept-Encoding": "br"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1", headers=headers
    ) as client:
        document = (await client.get("/")).raise_for_status().text
        (await client.get("/_dash-dependencies")).raise_for_status()
        for path in [*_SCRIPT.findall(document), *_lazy_paths(document)]:
            (await client.get(path)).raise_for_status()


class _PagesDoor:
    """The mounted pages of a server, without the server's guards in front."""

    def __init__(self, server: FastAPI) -> None:
        routes = cast("list[Any]", server.routes)
        self._app = next(
            route.app for route in routes if getattr(route, "name", None) == "petawatch-pages"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _lazy_paths(document: str) -> list[str]:
    """Chunks that the component bundles load by themselves, under the same fingerprint rule."""
    core = next(
        (path for path in _SCRIPT.findall(document) if "/dcc/dash_core_components.v" in path), None
    )
    if core is None:
        return []
    folder, _, fingerprint = core.partition("dash_core_components")
    return [f"{folder}{name}{fingerprint}" for name in _LAZY]


def _dash(pages: FastAPI, files: StaticFiles) -> Dash:
    # Dash 4.4.1 opens a WebSocket on every page for callbacks that we do not have.
    library: Any = backends  # has no types
    library.get_backend("fastapi").websocket_capability = False
    dash = Dash(
        __name__,
        server=cast("Any", pages),  # its type knows Flask only
        title="Petawatch",
        update_title="",
        index_string=index_string(files),
        include_assets_files=False,
        assets_folder="none",
        suppress_callback_exceptions=True,
        add_log_handler=False,
        enable_mcp=False,
    )
    dash.layout = shell()
    return dash


def _add_router(dash: Any, api: ApiClient) -> None:
    keys = [title.lower() for title, _ in PAGES]

    @dash.callback(
        Output("pw-page", "children"),
        *[Output(f"pw-nav-{key}", "className") for key in keys],
        Input("pw-url", "pathname"),
    )
    async def show_page(path: str | None) -> tuple[Any, ...]:  # pyright: ignore[reportUnusedFunction]
        here = (path or "/").rstrip("/") or "/"
        try:
            page, current = await _page(api, here)
        except (KeyError, TypeError, ValueError):
            # An API of another version, say: a sentence, and the reason in the log.
            _log.exception("page_failed path=%s", here)
            page, current = trouble("The API's answer is not what this page expects."), ""
        names = ["pw-nav-link pw-nav-current" if key == current else "pw-nav-link" for key in keys]
        return page, *names


async def _page(api: ApiClient, here: str) -> tuple[Component, str]:
    """The page at an address, and which entry of the navigation it belongs to."""
    whole: dict[str, tuple[Callable[[], Component], str]] = {
        "/": (live_page, "live"),
        "/nodes": (node_list_page, "nodes"),
        "/alerts": (alerts_page, "alerts"),
    }
    if here == "/usage":
        return await usage_page(api), "usage"
    if here in whole:
        make, current = whole[here]
        return make(), current
    named: dict[str, tuple[Callable[[ApiClient, str], Awaitable[Component]], str]] = {
        "/nodes/": (node_page, "nodes"),
        "/usage/": (usage_page, "usage"),
        "/alerts/": (incident_page, "alerts"),
        "/runbooks/": (runbook_page, "alerts"),
    }
    for prefix, (ask, current) in named.items():
        if here.startswith(prefix):
            return await ask(api, here.removeprefix(prefix)), current
    return html.Div(trouble("There is no page at this address.")), ""


class _OneDocument:
    """Serves the one document at every page's address, so that any may be opened first."""

    def __init__(self, pages: ASGIApp) -> None:
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _PAGE.fullmatch(scope["path"]):
            scope = {**scope, "path": "/", "raw_path": b"/"}
        await self._pages(scope, receive, send)
