"""`petawatch rebuild`: minutes from the bus, hours from the minutes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from collectors.kit.clock import Clock, SystemClock
from collectors.kit.config import ConfigError
from collectors.kit.options import setting_options
from pipeline.books.rebuild import HoursRebuild, Site
from pipeline.books.rows import HOUR_MINUTES, HOUR_US
from pipeline.commands import stages
from pipeline.commands.site import NO_SITE, inventory_of
from pipeline.commands.wiring import Installation, install, load_settings
from pipeline.settings import Settings
from pipeline.store.rebuild import MinutesRebuild

_SAY_EVERY_S = 1.0
_SAY_STILL_S = 10.0
_FROM = click.option("--from", "begin", required=True, help="First hour, as 2026-11-03T00:00.")
_TO = click.option("--to", "end", required=True, help="The hour after the last.")


@click.group(help="Makes minutes anew from the bus, and hours from the minutes.")
def rebuild() -> None:
    """Both may be broken off, and then go on where they were."""


@rebuild.command(help="Hours of the ledger from the minutes.")
@setting_options(Settings, "site", "tenants", "store", "influx_token", "books", "bus")
@_FROM
@_TO
def hours(*, config: Path | None, begin: str, end: str, **options: object) -> None:
    """Beside a `books` role it waits until that has done it."""
    settings = load_settings(config, options)
    clock = SystemClock()
    installation = install(settings, clock, inventory_of(settings, clock), series=True, books=True)
    stages.run_until_done(_hours(installation, *span(begin, end, installation)))


@rebuild.command(help="Minutes of the series store from the records that the bus still has.")
@setting_options(
    Settings, "site", "store", "influx_token", "bus", "topic_prefix", "future_s", "ancient_h"
)
@_FROM
@_TO
def minutes(*, config: Path | None, begin: str, end: str, **options: object) -> None:
    """The hours that this touches are then computed anew by the `books` role."""
    settings = load_settings(config, options)
    clock = SystemClock()
    inventory = inventory_of(settings, clock) if settings.site else NO_SITE
    installation = install(settings, clock, inventory, series=True, books=False)
    stages.run_until_done(_minutes(installation, *span(begin, end, installation)))


def span(begin: str, end: str, installation: Installation) -> tuple[int, int]:
    """The hours from `begin` until before `end`; times without a zone are the site's.

    Raises ConfigError that says what to write.
    """
    zone = ZoneInfo(installation.inventory.time_zone)
    first, stop = (_hour(text, zone) for text in (begin, end))
    if first >= stop:
        raise ConfigError(f"--from {begin} is not before --to {end}")
    return first, stop


def _hour(text: str, zone: ZoneInfo) -> int:
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no time: write 2026-11-03T00:00 or 2026-11-03") from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=zone)
    seconds = round(when.timestamp())
    if seconds % 3_600:
        raise ConfigError(f"{text!r} is not the beginning of an hour of UTC")
    return seconds // 3_600


class Progress:
    """Says how much is done: percent, count, and the time still to go.

    At most once a second, and every ten seconds while nothing moves.
    """

    def __init__(self, what: str, clock: Clock, echo: Callable[[str], Any] = click.echo) -> None:
        self._what, self._clock, self._echo = what, clock, echo
        self._since: tuple[int, int] | None = None
        self._said_us, self._said_done = -(1 << 62), -1

    def __call__(self, done: int, total: int) -> None:
        now_us = self._clock.monotonic_us()
        since_us, before = self._since = self._since or (now_us, done)
        wait_s = _SAY_STILL_S if done == self._said_done else _SAY_EVERY_S
        if done < total and now_us - self._said_us < wait_s * 1e6:
            return
        self._said_us, self._said_done = now_us, done
        share = 100 * done // total if total else 100
        text = f"{share} % · {done:,} of {total:,} {self._what}"
        if before < done < total:
            left_s = (now_us - since_us) / 1e6 * (total - done) / (done - before)
            text += f" · {dt.timedelta(seconds=round(left_s))} to go"
        self._echo(text)


async def _hours(installation: Installation, first: int, stop: int) -> None:
    series, database = installation.opened_series(), installation.opened_database()
    clock, site = installation.clock, Site(installation.inventory, installation.tenants)
    try:
        await series.start()
        await database.start()
        work = HoursRebuild(series, database, site, clock)
        done = await work.run(range(first, stop), Progress("node-hours", clock))
        click.echo(f"{done - work.kept:,} node-hours are computed anew.")
        if work.kept:
            click.echo(f"{work.kept:,} stay as they were: their minutes are no longer kept.")
    finally:
        await installation.close()


async def _minutes(installation: Installation, first: int, stop: int) -> None:
    series, clock = installation.opened_series(), installation.clock
    prefix = installation.settings.topic_prefix
    work = MinutesRebuild(installation.bus, series, installation.rules(), clock, prefix=prefix)
    try:
        await series.start()
        reach = range(first * HOUR_MINUTES, stop * HOUR_MINUTES)
        await work.run(reach, Progress("records", clock))
    finally:
        await installation.close()
    click.echo(f"{work.parts:,} GPU-minutes are written.")
    if work.refused:
        click.echo(f"{work.refused:,} rows were refused by the series store.")
    if work.first_us is None or work.first_us > (first + 1) * HOUR_US:
        click.echo("The bus no longer has all records from that time on; what it has is written.")
