"""What the books tell: rows of the ledger, sums of them, and allocations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Select, Table, and_, func, select

from collectors.contract.identity import parse_slot
from collectors.contract.inventory import Inventory
from collectors.contract.topics import Allocation
from pipeline.books import schema, versions
from pipeline.books.database import Database
from pipeline.books.progress import in_batches
from pipeline.books.rows import FIGURES, HOUR_US, KEY, STATES, RowKey
from pipeline.books.totals import day_of

Resolution = Literal["total", "day", "hour"]
GROUPS = ("owner_kind", "tenant", "project", "job", "model", "node", "slot")
"""What usage may be grouped by.  Owner kind and origin always are: unallocated time is no
tenant's, and origins are never added up together."""
_DAILY = frozenset(("owner_kind", "tenant", "project", "model", "origin"))
_Sums = dict[tuple[Any, ...], list[int]]


def read_rows(
    connection: Connection,
    hours: range,
    *,
    nodes: Sequence[str] | None = None,
    tenant: str | None = None,
) -> dict[RowKey, dict[str, int]]:
    """The ledger's rows of some hours by key, each with its figures and `origin`."""
    table = schema.hours.c
    where = [table.hour >= hours.start, table.hour < hours.stop]
    if tenant is not None:
        where.append(table.tenant == tenant)
    names = (*KEY, "origin", *FIGURES)
    query = select(*(table[name] for name in names)).where(*where)
    if nodes is None:
        return _keyed(connection, query)
    rows: dict[RowKey, dict[str, int]] = {}
    for batch in in_batches(nodes):
        rows.update(_keyed(connection, query.where(table.node.in_(batch))))
    return rows


def _keyed(connection: Connection, query: Select[Any]) -> dict[RowKey, dict[str, int]]:
    packed: dict[str, int] = {}
    rows: dict[RowKey, dict[str, int]] = {}
    for row in connection.execute(query):
        values: Sequence[Any] = tuple(row)
        hour, node, slot, kind, tenant, project, job = values[: len(KEY)]
        if slot not in packed:
            packed[slot] = parse_slot(slot)
        figures: dict[str, int] = {}
        figures.update(zip(("origin", *FIGURES), values[len(KEY) :], strict=True))
        rows[hour, node, packed[slot], kind, tenant, project, job] = figures
    return rows


def usage(
    connection: Connection,
    from_us: int,
    to_us: int,
    *,
    by: Sequence[str] = ("tenant",),
    resolution: Resolution = "total",
    zone: ZoneInfo,
) -> list[dict[str, Any]]:
    """Sums of the ledger over the hours that [from_us, to_us) touches.

    A row holds `owner_kind`, the names in `by`, `origin`, where asked for
    `hour_us` or `day` (of the zone), `gpu_us` (the time owned) and every
    figure.  Raises ValueError for a name that is not in GROUPS.
    """
    wrong = [name for name in by if name not in GROUPS]
    if wrong:
        raise ValueError(f"usage is not kept by {wrong[0]!r}; write one of {', '.join(GROUPS)}")
    hours = range(from_us // HOUR_US, -(-to_us // HOUR_US))
    keys = list(dict.fromkeys(("owner_kind", *by, "origin")))
    sums: _Sums = {}
    if resolution != "hour" and _DAILY.issuperset(keys):
        head, days, tail = _whole_days(hours, zone)
        _add_days(connection, sums, days, keys, resolution)
        hours_left = [head, tail]
    else:
        hours_left = [hours]
    for part in hours_left:
        _add_hours(connection, sums, part, keys, resolution, zone)
    return [_row(keys, key, figures, resolution) for key, figures in sorted(sums.items())]


def _row(
    keys: Sequence[str], key: Sequence[Any], figures: Sequence[int], resolution: Resolution
) -> dict[str, Any]:
    row = dict(zip(FIGURES, figures, strict=True))
    when: dict[str, Any] = {}
    if resolution == "hour":
        when["hour_us"] = key[0] * HOUR_US
    elif resolution == "day":
        when["day"] = key[0]
    names = dict(zip(keys, key[1:], strict=True))
    return {**when, **names, "gpu_us": sum(row[state] for state in STATES), **row}


def _whole_days(hours: range, zone: ZoneInfo) -> tuple[range, list[str], range]:
    """The hours before the first whole day, the whole days, and the hours after the last."""
    starts = [hour for hour in (*hours, hours.stop) if day_of(hour - 1, zone) != day_of(hour, zone)]
    if len(starts) < 2:
        return hours, [], range(0)
    days = [day_of(hour, zone) for hour in starts[:-1]]
    return range(hours.start, starts[0]), days, range(starts[-1], hours.stop)


def _grouped(table: Table, keys: Sequence[Any]) -> Any:
    sums = [func.sum(table.c[name]) for name in FIGURES]
    return select(*keys, *sums).group_by(*keys)


def _add(sums: _Sums, key: tuple[Any, ...], figures: Sequence[Any]) -> None:
    old = sums.get(key) or [0] * len(FIGURES)
    sums[key] = [before + int(value) for before, value in zip(old, figures, strict=True)]


def _add_days(
    connection: Connection,
    sums: _Sums,
    days: Sequence[str],
    keys: Sequence[str],
    resolution: Resolution,
) -> None:
    table = schema.day_totals
    columns = [table.c.day, *(table.c[name] for name in keys)]
    for batch in in_batches(days):
        query = _grouped(table, columns).where(table.c.day.in_(batch))
        for day, *values in connection.execute(query):
            key = (day if resolution == "day" else "", *values[: len(keys)])
            _add(sums, key, values[len(keys) :])


def _add_hours(
    connection: Connection,
    sums: _Sums,
    hours: range,
    keys: Sequence[str],
    resolution: Resolution,
    zone: ZoneInfo,
) -> None:
    if not hours:
        return
    table = schema.hours
    columns = [table.c.hour, *(table.c[name] for name in keys)]
    if resolution == "total":
        columns = columns[1:]
    within = and_(table.c.hour >= hours.start, table.c.hour < hours.stop)
    for row in connection.execute(_grouped(table, columns).where(within)):
        values: list[Any] = list(row)
        when: Any = "" if resolution == "total" else values.pop(0)
        if resolution == "day":
            when = day_of(when, zone)
        _add(sums, (when, *values[: len(keys)]), values[len(keys) :])


def allocations_at(
    connection: Connection, at_us: int, *, known_us: int | None = None
) -> list[Allocation]:
    """The allocations that hold at a time, as known now or at another time."""
    where = and_(versions.known_at(known_us), versions.holding_between(at_us, at_us + 1))
    return [one.allocation for one in versions.select_versions(connection, where)]


class BooksReader:
    """The books for the API, which may be another process than the one that writes them."""

    def __init__(self, database: Database, inventory: Callable[[], Inventory]) -> None:
        """The database must be started; `inventory` says which days are the site's."""
        self._database = database
        self._inventory = inventory

    async def usage(
        self,
        from_us: int,
        to_us: int,
        *,
        by: Sequence[str] = ("tenant",),
        resolution: Resolution = "total",
    ) -> Sequence[Mapping[str, Any]]:
        """See `usage`.  Raises ValueError, BooksUnavailableError."""
        zone = ZoneInfo(self._inventory().time_zone)
        return await self._database.read(
            lambda one: usage(one, from_us, to_us, by=by, resolution=resolution, zone=zone)
        )

    async def allocations(self, at_us: int) -> Sequence[Allocation]:
        """The allocations that hold at a time, in their last known version."""
        return await self._database.read(lambda one: allocations_at(one, at_us))

    async def rows(
        self, hours: range, *, nodes: Sequence[str] | None = None, tenant: str | None = None
    ) -> dict[RowKey, dict[str, int]]:
        """The ledger's rows of some hours by key."""
        return await self._database.read(
            lambda one: read_rows(one, hours, nodes=nodes, tenant=tenant)
        )
