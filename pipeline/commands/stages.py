"""Roles as stages of one process, in the order in which data flows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from fastapi import FastAPI

from collectors.contract.source import Source
from collectors.contract.topics import LIVE
from collectors.kit import plugins
from collectors.kit.config import ConfigError
from collectors.kit.lifecycle import Stage
from pipeline.api.app import create_app, internal_client
from pipeline.api.auth import check_login
from pipeline.api.deps import ApiDeps
from pipeline.api.server import run_server
from pipeline.api.settings import ApiSettings
from pipeline.commands.site import SiteWatch
from pipeline.commands.wiring import Installation
from pipeline.health import HealthBoard, publish_health
from pipeline.settings import Settings

_log = logging.getLogger(__name__)
ROLES = ("store", "watch", "books", "notify")


def role_stages(installation: Installation, roles: Sequence[str]) -> list[Stage]:
    """A stage for each of the roles named, a role may be named more than once."""
    makers: dict[str, Callable[[], Any]] = {
        "store": installation.worker,
        "watch": installation.watch,
        "books": installation.books,
        "notify": installation.notifier,
    }
    ordered = sorted(roles, key=ROLES.index)
    made = [Stage(role, makers[role]().run) for role in ordered]
    if "watch" in ordered:
        made.append(Stage("alerts", installation.alerts().run))
    if "books" in ordered:
        made.append(Stage("alert history", installation.alert_keeper().run))
    return made


def source_stage(source: Source, installation: Installation) -> Stage:
    """The source, sending to the installation's bus."""

    async def run(stop: asyncio.Event) -> None:
        producer = installation.bus.producer()
        await producer.start()
        try:
            await source.run(producer, stop)
        finally:
            await producer.stop()

    return Stage("source", run)


def site_stage(installation: Installation, board: HealthBoard) -> Stage:
    """Takes over what the site's files say whenever they change; `board` tells of a slip in them."""
    return Stage("site", SiteWatch(installation, board).run)


def health_stage(installation: Installation) -> Stage:
    """Publishes what each role here says of itself."""
    topic = installation.settings.topic_prefix + LIVE

    async def run(stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            for board in installation.boards:
                group.create_task(publish_health(board, installation.bus, topic, stop))

    return Stage("health", run)


def retention_stage(installation: Installation) -> Stage:
    """Removes what is older than the settings keep, where the store does not do so itself."""
    settings, series, clock = installation.settings, installation.series, installation.clock

    async def run(stop: asyncio.Event) -> None:
        while not stop.is_set() and series is not None:
            now_us = clock.wall_us()
            raw_us = now_us - int(settings.raw_keep_days * 86_400e6)
            await series.delete_before(raw_us, now_us - int(settings.minutes_days * 86_400e6))
            await _wait(stop, 600.0)

    return Stage("retention", run)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


def check(settings: Settings) -> None:
    """Refuses before anything is begun to serve beyond loopback without a login.

    Raises ConfigError.
    """
    try:
        check_login(ApiSettings.of(settings))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def make_app(installation: Installation, board: HealthBoard, usage: Any = None) -> FastAPI:
    """The API, with the pages where they are installed.  Raises ValueError without a needed login."""
    settings = installation.settings
    deps = ApiDeps(
        bus=installation.bus,
        series=installation.opened_series(),
        inventory=lambda: installation.inventory,
        clock=installation.clock,
        board=board,
        books=usage,
        tenants=lambda: installation.tenants,
        acts=None if usage is None else installation.acts(board),
        topic_prefix=settings.topic_prefix,
    )
    app = create_app(deps, ApiSettings.of(settings))
    try:
        pages: Any = plugins.load("petawatch.pages", "dash")
        warm_up: Any = plugins.load("petawatch.pages", "warm_up")
    except plugins.MissingPartError as error:
        _log.warning("no_pages %s", error)
        return app
    client: httpx.AsyncClient = internal_client(app)
    pages(app, api_base="", client=client)
    app.state.on_start.append(lambda: warm_up(app))
    return app


def serve_stage(app: FastAPI, installation: Installation, said: Callable[[str], None]) -> Stage:
    """The server; `said` gets its address once it listens."""
    settings = installation.settings

    def ready(port: int) -> None:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        said(f"http://{host}:{port}/")

    async def run(stop: asyncio.Event) -> None:
        await run_server(app, settings.host, settings.port, stop, on_ready=ready)

    return Stage("serve", run)


def event_loop_policy() -> Callable[[], asyncio.AbstractEventLoop]:
    """The faster event loop where it is installed."""
    try:
        import uvloop  # noqa: PLC0415
    except ModuleNotFoundError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def run_until_done(work: Any) -> None:
    """Runs a coroutine on that loop."""
    with asyncio.Runner(loop_factory=event_loop_policy()) as runner:
        runner.run(work)
