"""Hours into the ledger, together with the sums that are kept of them.

Each function works within the caller's transaction and may be repeated
without harm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import Connection, Table, and_, delete, update

from collectors.contract.inventory import Inventory
from pipeline.books import schema, totals
from pipeline.books.frozen import keep_out, stretches
from pipeline.books.progress import in_batches, read_meta, write_meta
from pipeline.books.rows import FIGURES, HOUR_US, LedgerRows

_ZONE = "time_zone"
_TOTALS, _TOTALS_NOW = "totals", "2"
"""Which sums are kept; books of an earlier version get theirs at the next start."""


@dataclass(frozen=True, slots=True)
class HourStamp:
    """What is said of every node-hour that a replacement writes."""

    until_us: int
    """Rows of an hour that goes on are computed up to here."""
    final_before_us: int
    """Hours that end at or before this are final."""
    computed_us: int


class Place(NamedTuple):
    """Where a node stands, and what each of its GPUs counts in the nameplate."""

    model: str = ""
    hall: str = ""
    gflops_per_gpu: int = 0
    """GFLOP/s."""


class Models:
    """The GPU model and place of a node in an hour: that of the entry which holds last in it."""

    def __init__(self, inventory: Inventory) -> None:
        self._entries: dict[str, list[tuple[int, int | None, Place]]] = defaultdict(list)
        for entry in sorted(inventory.nodes, key=lambda one: one.from_us):
            place = Place(entry.model, entry.hall, round(entry.pflops_per_gpu * 1e6))
            self._entries[entry.name].append((entry.from_us, entry.to_us, place))

    def place(self, node: str, hour: int) -> Place:
        """The place, an empty one where the node is not installed in the hour."""
        low, high = hour * HOUR_US, (hour + 1) * HOUR_US
        found = Place()
        for from_us, to_us, place in self._entries.get(node, ()):
            if from_us < high and (to_us is None or to_us > low):
                found = place
        return found

    def at(self, node: str, hour: int) -> str:
        """The model, empty where the node is not installed in the hour."""
        return self.place(node, hour).model


def replace_hours(
    connection: Connection,
    rows: LedgerRows,
    hours: range,
    stamp: HourStamp,
    models: Models,
    zone: ZoneInfo,
) -> None:
    """Puts the rows in place of all that the ledger has of these hours of `rows.nodes`.

    The sums that are kept follow by the difference, and what was pending of
    these node-hours is done.  Hours of frozen months stay as they are: what
    would be another is noted as adjustments (`pipeline.books.frozen`).
    """
    for part, frozen in stretches(connection, hours):
        some = rows if part == hours else rows.within(part)
        if frozen is None:
            _replace(connection, some, part, stamp, models, zone)
            continue
        named = [
            models.at(some.nodes[int(node)], int(hour))
            for node, hour in zip(some.node.tolist(), some.hour.tolist(), strict=True)
        ]
        keep_out(connection, frozen, some, named, part, stamp.computed_us)


def _replace(
    connection: Connection,
    rows: LedgerRows,
    hours: range,
    stamp: HourStamp,
    models: Models,
    zone: ZoneInfo,
) -> None:
    change = totals.no_change()
    places = [[models.place(node, hour) for hour in hours] for node in rows.nodes]
    row_places = [
        places[int(node)][int(hour) - hours.start]
        for node, hour in zip(rows.node.tolist(), rows.hour.tolist(), strict=True)
    ]
    for nodes in in_batches(rows.nodes):
        for key, figures in totals.sums_where(connection, _of(schema.hours, hours, nodes)):
            change[key] -= figures
        for table in (schema.hours, schema.node_hours, schema.pending):
            connection.execute(delete(table).where(_of(table, hours, nodes)))
    for key, figures in _new_sums(rows, row_places):
        change[key] += figures
    if len(rows):
        _insert_hours(connection, rows, [place.model for place in row_places])
    stamps = [
        _stamped(hour, node, stamp, place)
        for node, there in zip(rows.nodes, places, strict=True)
        for hour, place in zip(hours, there, strict=True)
        # Where a node is not installed there is no hour to be completed.
        if place != Place()
    ]
    if stamps:
        connection.execute(schema.node_hours.insert(), stamps)
    totals.apply(connection, change, zone)


def _of(table: Table, hours: range, nodes: Sequence[str]) -> Any:
    hour = table.c.hour
    return and_(hour >= hours.start, hour < hours.stop, table.c.node.in_(nodes))


def _stamped(hour: int, node: str, stamp: HourStamp, place: Place) -> dict[str, Any]:
    end_us = (hour + 1) * HOUR_US
    return {
        "hour": hour,
        "node": node,
        "until_us": max(hour * HOUR_US, min(end_us, stamp.until_us)),
        "final": end_us <= min(stamp.final_before_us, stamp.until_us),
        "computed_us": stamp.computed_us,
        "hall": place.hall,
        "gflops_per_gpu": place.gflops_per_gpu,
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


def _new_sums(rows: LedgerRows, places: Sequence[Place]) -> Iterator[totals.Summed]:
    keys: dict[totals.FineKey, int] = {}
    group = np.zeros(len(rows), np.intp)
    columns = zip(
        rows.hour.tolist(), rows.owner.tolist(), places, rows.origin.tolist(), strict=True
    )
    for index, (hour, owner, place, origin) in enumerate(columns):
        kind, tenant, project, job = rows.owners[int(owner)]
        model, hall, rate = place
        key = (hour, hall, rate, kind, tenant, project, job, model, origin)
        group[index] = keys.setdefault(key, len(keys))
    sums = np.zeros((len(FIGURES), len(keys)), np.int64)
    for place, name in enumerate(FIGURES):
        np.add.at(sums[place], group, rows.figures[name])
    for key, index in keys.items():
        yield key, sums[:, index]


def keep_totals(connection: Connection, inventory: Inventory) -> None:
    """Sees to it that the kept sums are there, by the site's time zone and places."""
    zone, kept = read_meta(connection, _ZONE), read_meta(connection, _TOTALS)
    if (zone, kept) == (inventory.time_zone, _TOTALS_NOW):
        return
    if kept != _TOTALS_NOW:
        _place_hours(connection, inventory)
    totals.rebuild(connection, ZoneInfo(inventory.time_zone))
    write_meta(connection, _ZONE, inventory.time_zone)
    write_meta(connection, _TOTALS, _TOTALS_NOW)


def kept_zone(connection: Connection) -> str | None:
    """By which time zone's days the sums are kept; None before any are."""
    return read_meta(connection, _ZONE)


def _place_hours(connection: Connection, inventory: Inventory) -> None:
    """Tells the hours of an earlier version where their nodes stood: entry after entry, so that
    the one which holds last in an hour has it."""
    table = schema.node_hours
    for entry in sorted(inventory.nodes, key=lambda one: one.from_us):
        first = entry.from_us // HOUR_US
        last = None if entry.to_us is None else (entry.to_us - 1) // HOUR_US
        within = [table.c.node == entry.name, table.c.hour >= first]
        if last is not None:
            within.append(table.c.hour <= last)
        rate = round(entry.pflops_per_gpu * 1e6)
        placed = update(table).where(*within).values(hall=entry.hall, gflops_per_gpu=rate)
        connection.execute(placed)
