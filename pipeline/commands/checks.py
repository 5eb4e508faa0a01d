"""What `petawatch doctor` looks at behind the bus: settings, broker, stores, disk."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable

from collectors.contract.bus import BusUnavailableError
from collectors.kit.checks import Check, Verdict
from collectors.kit.clock import SystemClock
from collectors.kit.config import ConfigError, SetupError
from pipeline.api.auth import check_login
from pipeline.api.settings import ApiSettings
from pipeline.books.database import BooksUnavailableError, Database
from pipeline.bus import open_bus
from pipeline.commands.site import inventory_of
from pipeline.commands.wiring import load_settings
from pipeline.series import open_series
from pipeline.series.port import StoreUnavailableError
from pipeline.settings import Settings

_TIMEOUT_S = 5.0
_AWAY = (BusUnavailableError, StoreUnavailableError, BooksUnavailableError, TimeoutError, OSError)


def checks() -> list[Check]:
    """Settings, login, site, disk, and whether each service answers."""
    try:
        settings = load_settings(None, {})
    except ConfigError as error:
        return [Check("Settings", Verdict.FAIL, str(error), "Correct it and look again.")]
    found = [Check("Settings", Verdict.OK, f"bus {settings.bus}, store {settings.store}")]
    found += [_login(settings), _site(settings), _disk(settings)]
    return [*found, *asyncio.run(_services(settings))]


def _login(settings: Settings) -> Check:
    try:
        check_login(ApiSettings.of(settings))
    except ValueError as error:
        return Check("Login", Verdict.FAIL, str(error), "Without it `serve` does not start.")
    where = "loopback, no login" if settings.loopback else f"{settings.host}, with a login"
    return Check("Login", Verdict.OK, where)


def _site(settings: Settings) -> Check:
    if settings.site is None:
        return Check("Site", Verdict.WARN, "none is set", "Set site to your site.toml.")
    try:
        inventory = inventory_of(settings, SystemClock())
    except ConfigError as error:
        return Check("Site", Verdict.FAIL, str(error), "Correct it and look again.")
    now_us = SystemClock().wall_us()
    gpus, pflops = inventory.gpus(now_us), inventory.pflops(now_us)
    return Check("Site", Verdict.OK, f"{inventory.title}: {gpus:,} GPUs, {pflops:,.1f} PFLOPS")


def _disk(settings: Settings) -> Check:
    folder = next(path for path in (settings.data, *settings.data.parents) if path.exists())
    free_gb = shutil.disk_usage(folder).free / 1e9
    found = f"{free_gb:.0f} GB free at {folder}"
    if settings.embedded and free_gb < settings.disk_budget_gb:
        return Check("Disk", Verdict.WARN, found, "Lower disk_budget_gb, or make room.")
    return Check("Disk", Verdict.OK, found)


async def _services(settings: Settings) -> list[Check]:
    found: list[Check] = []
    if not settings.bus.startswith("sqlite:"):
        found.append(await _answer("Bus", _bus(settings)))
    if not settings.store.startswith("duckdb:"):
        found.append(await _answer("Series store", _store(settings)))
    if not settings.books.startswith("sqlite:"):
        found.append(await _answer("Books", _books(settings)))
    return found


async def _answer(name: str, asked: Awaitable[str]) -> Check:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return Check(name, Verdict.OK, await asked)
    except (SetupError, ValueError) as error:
        return Check(name, Verdict.FAIL, str(error), "Correct the setting and look again.")
    except _AWAY as error:
        text = str(error) or "no answer in time"
        return Check(name, Verdict.FAIL, text, "Start it, or correct its address.")


def _told(health: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in health.items())


async def _bus(settings: Settings) -> str:
    bus = open_bus(settings.bus, SystemClock())
    try:
        return _told(await bus.health())
    finally:
        await bus.close()


async def _store(settings: Settings) -> str:
    store = open_series(settings.store, token=settings.influx_token)
    try:
        await store.start()
        return _told(await store.health())
    finally:
        await store.close()


async def _books(settings: Settings) -> str:
    books = Database(settings.books)
    try:
        await books.start()
        return "the schema is up to date"
    finally:
        await books.close()
