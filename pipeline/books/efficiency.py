"""What each job did with the GPU-time that it held, and which of it was idle for long.

A month of a large site has hundreds of thousands of jobs: the database sums
and sorts them, and only those asked for become rows here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Float,
    and_,
    case,
    cast,
    desc,
    func,
    nulls_last,
    select,
    tuple_,
    union_all,
)  # fmt: skip

from pipeline.books import schema
from pipeline.books.cells import GFLOP_PER_PFLOP_HOUR, MEASURES, origin_text
from pipeline.books.periods import Period, whole_days
from pipeline.books.progress import in_batches
from pipeline.books.rows import HOUR_US, STATES
from pipeline.books.usage import MJ_PER_KWH, efficiency
from pipeline.books.waterfall import quotient
from pipeline.waste import USUAL, Limits

DEFINITION = "efficiency/1"
Sort = Literal["gpu_hours", "idle_gpu_hours", "efficiency"]
FILTERS = ("tenant", "project", "job", "model")
_KEY = ("tenant", "project", "job", "origin")
_MINUTE_US = 60_000_000
_BETWEEN = "\n"
"""Stands in no model's name."""
_MOST_PARAMETERS = 100


@dataclass(frozen=True, slots=True)
class JobQuestion:
    """Which jobs are wanted, of which the first by `sort` first."""

    filters: Mapping[str, Sequence[str]]
    sort: Sort = "gpu_hours"
    only_waste: bool = False
    limit: int = 200
    offset: int = 0
    limits: Limits = USUAL


def job_table(
    connection: Connection, period: Period, question: JobQuestion
) -> tuple[int, list[dict[str, Any]]]:
    """How many jobs there are (`offset` where none is left), and a row per job and origin.

    `waste` is `idle` where the share of observed time without work and its
    length reach the limits, else None.
    """
    found = _summed(period, question).cte("jobs")
    query = select(found, func.count().over().label("total"))
    if question.only_waste:
        query = query.where(_is_idle(found, question.limits))
    query = query.order_by(*_order(found, question.sort))
    query = query.limit(question.limit).offset(question.offset)
    rows = [dict(row) for row in connection.execute(query).mappings()]
    # Beyond the end there is no row to say how many there are.
    total: int = rows[0]["total"] if rows else question.offset
    hours = _hours_seen(connection, period, rows)
    return total, [_row(row, hours, question.limits) for row in rows]


def _summed(period: Period, question: JobQuestion) -> Any:
    """Sums per job and origin: of whole days from what is kept per day, of others by the hour."""
    wanted = {name: values for name, values in question.filters.items() if values}
    whole, parts = whole_days(period.hours, period.zone)
    selects = [_of_hours(part, wanted) for part in parts]
    if whole:
        selects.append(_of_days(whole, wanted))
    joined = selects[0].subquery() if len(selects) == 1 else union_all(*selects).subquery()
    key = [joined.c[name] for name in _KEY]
    sums = [func.sum(joined.c[name]).label(name) for name in (*MEASURES, "nameplate")]
    models = func.aggregate_strings(joined.c.model, _BETWEEN).label("models")
    return select(*key, *sums, models).group_by(*key)


def _columns(table: Any, rate: Any) -> list[Any]:
    held = sum((table.c[name] for name in STATES[1:]), start=table.c[STATES[0]])
    # As a float: GFLOP/s × µs of a large job would not fit into 64 bits.
    nameplate = (cast(held, Float(53)) * rate).label("nameplate")
    names = (*_KEY, "model", *MEASURES)
    return [*(table.c[name] for name in names), nameplate]


def _filtered(query: Any, table: Any, wanted: Mapping[str, Sequence[str]]) -> Any:
    query = query.where(table.c.owner_kind == "tenant")
    for name, values in wanted.items():
        query = query.where(table.c[name].in_(values))
    return query


def _of_days(days: Sequence[str], wanted: Mapping[str, Sequence[str]]) -> Any:
    table = schema.day_jobs
    query: Any = select(*_columns(table, table.c.gflops_per_gpu))
    # Whole days of a period follow each other.
    return _filtered(query.where(table.c.day.between(days[0], days[-1])), table, wanted)


def _of_hours(hours: range, wanted: Mapping[str, Sequence[str]]) -> Any:
    table, placed = schema.hours, schema.node_hours
    both = and_(placed.c.hour == table.c.hour, placed.c.node == table.c.node)
    query: Any = select(*_columns(table, placed.c.gflops_per_gpu))
    query = query.select_from(table.join(placed, both))
    query = query.where(table.c.hour >= hours.start, table.c.hour < hours.stop)
    return _filtered(query, table, wanted)


def _is_idle(found: CTE, limits: Limits) -> ColumnElement[bool]:
    watched = found.c.active_us + found.c.idle_us
    long = watched >= limits.idle_minutes * _MINUTE_US
    return and_(long, found.c.idle_us * 1.0 >= watched * limits.idle_share)


def _order(found: CTE, sort: Sort) -> list[Any]:
    names = [found.c[name] for name in _KEY]
    if sort == "efficiency":
        # The worst first; of what was not measured nothing can be said.
        measured = case((found.c.gflop_hi > 0, found.c.gflop * 1.0 / found.c.nameplate))
        return [nulls_last(measured), *names]
    if sort == "idle_gpu_hours":
        return [desc(found.c.idle_us), *names]
    held = sum((found.c[name] for name in STATES[1:]), start=found.c[STATES[0]])
    return [desc(held), *names]


def _hours_seen(
    connection: Connection, period: Period, rows: Sequence[Mapping[str, Any]]
) -> dict[tuple[Any, ...], tuple[int, int]]:
    """The first and last hour of jobs within the period."""
    table = schema.job_hours.c
    key = [table.tenant, table.project, table.job]
    query = select(*key, func.min(table.hour), func.max(table.hour)).group_by(*key)
    query = query.where(table.hour >= period.hours.start, table.hour < period.hours.stop)
    found: dict[tuple[Any, ...], tuple[int, int]] = {}
    names = [tuple(row[name] for name in _KEY[:3]) for row in rows]
    for batch in in_batches(names, _MOST_PARAMETERS):
        for row in connection.execute(query.where(tuple_(*key).in_(batch))):
            tenant, project, job, first, last = tuple[Any, ...](row)
            found[tenant, project, job] = (first, last)
    return found


def _row(
    found: Mapping[str, Any], hours: Mapping[tuple[Any, ...], tuple[int, int]], limits: Limits
) -> dict[str, Any]:
    measures = {name: int(found[name]) for name in MEASURES}
    held, watched = sum(measures[name] for name in STATES), measures["active_us"]
    watched += measures["idle_us"]
    idle_share = quotient(measures["idle_us"], watched)
    is_long = watched >= limits.idle_minutes * _MINUTE_US
    idle = is_long and idle_share is not None and idle_share >= limits.idle_share
    seen = hours.get(tuple(found[name] for name in _KEY[:3]))
    return {
        **{name: found[name] for name in _KEY[:3]},
        "origin": origin_text(found["origin"]),
        "models": sorted(set(found["models"].split(_BETWEEN))),
        "first_hour_us": None if seen is None else seen[0] * HOUR_US,
        "last_hour_us": None if seen is None else seen[1] * HOUR_US,
        "gpu_us": held,
        **measures,
        "gpu_hours": held / HOUR_US,
        "idle_gpu_hours": measures["idle_us"] / HOUR_US,
        "activity": quotient(measures["active_us"], watched),
        "idle_share": idle_share,
        "pflop_hours": measures["gflop"] / GFLOP_PER_PFLOP_HOUR,
        "efficiency": efficiency(measures, round(found["nameplate"])),
        "kwh": measures["energy_mj"] / MJ_PER_KWH,
        "waste": "idle" if idle else None,
    }
