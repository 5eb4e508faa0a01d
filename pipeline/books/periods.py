"""Times that people name — a month, a day, from one moment to another — as hours of the ledger."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, and_, func, select

from pipeline.books import schema
from pipeline.books.frozen import Frozen, adjusted, frozen_within
from pipeline.books.rows import HOUR_US

Resolution = Literal["total", "month", "day", "hour"]
_MONTH = re.compile(r"(\d{4})-(\d{2})")


@dataclass(frozen=True, slots=True)
class Period:
    """Hours of the ledger, counted from 1970 UTC; `name` where they are a month or a day."""

    hours: range
    zone: ZoneInfo
    name: str | None = None

    @property
    def from_us(self) -> int:
        """The start, µs since 1970."""
        return self.hours.start * HOUR_US

    @property
    def to_us(self) -> int:
        """The end, µs since 1970."""
        return self.hours.stop * HOUR_US


def _first_hour(day: dt.date, zone: ZoneInfo) -> int:
    """The first hour that begins on a day; where midnight lies within an hour, the one after it."""
    midnight = dt.datetime.combine(day, dt.time(), zone)
    return -(-int(midnight.timestamp()) // 3600)


def month_period(text: str, zone: ZoneInfo) -> Period:
    """The hours of a month such as 2026-10.  Raises ValueError."""
    found = _MONTH.fullmatch(text)
    if found is None or not (1970 <= int(found[1]) < 9999 and 1 <= int(found[2]) <= 12):
        raise ValueError(f"month: {text!r} is none; write one like 2026-10")
    year, month = int(found[1]), int(found[2])
    after = dt.date(year + month // 12, month % 12 + 1, 1)
    return Period(_hours(dt.date(year, month, 1), after, zone), zone, text)


def day_period(text: str, zone: ZoneInfo) -> Period:
    """The hours of a day such as 2026-10-03.  Raises ValueError."""
    try:
        day = dt.date.fromisoformat(text)
        if not 1970 <= day.year < 9999:
            raise ValueError("too far away")
    except ValueError as error:
        raise ValueError(f"day: {text!r} is none; write one like 2026-10-03") from error
    return Period(_hours(day, day + dt.timedelta(days=1), zone), zone, day.isoformat())


def _hours(first: dt.date, after: dt.date, zone: ZoneInfo) -> range:
    return range(max(0, _first_hour(first, zone)), _first_hour(after, zone))


def between(from_us: int, to_us: int, zone: ZoneInfo) -> Period:
    """The hours that [from_us, to_us) touches."""
    return Period(range(from_us // HOUR_US, -(-to_us // HOUR_US)), zone)


def days_of(hours: range, zone: ZoneInfo) -> Iterator[tuple[str, range]]:
    """Each day (YYYY-MM-DD) with its hours among these; the first and the last may be partial."""
    hour = hours.start
    while hour < hours.stop:
        day = dt.datetime.fromtimestamp(hour * 3600, zone).date()
        stop = _first_hour(day + dt.timedelta(days=1), zone)
        yield day.isoformat(), range(hour, min(stop, hours.stop))
        hour = stop


def whole_days(hours: range, zone: ZoneInfo) -> tuple[list[str], list[range]]:
    """The days that lie whole within the hours, and the hours of those that do not."""
    whole: list[str] = []
    rest: list[range] = []
    for day, within in days_of(hours, zone):
        all_of_it = day_period(day, zone).hours
        if all_of_it == within:
            whole.append(day)
        else:
            rest.append(within)
    return whole, rest


def slices(period: Period, resolution: Resolution) -> dict[str | int, range]:
    """What `when` may be at a resolution, each with its hours: "" for the total, YYYY-MM,
    YYYY-MM-DD, or the hour."""
    if resolution == "total":
        return {"": period.hours}
    if resolution == "hour":
        return {hour: range(hour, hour + 1) for hour in period.hours}
    found: dict[str | int, range] = {}
    for day, hours in days_of(period.hours, period.zone):
        name = day if resolution == "day" else day[:7]
        found[name] = range(found[name].start if name in found else hours.start, hours.stop)
    return found


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the ledger has a period.

    `from_us` is where it begins within the period, `as_of_us` how far it
    reaches; both None where it has none of it.  `final`: all of it is there
    and for good, unless a correction comes.
    """

    from_us: int | None
    as_of_us: int | None
    final: bool
    frozen: Frozen | None = None
    """How it was frozen, where it is a month that is."""
    adjustments: int = 0
    """Rows of what has been learnt of it since."""

    def covered_us(self, hours: range) -> int:
        """How much of some hours the ledger has."""
        if self.from_us is None or self.as_of_us is None:
            return 0
        low = max(self.from_us, hours.start * HOUR_US)
        return max(0, min(self.as_of_us, hours.stop * HOUR_US) - low)


def standing(connection: Connection, period: Period) -> Standing:
    """Where the ledger stands in a period."""
    table = schema.node_hours.c
    within = and_(table.hour >= period.hours.start, table.hour < period.hours.stop)
    first, last = connection.execute(
        select(
            select(func.min(table.hour)).where(within).scalar_subquery(),
            select(func.max(table.hour)).where(within).scalar_subquery(),
        )
    ).one()
    if first is None:
        return Standing(None, None, final=False)
    reached = select(func.min(table.until_us)).where(table.hour == last)
    as_of_us: int = connection.execute(reached).scalar_one()
    is_open = select(table.hour).where(within, table.final.is_(False)).limit(1)
    waits = schema.pending.c.hour
    pending = select(waits).where(waits >= period.hours.start, waits < period.hours.stop).limit(1)
    unsettled = connection.execute(is_open).first() or connection.execute(pending).first()
    whole = as_of_us >= period.to_us
    frozen = next(
        (one for one in frozen_within(connection, period.hours) if one.hours == period.hours), None
    )
    since = 0 if frozen is None else adjusted(connection, frozen.month)
    return Standing(first * HOUR_US, as_of_us, whole and unsettled is None, frozen, since)
