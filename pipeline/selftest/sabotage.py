"""Damage to what was stored, to show that the self-test would notice; and what must not matter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
from sqlalchemy import Connection, update

from collectors.contract.catalogue import COUNTER_ABSENT
from pipeline.books import schema
from pipeline.books.database import Database
from pipeline.series.columns import select_parts
from pipeline.series.port import MinuteParts, SeriesStore, WriteBatch

BEFORE_BOOKS = ("drop", "shift", "alter", "twice")
AFTER_BOOKS = ("swap-tenant",)
KINDS = (*BEFORE_BOOKS, *AFTER_BOOKS)
"""`twice` stores a part again and must not be noticed; the others must."""


async def damage_minutes(kind: str, series: SeriesStore, minutes: range, node: str) -> None:
    """Does `kind` to the parts of one slot and minute in the middle of the time tested."""
    minute = minutes[len(minutes) // 2]
    parts = await series.minutes(minute, minute + 1, nodes=[node])
    slots = sorted(set(parts.slot.tolist()))
    parts = select_parts(parts, parts.slot == np.uint64(slots[0]))
    await _DAMAGE[kind](series, parts, slots[-1])


async def _drop(series: SeriesStore, parts: MinuteParts, _: int) -> None:
    node, slot, minute = _place(parts)
    await series.delete_minutes(minute, minute + 1, node=node, slot=slot)


async def _shift(series: SeriesStore, parts: MinuteParts, other: int) -> None:
    await _drop(series, parts, other)
    moved = replace(
        parts, slot=np.full(len(parts), other, np.uint64), writer=parts.writer + np.uint64(1)
    )
    await series.write(WriteBatch(minutes=moved))


async def _alter(series: SeriesStore, parts: MinuteParts, _: int) -> None:
    span = parts.counters["energy_mj"]
    last = np.where(span.last == COUNTER_ABSENT, span.last, span.last + np.uint64(1_000))
    counters = {**parts.counters, "energy_mj": replace(span, last=last)}
    await series.write(WriteBatch(minutes=replace(parts, counters=counters)))


async def _twice(series: SeriesStore, parts: MinuteParts, _: int) -> None:
    await series.write(WriteBatch(minutes=parts))
    await series.write(WriteBatch(minutes=replace(parts, writer=parts.writer + np.uint64(1))))


_DAMAGE: dict[str, Callable[[SeriesStore, MinuteParts, int], Awaitable[None]]] = {
    "drop": _drop,
    "shift": _shift,
    "alter": _alter,
    "twice": _twice,
}


def _place(parts: MinuteParts) -> tuple[str, int, int]:
    return parts.nodes[int(parts.node[0])], int(parts.slot[0]), int(parts.minute[0])


async def swap_tenant(database: Database) -> None:
    """Gives one hour of one tenant's slot to another."""

    def swap(connection: Connection) -> None:
        table = schema.hours
        owned = table.select().where(table.c.owner_kind == "tenant").limit(1)
        row = connection.execute(owned).mappings().one()
        keys = ("hour", "node", "slot", "owner_kind", "tenant", "project", "job")
        connection.execute(
            update(table)
            .where(*(table.c[key] == row[key] for key in keys))
            .values(tenant="swapped")
        )

    await database.write(swap)
