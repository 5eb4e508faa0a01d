"""What the books tell: rows of the ledger, sums of them, and allocations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, func, select

from collectors.contract.identity import parse_slot
from collectors.contract.inventory import Inventory
from collectors.contract.topics import Allocation
from pipeline.books import schema, versions
from pipeline.books.database import Database
from pipeline.books.periods import Period, Resolution, whole_days
from pipeline.books.progress import in_batches
from pipeline.books.rows import FIGURES, HOUR_US, KEY, STATES, RowKey
from pipeline.books.totals import day_of

T = TypeVar("T")
GROUPS = ("owner_kind", "tenant", "project", "job", "model", "node", "slot")
"""What usage may be grouped and filtered by.  Owner kind and origin always are groups:
unallocated time is no tenant's, and origins are never added up together."""
_DAILY = (
    (frozenset(("owner_kind", "tenant", "project", "model", "origin")), schema.day_totals),
    (frozenset(("owner_kind", "tenant", "project", "job", "model", "origin")), schema.day_jobs),
)
"""Tables of days that know some names, the smallest first."""
_ANSWER_S, _NOW_S = 60.0, 5.0
"""How long somebody who asks waits for books that say nothing."""
_Sums = dict[tuple[Any, ...], list[int]]
Filters = Mapping[str, Sequence[str]]
"""By a name of GROUPS the values of which one must be met; none given lets all through."""


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
    period: Period,
    *,
    by: Sequence[str] = ("tenant",),
    resolution: Resolution = "total",
    filters: Filters | None = None,
) -> list[dict[str, Any]]:
    """Sums of the ledger over a period.

    A row holds `owner_kind`, the names in `by`, `origin`, where asked for
    `hour_us`, `day` or `month` (of the zone), `gpu_us` (the time owned) and
    every figure.  Raises ValueError for a name that is not in GROUPS.
    """
    wanted = {name: values for name, values in (filters or {}).items() if values}
    wrong = [name for name in (*by, *wanted) if name not in GROUPS]
    if wrong:
        raise ValueError(f"usage is not kept by {wrong[0]!r}; write one of {', '.join(GROUPS)}")
    keys = list(dict.fromkeys(("owner_kind", *by, "origin")))
    asked = _Asked(connection, {}, keys, resolution, wanted, period.zone)
    needed = {*keys, *wanted}
    days = next((table for names, table in _DAILY if names >= needed), None)
    parts = [period.hours]
    if resolution != "hour" and days is not None:
        whole, parts = whole_days(period.hours, period.zone)
        asked.add_days(days, whole)
    for part in parts:
        asked.add_hours(part)
    return [_row(keys, key, figures, resolution) for key, figures in sorted(asked.sums.items())]


def _row(
    keys: Sequence[str], key: Sequence[Any], figures: Sequence[int], resolution: Resolution
) -> dict[str, Any]:
    row = dict(zip(FIGURES, figures, strict=True))
    when: dict[str, Any] = {}
    if resolution == "hour":
        when["hour_us"] = key[0] * HOUR_US
    elif resolution != "total":
        when[resolution] = key[0]
    names = dict(zip(keys, key[1:], strict=True))
    return {**when, **names, "gpu_us": sum(row[state] for state in STATES), **row}


@dataclass(frozen=True, slots=True)
class _Asked:
    """One question, and the sums so far."""

    connection: Connection
    sums: _Sums
    keys: Sequence[str]
    resolution: Resolution
    filters: Filters
    zone: ZoneInfo

    def add_days(self, table: Table, days: Sequence[str]) -> None:
        columns = [table.c.day] if self.resolution != "total" else []
        for batch in in_batches(days):
            for when, row in self._grouped(table, columns, table.c.day.in_(batch)):
                day = when[0] if when else ""
                self._add(day[:7] if self.resolution == "month" else day, row)

    def add_hours(self, hours: range) -> None:
        table = schema.hours
        columns = [table.c.hour] if self.resolution != "total" else []
        within = and_(table.c.hour >= hours.start, table.c.hour < hours.stop)
        for when, row in self._grouped(table, columns, within):
            self._add(self._named(when[0]) if when else "", row)

    def _named(self, hour: int) -> str | int:
        if self.resolution == "hour":
            return hour
        day = day_of(hour, self.zone)
        return day[:7] if self.resolution == "month" else day

    def _grouped(
        self, table: Table, when: Sequence[Any], where: ColumnElement[bool]
    ) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
        key = [*when, *(table.c[name] for name in self.keys)]
        sums = [func.sum(table.c[name]) for name in FIGURES]
        query = select(*key, *sums).where(where).group_by(*key)
        for name, values in self.filters.items():
            query = query.where(table.c[name].in_(values))
        for row in self.connection.execute(query):
            values = tuple(row)
            yield values[: len(when)], values[len(when) :]

    def _add(self, when: str | int, row: Sequence[Any]) -> None:
        count = len(self.keys)
        key, figures = (when, *row[:count]), row[count:]
        old = self.sums.get(key) or [0] * len(FIGURES)
        self.sums[key] = [before + int(value) for before, value in zip(old, figures, strict=True)]


def allocations_at(
    connection: Connection, at_us: int, *, known_us: int | None = None
) -> list[Allocation]:
    """The allocations that hold at a time, as known now or at another time."""
    found = versions.in_force(connection, at_us, at_us + 1, known_us=known_us)
    return [one.allocation for one in found]


class BooksReader:
    """The books for the API, which may be another process than the one that writes them."""

    def __init__(self, database: Database, inventory: Callable[[], Inventory]) -> None:
        """The database must be started; `inventory` says which days are the site's."""
        self._database = database
        self._inventory = inventory

    async def ask(self, work: Callable[[Connection, Inventory], T]) -> T:
        """Runs reading work on one snapshot, with the site as it is now.

        Raises what the work does, and BooksUnavailableError.
        """
        inventory = self._inventory()
        return await self._database.read(lambda one: work(one, inventory), within_s=_ANSWER_S)

    async def allocations(self, at_us: int) -> Sequence[Allocation]:
        """The allocations that hold at a time, in their last known version.

        Raises BooksUnavailableError, soon, since pages of the present wait for it.
        """
        read = self._database.read
        return await read(lambda one: allocations_at(one, at_us), within_s=_NOW_S)

    async def rows(
        self, hours: range, *, nodes: Sequence[str] | None = None, tenant: str | None = None
    ) -> dict[RowKey, dict[str, int]]:
        """The ledger's rows of some hours by key."""
        return await self._database.read(
            lambda one: read_rows(one, hours, nodes=nodes, tenant=tenant)
        )
