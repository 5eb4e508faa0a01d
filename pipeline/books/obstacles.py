"""What keeps a month from being frozen, in words that say what to do about it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, select

from collectors.contract.inventory import Inventory
from collectors.contract.topics import ALLOC
from pipeline.books import schema
from pipeline.books.agenda import roster
from pipeline.books.frozen import frozen_within
from pipeline.books.journal import kept_zone
from pipeline.books.periods import Period
from pipeline.books.progress import NodeHour, ledger_hours
from pipeline.books.rows import HOUR_US
from pipeline.books.site_files import known_files

_SHOWN_HOURS, _SHOWN_NODES = 3, 3


def obstacles(
    connection: Connection, inventory: Inventory, period: Period, at_us: int
) -> list[str]:
    """Sentences, none where the month may be frozen now.

    Hours before the ledger's first are not missing: a site that began in mid-month has none.
    """
    reasons = list(_plain(connection, inventory, period, at_us))
    if reasons:
        return reasons
    first = max(period.hours.start, ledger_hours(connection).start)
    hours = range(first, period.hours.stop)
    found = (
        (_missing(connection, inventory, hours),
         "the ledger does not have", "Wait for the books, or `petawatch rebuild hours`."),
        (_provisional(connection, hours),
         "provisional are", "They become final by the setting lateness_s; where they do not, the"
         " health page shows the partition that lies behind."),
        (_pending(connection, hours),
         "to be computed again are", "The books do it at their next turn; a rebuild that was"
         " broken off is gone on with by the same command. Then ask again."),
    )  # fmt: skip
    for node_hours, what, todo in found:
        if node_hours:
            reasons.append(f"Of its hours {what} {hours_text(node_hours, period.zone)}. {todo}")
    return reasons


def _plain(
    connection: Connection, inventory: Inventory, period: Period, at_us: int
) -> Iterator[str]:
    """What is so wrong that hours need not be looked at."""
    for frozen in frozen_within(connection, period.hours):
        when = _moment(frozen.frozen_us, period.zone)
        if frozen.month == period.name:
            yield f"It is frozen since {when}, by {frozen.actor}."
        else:
            yield (
                f"Some of its hours are of {frozen.month}, which was frozen in the time zone"
                f" {frozen.time_zone}: no hour can be signed twice. Set the site's time zone back."
            )
    ledger = ledger_hours(connection)
    if not range(max(ledger.start, period.hours.start), min(ledger.stop, period.hours.stop)):
        yield "The ledger has nothing of it."
    if at_us < period.to_us:
        yield f"It goes on until {_moment(period.to_us, period.zone)}."
    site = known_files(connection).inventory
    if site is not None and msgspec.json.encode(site) != msgspec.json.encode(inventory):
        yield "The books have not taken over the site's present inventory: ask again in a minute."
    zone = kept_zone(connection)
    if zone is not None and zone != inventory.time_zone:
        yield f"The books still keep the days of {zone}: ask again once they have taken over."
    outbox = schema.outbox.c
    told = select(outbox.number).where(outbox.topic.like(f"%{ALLOC}")).limit(1)
    if connection.execute(told).first() is not None:
        yield "A decision about allocations is on its way to the bus: ask again in a minute."


def _missing(connection: Connection, inventory: Inventory, hours: range) -> list[NodeHour]:
    table = schema.node_hours.c
    within = table.hour.between(hours.start, hours.stop - 1)
    there: dict[int, set[str]] = {}
    # Node by node, since an hour may still have rows of a node that is in the inventory no more.
    for hour, node in connection.execute(select(table.hour, table.node).where(within)):
        there.setdefault(hour, set()).add(node)
    return [
        (hour, node)
        for hour in hours
        for node in sorted(roster(inventory, hour) - there.get(hour, set()))
    ]


def _provisional(connection: Connection, hours: range) -> list[NodeHour]:
    table = schema.node_hours.c
    within = table.hour.between(hours.start, hours.stop - 1)
    query = select(table.hour, table.node).where(within, table.final.is_(False))
    return [(hour, node) for hour, node in connection.execute(query)]


def _pending(connection: Connection, hours: range) -> list[NodeHour]:
    table = schema.pending.c
    within = table.hour.between(hours.start, hours.stop - 1)
    query = select(table.hour, table.node).where(within)
    return [(hour, node) for hour, node in connection.execute(query)]


def hours_text(node_hours: Iterable[NodeHour], zone: ZoneInfo) -> str:
    """`3 Oct 14:00 to 16:00 (a03n01, a03n02 and 5 more)`, the first few stretches."""
    nodes: dict[int, set[str]] = {}
    for hour, node in node_hours:
        nodes.setdefault(hour, set()).add(node)
    runs = list(_runs(sorted(nodes)))
    shown = [
        f"{_moment(run.start * HOUR_US, zone)} to {_moment(run.stop * HOUR_US, zone)}"
        f" ({_names(sorted(set[str]().union(*(nodes[hour] for hour in run))))})"
        for run in runs[:_SHOWN_HOURS]
    ]
    rest = sum(len(run) for run in runs[_SHOWN_HOURS:])
    return ", ".join(shown) + (f" and {rest} hours more" if rest else "")


def _runs(hours: Sequence[int]) -> Iterator[range]:
    """Hours that follow one another, together."""
    start = 0
    for at in range(1, len(hours) + 1):
        if at == len(hours) or hours[at] != hours[at - 1] + 1:
            yield range(hours[start], hours[at - 1] + 1)
            start = at


def _names(nodes: Sequence[str]) -> str:
    rest = len(nodes) - _SHOWN_NODES
    return ", ".join(nodes[:_SHOWN_NODES]) + (f" and {rest} more" if rest > 0 else "")


def _moment(time_us: int, zone: ZoneInfo) -> str:
    return f"{dt.datetime.fromtimestamp(time_us // 1_000_000, zone):%Y-%m-%d %H:%M}"
