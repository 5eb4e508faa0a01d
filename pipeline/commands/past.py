"""`petawatch past`: gives a simulated site a past in its books; `up` runs it by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

import click

from collectors.contract.source import SourceOptions
from collectors.kit import plugins
from collectors.kit.clock import Clock, SystemClock
from collectors.kit.config import ConfigError
from collectors.kit.options import setting_options
from pipeline.books.database import Database
from pipeline.books.past import PastHour, PastWriter, Plan, wanted
from pipeline.books.rows import HOUR_US
from pipeline.commands import stages
from pipeline.commands.wiring import load_settings, make_source
from pipeline.settings import Settings

_log = logging.getLogger(__name__)
_NICE = 10
SEED = 1


def past_hours(settings: Settings, clock: Clock) -> range:
    """The hours before the one that goes on now, as many days as the settings say."""
    now = clock.wall_us() // HOUR_US
    return range(now - round(settings.past_days * 24), now)


@click.command(help="Fills a simulated site's books with a past, marked as simulated.")
@setting_options(Settings, "site", "books", "past_days")
@click.option("--parent", type=int, hidden=True)
def past(*, config: Path | None, parent: int | None, **options: object) -> None:
    """Ends at once where the books have hours already."""
    settings = load_settings(config, options)
    if settings.site is None or settings.site.endswith(".toml"):
        raise ConfigError("only a simulated site can be given a past: write --site aisc-phase1")
    stages.run_until_done(fill(settings, settings.site, SystemClock(), parent))


async def fill(settings: Settings, site: str, clock: Clock, parent: int | None = None) -> None:
    """Writes what is wanted, if anything is.

    Ends between two hours when `parent` is no longer this process's parent: after a kill of
    `up` the next one goes on, and two must not write at once.
    """
    source = make_source("sim", SourceOptions(site=site), clock)
    make: Callable[[str, int, range], Iterable[PastHour]] = plugins.load("petawatch.past", "hours")
    database = Database(settings.books)
    await database.start()
    try:
        hours = past_hours(settings, clock)
        plan: Plan | None = await database.read(lambda one: wanted(one, site, SEED, hours))
        if plan is None:
            return
        _log.info("past_begins site=%s hours=%d", site, plan.end - plan.done)
        writer = PastWriter(database, source.inventory)
        hours_made = make(site, plan.seed, range(plan.first, plan.end))
        await writer.write(plan, takewhile(lambda _: _is_wanted(parent), hours_made))
        if not _is_wanted(parent):
            return
        _log.info("past_complete site=%s hours=%d", site, plan.end - plan.first)
    finally:
        await database.close()


def _is_wanted(parent: int | None) -> bool:
    return parent is None or os.getppid() == parent


async def in_background(settings: Settings, stop: asyncio.Event) -> None:
    """Runs the command as a process of its own, at low priority, until it ends or `stop`.

    A month of a large site is a minute of work, which no page should feel.
    """
    environment = {**os.environ, "PETAWATCH_BOOKS": settings.books}
    arguments = ("-m", "collectors", "past", "--site", settings.site or "",
                 "--past-days", str(settings.past_days), "--parent", str(os.getpid()))  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=environment, preexec_fn=_nice
    )
    waits: list[asyncio.Task[Any]] = [
        asyncio.create_task(process.wait()),
        asyncio.create_task(stop.wait()),
    ]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode and not stop.is_set():
        _log.error("past_failed status=%d the books begin now", process.returncode)


def _nice() -> None:
    os.nice(_NICE)
