"""The ledger's sums by place, nameplate and owner: what waterfalls and tables are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table, and_, func, select

from collectors.contract.record import Origin
from pipeline.books import schema, totals
from pipeline.books.periods import Period, Resolution, whole_days
from pipeline.books.progress import in_batches
from pipeline.books.rows import STATES
from pipeline.books.totals import day_of

MEASURES = (*STATES, "energy_mj", "gflop", "gflop_lo", "gflop_hi", "gflop_estimated")
DIMENSIONS = ("hall", "model", "gflops_per_gpu", "owner_kind", "tenant", "origin")
GFLOP_PER_PFLOP_HOUR = 3_600_000_000
"""1 PFLOP/s for an hour, in GFLOP."""
_NONE = 0
_FIRST_STATE, _OTHERS = slice(0, len(STATES)), slice(len(STATES), None)


@dataclass(frozen=True, slots=True)
class Cell:
    """One sum; `us` by STATES, `when` as in `periods.slices`."""

    when: str | int
    hall: str
    model: str
    gflops_per_gpu: int
    owner_kind: str
    tenant: str
    origin: int
    us: tuple[int, ...]
    measures: Mapping[str, int] = field(default_factory=dict[str, int])
    """The others of MEASURES."""


def read_cells(
    connection: Connection, period: Period, resolution: Resolution, *, tenants: bool
) -> list[Cell]:
    """All sums of a period; without `tenants` those of tenants are together, `tenant` empty.

    Time without any point (origin 0) counts to the only other origin that
    there is, and stays alone where there are several.
    """
    sums: dict[tuple[Any, ...], list[int]] = {}
    if resolution == "hour":
        _read_hours(connection, sums, period, resolution, [period.hours], tenants=tenants)
    else:
        days, rest = whole_days(period.hours, period.zone)
        names = [name for name in DIMENSIONS if tenants or name != "tenant"]
        for batch in in_batches(days):
            where = schema.day_places.c.day.in_(batch)
            key = names if resolution == "total" else ["day", *names]
            for row in _grouped(connection, schema.day_places, key, where):
                day, values = ("", row) if resolution == "total" else (row[0], row[1:])
                _add(sums, _when(day, resolution), names, values)
        _read_hours(connection, sums, period, resolution, rest, tenants=tenants)
    return _cells(sums)


def _when(day: str, resolution: Resolution) -> str:
    return {"total": "", "month": day[:7]}.get(resolution, day)


def _grouped(
    connection: Connection, table: Table, names: Sequence[str], where: Any
) -> Iterable[Sequence[Any]]:
    key = [table.c[name] for name in names]
    sums = [func.sum(table.c[name]) for name in MEASURES]
    for row in connection.execute(select(*key, *sums).where(where).group_by(*key)):
        yield tuple(row)


def _add(
    sums: dict[tuple[Any, ...], list[int]],
    when: str | int,
    names: Sequence[str],
    values: Sequence[Any],
) -> None:
    named = dict(zip(names, values, strict=False))
    key = (when, *(named.get(name, "") for name in DIMENSIONS))
    figures = values[len(names) :]
    old = sums.get(key) or [0] * len(MEASURES)
    sums[key] = [before + int(value) for before, value in zip(old, figures, strict=True)]


def _read_hours(
    connection: Connection,
    sums: dict[tuple[Any, ...], list[int]],
    period: Period,
    resolution: Resolution,
    parts: Iterable[range],
    *,
    tenants: bool,
) -> None:
    for hours in parts:
        rows = _hours_by_tenant if tenants else _hours_by_place
        for hour, names, values in rows(connection, hours):
            when = hour
            if resolution != "hour":
                when = _when(day_of(hour, period.zone), resolution)
            _add(sums, when, names, values)


def _hours_by_place(connection: Connection, hours: range) -> Iterable[tuple[int, Any, Any]]:
    table, names = schema.hour_places, [name for name in DIMENSIONS if name != "tenant"]
    where = and_(table.c.hour >= hours.start, table.c.hour < hours.stop)
    for hour, *values in _grouped(connection, table, ["hour", *names], where):
        yield hour, names, values


def _hours_by_tenant(connection: Connection, hours: range) -> Iterable[tuple[int, Any, Any]]:
    hour = schema.hours.c.hour
    where = and_(hour >= hours.start, hour < hours.stop)
    names = ("hour", *DIMENSIONS)
    for (at, *named), figures in totals.grouped(connection, where, names, MEASURES):
        yield at, DIMENSIONS, [*named, *figures.tolist()]


def _cells(sums: Mapping[tuple[Any, ...], Sequence[int]]) -> list[Cell]:
    origins = {key[-1] for key in sums} - {_NONE}
    alone = next(iter(origins)) if len(origins) == 1 else _NONE
    return [
        Cell(
            when, hall, model, rate, kind, tenant, origin or alone, tuple(figures[_FIRST_STATE]),
            dict(zip(MEASURES[_OTHERS], figures[_OTHERS], strict=True)),
        )
        for (when, hall, model, rate, kind, tenant, origin), figures in sums.items()
    ]  # fmt: skip


def origin_text(origin: int) -> str:
    """How an origin is written; `none` where nothing was seen."""
    return Origin(origin).name.lower() if origin else "none"
