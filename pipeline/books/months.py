"""Months that a person freezes: whether one may be, the act, and whether it still is as it was.

What is frozen are the hours of a month of the site's time zone.  Their day totals are copied
with a SHA-256 in the transaction that looks whether the month may be frozen, while the writer of
the books is held; from then on these hours stay as they are (`pipeline.books.frozen`).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, func, select

from collectors.contract.inventory import Inventory
from pipeline.books import schema
from pipeline.books.frozen import Frozen, frozen_month, frozen_within
from pipeline.books.leader import hold_lead
from pipeline.books.obstacles import obstacles
from pipeline.books.periods import days_of, month_period
from pipeline.books.progress import ledger_hours
from pipeline.books.rows import FIGURES, HOUR_US, STATES
from pipeline.books.schema_months import frozen_days, frozen_months

DEFINITION = "month/1"
_DAY_KEY = ("day", "owner_kind", "tenant", "project", "model", "origin")
Day = tuple[Any, ...]
"""Values of day, owner_kind, tenant, project, model, origin and FIGURES."""
_DAY_US = 24 * HOUR_US
_MOST_DIFFERENCES = 50


class MonthRefusedError(ValueError):
    """The month cannot be frozen now; the message says why, and what to do."""


def freeze(
    connection: Connection,
    inventory: Inventory,
    month: str,
    actor: str,
    note: str,
    at_us: int,
) -> Frozen:
    """Freezes a month within the caller's transaction.

    Raises ValueError for a text that is no month, MonthRefusedError where it is not over, not
    whole, not final, or something of it waits to be computed again.
    """
    hold_lead(connection)
    period = month_period(month, ZoneInfo(inventory.time_zone))
    if reasons := obstacles(connection, inventory, period, at_us):
        raise MonthRefusedError(f"{month} cannot be frozen. {' '.join(reasons)}")
    days = list(kept_days(connection, month))
    sha256 = digest(month, period.hours, inventory.time_zone, days)
    frozen = Frozen(month, period.hours, inventory.time_zone, at_us, actor, note, sha256)
    row = {
        "month": month, "first_hour": period.hours.start, "stop_hour": period.hours.stop,
        "time_zone": frozen.time_zone, "frozen_us": at_us, "actor": actor, "note": note,
        "sha256": sha256,
    }  # fmt: skip
    connection.execute(frozen_months.insert().values(row))
    names = (*_DAY_KEY, *FIGURES)
    copies = [{"month": month, **dict(zip(names, day, strict=True))} for day in days]
    if copies:
        connection.execute(frozen_days.insert(), copies)
    return frozen


def digest(month: str, hours: range, time_zone: str, days: Sequence[Day]) -> str:
    """SHA-256 over the month's head and its day totals: a line of JSON each, without spaces, the
    totals in order of their key."""
    found = hashlib.sha256()
    head = [DEFINITION, month, hours.start, hours.stop, time_zone, *_DAY_KEY, *FIGURES]
    for line in (head, *sorted(days)):
        found.update(msgspec.json.encode(list(line)) + b"\n")
    return found.hexdigest()


def _days(connection: Connection, query: Any) -> Iterator[Day]:
    """Rows without time are nobody's and say nothing."""
    states = slice(len(_DAY_KEY), len(_DAY_KEY) + len(STATES))
    for row in connection.execute(query):
        values = (*row[: len(_DAY_KEY)], *(int(value) for value in row[len(_DAY_KEY) :]))
        if any(values[states]):
            yield values


def kept_days(connection: Connection, month: str) -> Iterator[Day]:
    """A month's day totals as they are kept beside the ledger."""
    table = schema.day_totals.c
    query = select(*(table[name] for name in (*_DAY_KEY, *FIGURES)))
    return _days(connection, query.where(table.day.between(f"{month}-01", f"{month}-31")))


def copied_days(connection: Connection, month: str) -> Iterator[Day]:
    """A month's day totals as they were when it was frozen."""
    table = frozen_days.c
    query = select(*(table[name] for name in (*_DAY_KEY, *FIGURES)))
    return _days(connection, query.where(table.month == month))


def counted_days(connection: Connection, hours: range, zone: ZoneInfo) -> Iterator[Day]:
    """The day totals of some hours, added up from the ledger's rows."""
    table = schema.hours.c
    key = [table[name] for name in _DAY_KEY[1:]]
    sums = [func.sum(table[name]) for name in FIGURES]
    for day, within in days_of(hours, zone):
        there = table.hour.between(within.start, within.stop - 1)
        query = select(*key, *sums).where(there).group_by(*key)
        for row in connection.execute(query):
            values = (day, *row[: len(key)], *(int(value) for value in row[len(key) :]))
            if any(values[len(_DAY_KEY) : len(_DAY_KEY) + len(STATES)]):
                yield values


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of a frozen month: the digest by the ledger's rows as they are now, and where
    they, or the copy of the day totals, differ from what was signed."""

    frozen: Frozen
    sha256: str
    differences: Sequence[Mapping[str, Any]]
    """The first of them: `of` (ledger, copy), a day total's names, a figure, `frozen`, `now`."""

    @property
    def same(self) -> bool:
        """Whether the month is as it was frozen."""
        return self.sha256 == self.frozen.sha256 and not self.differences


def check(connection: Connection, month: str) -> Checked | None:
    """Adds a frozen month up anew from the ledger's rows; None where it is not frozen."""
    frozen = frozen_month(connection, month)
    if frozen is None:
        return None
    days = list(counted_days(connection, frozen.hours, ZoneInfo(frozen.time_zone)))
    return compared(frozen, list(copied_days(connection, month)), days)


def compared(frozen: Frozen, copied: Sequence[Day], days: Sequence[Day]) -> Checked:
    """What a month's copied day totals, and those added up anew, say of what was frozen."""
    signed, sha256 = (
        digest(frozen.month, frozen.hours, frozen.time_zone, some) for some in (copied, days)
    )
    if signed != frozen.sha256:
        # The copy itself was changed, so what it says of the ledger is worth nothing.
        changed = {"of": "copy", "figure": "sha256", "frozen": frozen.sha256, "now": signed}
        return Checked(frozen, sha256, [changed])
    return Checked(frozen, sha256, list(_differences(copied, days)))


def _differences(before: Sequence[Day], now: Sequence[Day]) -> Iterator[dict[str, Any]]:
    count = len(_DAY_KEY)
    was, there = ({day[:count]: day[count:] for day in days} for days in (before, now))
    nothing = (0,) * len(FIGURES)
    found = 0
    for key in sorted({*was, *there}):
        pairs = zip(FIGURES, was.get(key, nothing), there.get(key, nothing), strict=True)
        for figure, old, new in pairs:
            if old != new and found < _MOST_DIFFERENCES:
                found += 1
                named = dict(zip(_DAY_KEY, key, strict=True))
                yield {"of": "ledger", **named, "figure": figure, "frozen": old, "now": new}


def months_of(hours: range, zone: ZoneInfo) -> list[str]:
    """The months of which some of the hours are, in order."""
    if not hours:
        return []
    first, last = (
        dt.datetime.fromtimestamp(hour * 3600, zone).date() for hour in (hours[0], hours[-1])
    )
    count = 12 * (last.year - first.year) + last.month - first.month
    months = (12 * first.year + first.month - 1 + step for step in range(count + 1))
    return [f"{month // 12:04d}-{month % 12 + 1:02d}" for month in months]


def unfrozen(connection: Connection, zone: ZoneInfo, as_of_us: int) -> list[range]:
    """The hours, as far as the ledger has them, of every month that is over and not frozen."""
    ledger = ledger_hours(connection)
    taken = frozen_within(connection, ledger)
    found: list[range] = []
    for month in months_of(ledger, zone):
        hours = month_period(month, zone).hours
        open_ = not any(one.month == month for one in taken)
        if open_ and hours.stop * HOUR_US <= as_of_us:
            found.append(range(max(hours.start, ledger.start), hours.stop))
    return found


def days_left(connection: Connection, zone: ZoneInfo, as_of_us: int, minutes_days: float) -> float:
    """Days until the first minutes of a month that is over and not frozen are no longer kept;
    all the days that minutes are kept where there is no such month."""
    first = min((hours.start for hours in unfrozen(connection, zone, as_of_us)), default=None)
    if first is None:
        return minutes_days
    return minutes_days - (as_of_us - first * HOUR_US) / _DAY_US
