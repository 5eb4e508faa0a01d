"""What there is when all is quiet again: the ledger as the roles left it, and the live frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from chaos_ledger import Ledger, read_ledger
from sqlalchemy import Connection, func, select

from collectors.contract.bus import Message
from collectors.contract.inventory import Inventory
from collectors.contract.topics import ALLOC, FLUSHED, GPU, LIVE
from collectors.kit.clock import SystemClock
from pipeline.books import progress, schema
from pipeline.books.database import Database
from pipeline.books.rows import HOUR_US
from pipeline.bus import open_bus
from pipeline.commands.wiring import install
from pipeline.settings import Settings

_STUCK_S = 120.0
"""Without anything done by the roles; how long they take in all says something of the machine."""
_LAG_US = 10_000_000
_AGAIN = 50


@dataclass(frozen=True, slots=True)
class Left:
    """The ledger as it was left, and the hour of it that goes on."""

    ledger: Ledger
    hour: int
    ends: Mapping[tuple[str, int], int]
    """By topic and partition the offset after the last record."""


async def ledger_as_left(settings: Settings, said: Callable[[], Mapping[str, str]]) -> Left:
    """Once the roles that run have taken in all there is.  Raises AssertionError with what they
    `said` where they do not."""
    ends = await ends_of(settings, [GPU, ALLOC, FLUSHED])
    database, clock = Database(settings.books), SystemClock()
    before, since_s = list[Any](), time.monotonic()
    try:
        while True:
            behind, hour = await database.read(partial(_behind, ends=ends))
            if not behind:
                return Left(await read_ledger(database), hour, ends)
            if behind != before:
                before, since_s = behind, time.monotonic()
            assert time.monotonic() < since_s + _STUCK_S, (behind, said())
            await clock.sleep(0.5)
            # A flush announces itself, so the end of that topic moves once more.
            ends = {**ends, **await ends_of(settings, [FLUSHED])}
    finally:
        await database.close()


async def ledger_computed_whole(settings: Settings, inventory: Inventory) -> Ledger:
    """Every hour anew from what is stored, the one that goes on too."""
    installation = install(settings, SystemClock(), inventory, series=True, books=True)
    await installation.start()
    try:
        books = installation.books()
        await books.finish()
        await books.close()
        return await read_ledger(installation.opened_database())
    finally:
        await installation.close()


async def frames_go_on(settings: Settings, since_us: int, until_s: float) -> None:
    """Returns once `watch` has published since; it begins with what comes after its start, so
    records that are on the bus already are sent again until it does, or `until_s` has passed."""
    bus = open_bus(settings.bus, SystemClock())
    consumer, producer = bus.consumer([GPU], None), bus.producer()
    await consumer.start()
    chunks = await consumer.fetch(10.0)
    await consumer.stop()
    again = [
        Message(GPU, key, value, arrival_us=int(bus_us))
        for chunk in chunks[:1]
        for key, value, bus_us in list(zip(chunk.keys, chunk.values, chunk.bus_us, strict=True))[
            :_AGAIN
        ]
    ]
    await producer.start()
    while not any(at > since_us for at in await live_frames(settings)):
        if time.monotonic() > until_s:
            break
        await producer.send(again)
        await SystemClock().sleep(1.0)
    await producer.stop()
    await bus.close()


async def live_frames(settings: Settings) -> list[int]:
    """When the bus took each live frame, µs."""
    bus = open_bus(settings.bus, SystemClock())
    consumer = bus.consumer([LIVE], None)
    await consumer.start()
    ends, times = await consumer.end_offsets(), list[int]()
    reached = dict.fromkeys(ends, 0)
    while any(reached[one] < end for one, end in ends.items()):
        chunks = await consumer.fetch(2.0)
        for chunk in chunks:
            reached[chunk.partition] = chunk.next_offset
            rows = zip(chunk.keys, chunk.bus_us, strict=True)
            times += [bus_us for key, bus_us in rows if key == b"frame"]
        if not chunks:
            break
    await consumer.stop()
    await bus.close()
    return times


async def ends_of(settings: Settings, topics: Sequence[str]) -> dict[tuple[str, int], int]:
    """By topic and partition the offset after the last record."""
    bus = open_bus(settings.bus, SystemClock())
    consumer = bus.consumer(topics, None)
    await consumer.start()
    ends = await consumer.end_offsets()
    await consumer.stop()
    await bus.close()
    return {(one.topic, one.number): end for one, end in ends.items()}


def _behind(connection: Connection, ends: Mapping[tuple[str, int], int]) -> tuple[list[Any], int]:
    """What the books have not read or computed yet, and the hour that goes on."""
    clocks, positions = progress.read_clocks(connection), progress.read_positions(connection)
    done = {(GPU, number): offset for number, (offset, _) in clocks.items()} | positions
    behind: list[Any] = [
        (at, done.get(at, 0), end) for at, end in ends.items() if done.get(at, 0) < end
    ]
    table = schema.node_hours.c
    until_us = connection.execute(select(func.max(table.until_us))).scalar() or 0
    last = until_us // HOUR_US
    reached_us = max((bus_us for _, bus_us in clocks.values()), default=0)
    if reached_us - until_us > _LAG_US:
        behind.append(("computed until", until_us, reached_us))
    behind += [one for one in progress.read_pending(connection) if one[0] < last]
    return behind, last
