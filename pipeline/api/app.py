"""Wires the API together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from collectors.contract.topics import LIVE
from pipeline.api import (
    alerts_routes,
    books_routes,
    fleet_routes,
    live_routes,
    login,
    months_routes,
    ops_routes,
    problems,
    series_routes,
    silences_routes,
    site_acts_routes,
    site_routes,
    usage_routes,
    waste_routes,
)
from pipeline.api.auth import Access
from pipeline.api.deps import Api, ApiDeps
from pipeline.api.guard import Guard
from pipeline.api.live import LiveHub
from pipeline.api.settings import ApiSettings

_ABOUT = """Telemetry of a shared GPU data centre: what it delivers now, to whom, and how it was.

Times are ISO-8601 or seconds since 1970 in, µs since 1970 (`time_us`) or ISO-8601 out. Absent is
null or left out, never 0. PFLOPS are dense-FP16-equivalent. `WS /api/v1/live/ws` pushes binary live
frames. Errors are `application/problem+json`.
"""
_OPENAPI = "/api/v1/openapi.json"
_PARTS = (
    live_routes,
    site_acts_routes,
    site_routes,
    fleet_routes,
    series_routes,
    books_routes,
    usage_routes,
    months_routes,
    waste_routes,
    ops_routes,
    alerts_routes,
    silences_routes,
    login,
)


class GuardedApp(FastAPI):
    """A FastAPI application with the guard outermost, whatever is mounted or added later."""

    def __init__(self, guard: Callable[[ASGIApp], Guard], **options: Any) -> None:
        self._guard = guard
        super().__init__(**options)

    def build_middleware_stack(self) -> ASGIApp:
        """Starlette's stack, behind the guard."""
        return self._guard(super().build_middleware_stack())


def create_app(deps: ApiDeps, settings: ApiSettings) -> FastAPI:
    """The API's application; its lifespan starts and stops the live hub.

    `app.state.api` is its Api.  Pages add coroutine functions to
    `app.state.on_start` that run once the hub does, to warm themselves up.
    Raises ValueError where a login is needed and none is configured.
    """
    access, answers = Access(settings, deps.clock), Counter[int]()
    hub = LiveHub(
        deps.bus,
        deps.topic_prefix + LIVE,
        deps.clock,
        deps.board,
        history_minutes=settings.history_minutes,
    )
    app = GuardedApp(
        lambda inner: Guard(inner, access, settings, answers),
        title="Petawatch",
        description=_ABOUT,
        version=_version(),
        openapi_url=_OPENAPI,
        # Their pages come from elsewhere, and ours load nothing from elsewhere.
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.api = Api(deps, settings, hub, access, answers)
    app.state.on_start = []
    problems.install(app)
    for part in _PARTS:
        app.include_router(part.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    api: Api = app.state.api
    acts = () if api.deps.acts is None else (api.deps.acts,)
    followed = (api.hub, api.fleet_log, api.alert_desk, *acts)
    on_start: list[Callable[[], Awaitable[None]]] = app.state.on_start
    tasks = [asyncio.create_task(part.run(), name=type(part).__name__) for part in followed]
    try:
        for start in on_start:
            await start()
        yield
    finally:
        for part, task in zip(followed, tasks, strict=True):
            part.stop()
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def internal_client(app: FastAPI) -> httpx.AsyncClient:
    """A client for pages of the same process: the HTTP API without a network, through the guard."""
    api: Api = app.state.api
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://127.0.0.1",
        headers={"Authorization": f"Bearer {api.access.internal_token}"},
    )


def _version() -> str:
    try:
        return version("petawatch")
    except PackageNotFoundError:
        return "0"
