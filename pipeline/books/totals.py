"""Sums that are kept beside the ledger, so that a month is read from thousands of rows and not
from millions.

Each kept table is a projection of one fine sum per hour; they change by the
same differences, in the transaction that changes the hours, and so are always
what the hours add up to.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, select

from pipeline.books import schema
from pipeline.books.rows import FIGURES, I64, STATES

FINE = (
    "hour", "hall", "gflops_per_gpu", "owner_kind", "tenant", "project", "job", "model", "origin",
)  # fmt: skip
"""What the finest sums are kept apart by."""
FineKey = tuple[int, str, int, str, str, str, str, str, int]
"""Values of FINE."""
Change = Mapping[FineKey, I64]
"""What is added to the figures (in order of FIGURES) of each key."""
Summed = tuple[FineKey, I64]
_AT_ONCE = 24
_TENANT = FINE.index("tenant")


def day_of(hour: int, zone: ZoneInfo) -> str:
    """The day (YYYY-MM-DD in the site's time zone) in which an hour begins."""
    return dt.datetime.fromtimestamp(hour * 3600, zone).date().isoformat()


def _every(_: FineKey) -> bool:
    return True


def _of_tenants(key: FineKey) -> bool:
    return bool(key[_TENANT])


@dataclass(frozen=True, slots=True)
class _Kept:
    """A kept table: which fine sums are in it."""

    table: Table
    takes: Callable[[FineKey], bool] = _every

    @property
    def key(self) -> list[str]:
        return [column.name for column in self.table.primary_key]

    @property
    def figures(self) -> list[str]:
        return [name for name in FIGURES if name in self.table.c]


KEPT = (
    _Kept(schema.day_totals),
    _Kept(schema.day_places),
    _Kept(schema.hour_places),
    _Kept(schema.day_jobs),
    _Kept(schema.job_hours, _of_tenants),
)


def no_change() -> defaultdict[FineKey, I64]:
    """A change to be filled."""
    return defaultdict(lambda: np.zeros(len(FIGURES), np.int64))


def sums_where(connection: Connection, where: ColumnElement[bool]) -> Iterator[Summed]:
    """The fine sums of the ledger's rows for which `where` holds."""
    for key, figures in grouped(connection, where, FINE, FIGURES):
        hour, hall, rate, kind, tenant, project, job, model, origin = key
        yield (hour, hall, rate, kind, tenant, project, job, model, origin), figures


def grouped(
    connection: Connection,
    where: ColumnElement[bool],
    names: Sequence[str],
    figures: Sequence[str],
) -> Iterator[tuple[tuple[Any, ...], I64]]:
    """Sums of some figures of the ledger's rows, by some names of FINE."""
    hours, placed = schema.hours, schema.node_hours
    key = [placed.c[name] if name not in hours.c else hours.c[name] for name in names]
    joined = hours.join(placed, and_(placed.c.hour == hours.c.hour, placed.c.node == hours.c.node))
    sums = [func.sum(hours.c[name]) for name in figures]
    query = select(*key, *sums).select_from(joined).where(where).group_by(*key)
    for row in connection.execute(query):
        values = tuple(row)
        summed = np.array([int(value) for value in values[len(key) :]], np.int64)
        yield values[: len(key)], summed


def apply(connection: Connection, change: Change, zone: ZoneInfo) -> None:
    """Adds a change to every kept table."""
    days = {hour: day_of(hour, zone) for hour in {key[0] for key in change}}
    for kept in KEPT:
        _add(connection, kept, change, days)


def _add(connection: Connection, kept: _Kept, change: Change, days: Mapping[int, str]) -> None:
    names, figures = kept.key, kept.figures
    places = [FINE.index(name) if name in FINE else None for name in names]
    sums: dict[tuple[Any, ...], I64] = {}
    for key, added in change.items():
        if not kept.takes(key):
            continue
        coarse = tuple([days[key[0]] if at is None else key[at] for at in places])
        known = sums.get(coarse)
        sums[coarse] = added if known is None else known + added
    columns = [FIGURES.index(name) for name in figures]
    keys = [key for key, one in sums.items() if one.any()]
    if not keys:
        return
    values = np.stack([sums[key] for key in keys])[:, columns]
    rows = [(*key, *row) for key, row in zip(keys, values.tolist(), strict=True)]
    connection.exec_driver_sql(_upsert(connection, kept), rows)
    if (values < 0).any():
        # Where something was taken away, nothing may be left of an owner.
        table = kept.table
        when = table.c.day if "day" in table.c else table.c.hour
        nobody = and_(*(table.c[name] == 0 for name in STATES))
        touched = {key[names.index(when.name)] for key in keys}
        connection.execute(delete(table).where(when.in_(touched), nobody))


def _upsert(connection: Connection, kept: _Kept) -> str:
    """In the driver's own words: rows as tuples cost a third of what they cost as dictionaries."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    name, columns = kept.table.name, [*kept.key, *kept.figures]
    marks = ", ".join([mark] * len(columns))
    added = ", ".join(f"{one} = {name}.{one} + excluded.{one}" for one in kept.figures)
    # All names are the schema's own; every value is a parameter.
    return (
        f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608
        f" ON CONFLICT ({', '.join(kept.key)}) DO UPDATE SET {added}"
    )


def rebuild(connection: Connection, zone: ZoneInfo) -> None:
    """Makes all kept tables anew from the hours."""
    for kept in KEPT:
        connection.execute(delete(kept.table))
    hour = schema.hours.c.hour
    first, last = connection.execute(select(func.min(hour), func.max(hour))).one()
    if first is None:
        return
    for start in range(first, last + 1, _AT_ONCE):
        where = and_(hour >= start, hour < start + _AT_ONCE)
        apply(connection, dict(sums_where(connection, where)), zone)
