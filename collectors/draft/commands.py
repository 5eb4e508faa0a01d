"""`petawatch draft-site`."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from zoneinfo import ZoneInfo, available_timezones

import click

from collectors.contract.bus import Bus
from collectors.draft.heard import Heard, ask_api, read_bus
from collectors.draft.text import Wishes, draft
from collectors.kit.buses import open_bus
from collectors.kit.clock import Clock, SystemClock
from collectors.kit.config import ConfigError
from collectors.kit.sqlite_log import SqliteBus, path_of
from collectors.kit.toml_file import closest


def _zone(_: click.Context, __: click.Parameter, value: str) -> ZoneInfo:
    known = available_timezones()
    if value not in known:
        hint = closest(value, sorted(known)) if "/" in value else ""
        hint = hint if 0 < len(hint) < 100 else "write one like Asia/Tokyo"
        raise click.BadParameter(f"no such time zone: {value!r}; {hint}")
    return ZoneInfo(value)


def _pattern(_: click.Context, __: click.Parameter, value: str | None) -> re.Pattern[str] | None:
    try:
        return None if value is None else re.compile(value)
    except re.error as error:
        raise click.BadParameter(f"not a regular expression: {error}") from error


@click.command("draft-site", help="Writes a first site.toml out of what the agents say.")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The API to ask.")
@click.option("--bus", help="Read the bus instead, before there is an API: kafka://HOST:PORT.")
@click.option("--topic-prefix", default="", help="With --bus: before every topic's name.")
@click.option("--name", default="site", show_default=True, help="The site's short name.")
@click.option("--time-zone", "zone", required=True, callback=_zone, help="Such as Asia/Tokyo.")
@click.option("--hall-of", metavar="REGEX", callback=_pattern,
              help="Finds the hall in a node's name: its group, or all that matches.")  # fmt: skip
@click.option("--rack-of", metavar="REGEX", callback=_pattern,
              help="Finds the rack likewise, as '^(a\\d+)'.")  # fmt: skip
@click.option("--from", "since", type=click.DateTime(["%Y-%m-%d"]),
              help="Since when the nodes are installed; else since each was heard of first.")  # fmt: skip
def draft_site(
    *,
    url: str,
    bus: str | None,
    topic_prefix: str,
    name: str,
    zone: ZoneInfo,
    hall_of: re.Pattern[str] | None,
    rack_of: re.Pattern[str] | None,
    since: datetime | None,
) -> None:
    """Exit status 1 where no node can be written."""
    if not name.strip():
        raise click.BadParameter("write a name", param_hint="--name")
    clock = SystemClock()
    heard = ask_api(url, clock) if bus is None else asyncio.run(_read(bus, topic_prefix, clock))
    wishes = Wishes(
        name, zone, clock.wall_us(), hall_of, rack_of, None if since is None else since.date()
    )
    made = draft(heard, wishes)
    click.echo(made.text, nl=False)
    click.echo(
        f"{made.nodes} nodes; {made.left_out} left out, with the reason above them", err=True
    )
    if not made.nodes:
        raise click.ClickException("no agent has spoken of a GPU that could be written")


async def _read(url: str, prefix: str, clock: Clock) -> list[Heard]:
    bus = _open(url, clock)
    try:
        return await read_bus(bus, prefix)
    finally:
        await bus.close()


def _open(url: str, clock: Clock) -> Bus:
    """An embedded bus is read beside the process that writes it."""
    if not url.startswith("sqlite:"):
        return open_bus(url, clock)
    try:
        return SqliteBus(path_of(url), clock=clock, read_only=True)
    except ValueError as error:
        raise ConfigError(str(error)) from error
