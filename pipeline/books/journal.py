"""Hours into the ledger, together with their day totals.

Each function works within the caller's transaction and may be repeated
without harm.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import Connection, Table, and_, delete, func, select

from collectors.contract.inventory import Inventory
from pipeline.books import schema
from pipeline.books.progress import in_batches, insert_into, read_meta, write_meta
from pipeline.books.rows import FIGURES, HOUR_US, I64, STATES, LedgerRows

_ZONE = "time_zone"
_TOTAL_KEY = ("hour", "owner_kind", "tenant", "project", "model", "origin")
_TotalKey = tuple[int, str, str, str, str, int]


@dataclass(frozen=True, slots=True)
class HourStamp:
    """What is said of every node-hour that a replacement writes."""

    until_us: int
    """Rows of an hour that goes on are computed up to here."""
    final_before_us: int
    """Hours that end at or before this are final."""
    computed_us: int


class Models:
    """The GPU model of a node in an hour: that of the entry which holds last in it."""

    def __init__(self, inventory: Inventory) -> None:
        self._entries: dict[str, list[tuple[int, int | None, str]]] = defaultdict(list)
        for entry in sorted(inventory.nodes, key=lambda one: one.from_us):
            self._entries[entry.name].append((entry.from_us, entry.to_us, entry.model))

    def at(self, node: str, hour: int) -> str:
        """The model, empty where the node is not installed in the hour."""
        low, high = hour * HOUR_US, (hour + 1) * HOUR_US
        found = ""
        for from_us, to_us, model in self._entries.get(node, ()):
            if from_us < high and (to_us is None or to_us > low):
                found = model
        return found


def replace_hours(
    connection: Connection,
    rows: LedgerRows,
    hours: range,
    stamp: HourStamp,
    models: Models,
    zone: ZoneInfo,
) -> None:
    """Puts the rows in place of all that the ledger has of these hours of `rows.nodes`.

    Day totals follow by the difference, and what was pending of these
    node-hours is done.
    """
    change = defaultdict[_TotalKey, I64](lambda: np.zeros(len(FIGURES), np.int64))
    model = [[models.at(node, hour) for hour in hours] for node in rows.nodes]
    place = hours.start
    row_models = [
        model[int(node)][int(hour) - place]
        for node, hour in zip(rows.node.tolist(), rows.hour.tolist(), strict=True)
    ]
    for nodes in in_batches(rows.nodes):
        for key, figures in _sums(connection, hours, nodes):
            change[key] -= figures
        for table in (schema.hours, schema.node_hours, schema.pending):
            connection.execute(delete(table).where(_of(table, hours, nodes)))
    for key, figures in _new_sums(rows, row_models):
        change[key] += figures
    if len(rows):
        _insert_hours(connection, rows, row_models)
    stamps = [_stamped(hour, node, stamp) for hour in hours for node in rows.nodes]
    connection.execute(schema.node_hours.insert(), stamps)
    _add_to_days(connection, change, zone)


def _of(table: Table, hours: range, nodes: Sequence[str]) -> Any:
    hour = table.c.hour
    return and_(hour >= hours.start, hour < hours.stop, table.c.node.in_(nodes))


def _stamped(hour: int, node: str, stamp: HourStamp) -> dict[str, Any]:
    end_us = (hour + 1) * HOUR_US
    return {
        "hour": hour,
        "node": node,
        "until_us": max(hour * HOUR_US, min(end_us, stamp.until_us)),
        "final": end_us <= min(stamp.final_before_us, stamp.until_us),
        "computed_us": stamp.computed_us,
    }


_HOUR_COLUMNS = (
    "hour", "node", "slot", "owner_kind", "tenant", "project", "job", "model", "origin", *FIGURES,
)  # fmt: skip


def _insert_hours(connection: Connection, rows: LedgerRows, models: Sequence[str]) -> None:
    """Tuples straight to the driver: a month of a large site is millions of rows, and making a
    dictionary of each costs three times the insert."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    names, marks = ", ".join(_HOUR_COLUMNS), ", ".join([mark] * len(_HOUR_COLUMNS))
    # Names and marks are this module's own; every value is a parameter.
    statement = f"INSERT INTO {schema.hours.name} ({names}) VALUES ({marks})"  # noqa: S608
    connection.exec_driver_sql(statement, _hour_rows(rows, models))


def _hour_rows(rows: LedgerRows, models: Sequence[str]) -> list[tuple[Any, ...]]:
    owners: list[int] = rows.owner.tolist()
    by_owner = [[one[part] for one in rows.owners] for part in range(4)]
    columns: tuple[Sequence[Any], ...] = (
        rows.hour.tolist(),
        [rows.nodes[node] for node in rows.node.tolist()],
        rows.slot_texts(),
        *([names[owner] for owner in owners] for names in by_owner),
        models,
        rows.origin.tolist(),
        *(rows.figures[name].tolist() for name in FIGURES),
    )
    return list(zip(*columns, strict=True))


def _sums(
    connection: Connection, hours: range, nodes: Sequence[str]
) -> Iterator[tuple[_TotalKey, I64]]:
    key = [schema.hours.c[name] for name in _TOTAL_KEY]
    sums = [func.sum(schema.hours.c[name]) for name in FIGURES]
    query = select(*key, *sums).where(_of(schema.hours, hours, nodes)).group_by(*key)
    for row in connection.execute(query):
        values = [int(value) for value in row[len(key) :]]
        yield _total_key(row), np.array(values, np.int64)


def _total_key(row: Sequence[Any]) -> _TotalKey:
    hour, kind, tenant, project, model, origin = row[: len(_TOTAL_KEY)]
    return hour, kind, tenant, project, model, origin


def _new_sums(rows: LedgerRows, models: Sequence[str]) -> Iterator[tuple[_TotalKey, I64]]:
    keys: dict[_TotalKey, int] = {}
    group = np.zeros(len(rows), np.intp)
    columns = zip(
        rows.hour.tolist(), rows.owner.tolist(), models, rows.origin.tolist(), strict=True
    )
    for index, (hour, owner, model, origin) in enumerate(columns):
        kind, tenant, project, _ = rows.owners[int(owner)]
        group[index] = keys.setdefault((hour, kind, tenant, project, model, origin), len(keys))
    sums = np.zeros((len(FIGURES), len(keys)), np.int64)
    for place, name in enumerate(FIGURES):
        np.add.at(sums[place], group, rows.figures[name])
    for key, index in keys.items():
        yield key, sums[:, index]


def day_of(hour: int, zone: ZoneInfo) -> str:
    """The day (YYYY-MM-DD in the site's time zone) in which an hour begins."""
    return dt.datetime.fromtimestamp(hour * 3600, zone).date().isoformat()


def _add_to_days(connection: Connection, change: Mapping[_TotalKey, I64], zone: ZoneInfo) -> None:
    by_day = defaultdict[tuple[Any, ...], I64](lambda: np.zeros(len(FIGURES), np.int64))
    days = {hour: day_of(hour, zone) for hour in {key[0] for key in change}}
    for (hour, *rest), figures in change.items():
        by_day[days[hour], *rest] += figures
    table = schema.day_totals
    names = ("day", *_TOTAL_KEY[1:])
    added = [
        {**dict(zip(names, key, strict=True)), **dict(zip(FIGURES, figures.tolist(), strict=True))}
        for key, figures in by_day.items()
        if figures.any()
    ]
    if not added:
        return
    statement = insert_into(connection, table)
    values = {name: table.c[name] + statement.excluded[name] for name in FIGURES}
    statement = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=values)
    connection.execute(statement, added)
    nobody = and_(table.c.day.in_(set(days.values())), *(table.c[name] == 0 for name in STATES))
    connection.execute(delete(table).where(nobody))


def rebuild_days(connection: Connection, zone: ZoneInfo) -> None:
    """Makes all day totals anew from the hours, as when the site's time zone was corrected."""
    connection.execute(delete(schema.day_totals))
    hours = schema.hours.c
    key = [hours[name] for name in _TOTAL_KEY]
    query = select(*key, *(func.sum(hours[name]) for name in FIGURES)).group_by(*key)
    change: dict[_TotalKey, I64] = {}
    for row in connection.execute(query):
        values = [int(value) for value in row[len(key) :]]
        change[_total_key(row)] = np.array(values, np.int64)
    _add_to_days(connection, change, zone)


def keep_zone(connection: Connection, name: str) -> None:
    """Sees to it that day totals are by this time zone."""
    zone = ZoneInfo(name)
    if read_meta(connection, _ZONE) != name:
        rebuild_days(connection, zone)
        write_meta(connection, _ZONE, name)
