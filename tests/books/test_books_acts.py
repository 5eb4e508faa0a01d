"""Acts: written with who did it, sent once the bus is there, in order."""

from __future__ import annotations

import asyncio
from pathlib import Path

from collectors.contract.bus import Bus, Message
from collectors.contract.topics import topic_specs
from collectors.kit.clock import SystemClock
from pipeline.books import schema
from pipeline.books.acts import Act, Outbox, read_audit
from pipeline.books.database import Database
from pipeline.bus import open_bus
from pipeline.health import HealthBoard


def _act(number: int) -> Act:
    message = Message("petawatch.control", f"k{number}".encode(), f"v{number}".encode())
    return Act("local", "silence.add", f"s{number}", {"n": number}, [message])


async def _values(bus: Bus, count: int) -> list[bytes]:
    consumer = bus.consumer(["petawatch.control"], None)
    await consumer.start()
    values: list[bytes] = []
    async with asyncio.timeout(20):
        while len(values) < count:
            for chunk in await consumer.fetch(0.5):
                values += [bytes(value) for value in chunk.values]
    await consumer.stop()
    return values


async def test_acts_are_audited_and_reach_the_bus_in_order(tmp_path: Path) -> None:
    clock = SystemClock()
    url = f"sqlite:///{tmp_path}/bus.db"
    bus, database = open_bus(url, clock), Database(f"sqlite:///{tmp_path}/books.db")
    await bus.create_topics(topic_specs())
    await database.start()
    # What a process wrote that died before it sent anything.
    dead = Outbox(database, bus, clock, HealthBoard("serve", "a", clock))
    for number in range(3):
        await dead.act(_act(number))
    outbox = Outbox(database, bus, clock, HealthBoard("serve", "b", clock))
    running = asyncio.create_task(outbox.run())
    await outbox.act(_act(3))
    assert await _values(bus, 4) == [b"v0", b"v1", b"v2", b"v3"]
    outbox.stop()
    await running
    left = await database.read(lambda one: list(one.execute(schema.outbox.select())))
    rows = await database.read(read_audit)
    assert left == []
    assert [(row.subject, row.actor, row.detail) for row in rows] == [
        (f"s{number}", "local", {"n": number}) for number in (3, 2, 1, 0)
    ]
    await database.close()
    await bus.close()


async def test_a_bus_that_is_away_loses_no_act(tmp_path: Path) -> None:
    clock = SystemClock()
    url = f"sqlite:///{tmp_path}/bus.db"
    bus, database = open_bus(url, clock), Database(f"sqlite:///{tmp_path}/books.db")
    await database.start()
    board = HealthBoard("serve", "a", clock)
    outbox = Outbox(database, bus, clock, board)
    running = asyncio.create_task(outbox.run())
    await outbox.act(_act(0))
    async with asyncio.timeout(20):
        # Its topics are not there yet: to a sender the same as no bus.
        while not board.total("outbox_waits"):
            await clock.sleep(0.01)
    await bus.create_topics(topic_specs())
    assert await _values(bus, 1) == [b"v0"]
    outbox.stop()
    await running
    await database.close()
    await bus.close()
