"""Minutes read again from the bus are the minutes that were there; beside workers, and in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from collectors.contract.bus import Bus, Message
from collectors.contract.identity import Slot, pack_slot
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.topics import FLUSHED, GPU, Flushed, topic_specs
from collectors.contract.wire import encode
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from pipeline.bus import open_bus
from pipeline.health import HealthBoard
from pipeline.series import open_series
from pipeline.series.columns import merge_parts
from pipeline.series.duck import DuckStore
from pipeline.series.port import SeriesStore
from pipeline.store import rebuild
from pipeline.store.rebuild import MinutesRebuild
from pipeline.store.validate import TimeRules
from pipeline.store.worker import StoreOptions, StoreWorker

SLOTS = [pack_slot(Slot(0, i + 1, 0, 0)) for i in range(2)]
MINUTE = SystemClock().wall_us() // 60_000_000 - 30
PARTITIONS = 3


@dataclass
class World:
    """A bus with an hour of records, and the store that a worker filled from it."""

    bus: Bus
    store: SeriesStore
    prefix: str
    clock: SystemClock

    async def send(self) -> None:
        """Two nodes, one record in ten seconds, some late and some twice."""
        producer = self.bus.producer()
        await producer.start()
        numbers = [*range(100), *range(20, 40), *range(0, 100, 7)]
        messages = [
            Message(self.prefix + GPU, node.encode(), record(node, n))
            for n in numbers
            for node in ("a", "b")
        ]
        await producer.send(messages)
        await producer.stop()

    async def work(self) -> None:
        options = StoreOptions(prefix=self.prefix, flush_s=0.2)
        board = HealthBoard("store", "1", self.clock)
        worker = StoreWorker(self.bus, self.store, options, self.clock, board)
        stop = asyncio.Event()
        running = asyncio.create_task(worker.run(stop))
        while True:
            behind = await worker.behind()
            if len(behind) == PARTITIONS and not any(behind.values()):
                break
            await asyncio.sleep(0.05)
        stop.set()
        await running

    def rebuild(self) -> MinutesRebuild:
        return MinutesRebuild(self.bus, self.store, TimeRules(), self.clock, prefix=self.prefix)

    async def rows(self) -> tuple[dict[Any, Any], dict[Any, int]]:
        """What readers see: merged parts and masks, as plain Python."""
        merged = merge_parts(await self.store.minutes(MINUTE - 9, MINUTE + 99))
        parts: dict[Any, Any] = {}
        for i in range(len(merged)):
            key = (merged.nodes[merged.node[i]], int(merged.slot[i]), int(merged.minute[i]))
            energy, power = merged.counters["energy_mj"], merged.gauges["power_w"]
            parts[key] = (
                *(int(getattr(energy, n)[i]) for n in ("first_us", "first", "last_us", "last")),
                *(float(getattr(power, n)[i]) for n in ("minimum", "maximum", "last")),
            )
        found = await self.store.masks(MINUTE - 9, MINUTE + 99)
        masks: dict[Any, int] = {}
        for i in range(len(found)):
            key = (found.nodes[found.node[i]], int(found.minute[i]), int(found.block[i]))
            masks[key] = masks.get(key, 0) | int(found.mask[i])
        return parts, masks

    async def flushed(self) -> set[tuple[str, int]]:
        consumer = self.bus.consumer([self.prefix + FLUSHED], None)
        await consumer.start()
        chunks = await consumer.fetch(2.0)
        await consumer.stop()
        told = [msgspec.json.decode(v, type=Flushed) for chunk in chunks for v in chunk.values]
        return {one for flush in told for one in flush.touched}


def record(node: str, sequence: int) -> bytes:
    columns = {"energy_mj": [sequence, 9 * sequence], "power_w": [float(sequence % 7), 200.5]}
    time_us = MINUTE * 60_000_000 + sequence * 10_000_000
    return encode(
        NodeRecord(node, Origin.SIMULATED, 7, sequence, time_us, 0, SLOTS, [1, 1], columns)
    )


@pytest.fixture(params=["embedded", pytest.param("services", marks=pytest.mark.stack)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    clock, prefix = SystemClock(), f"test-{uuid4().hex[:8]}-"
    if request.param == "embedded":
        bus: Bus = SqliteBus(tmp_path / "bus.db", clock=clock)
        store: SeriesStore = DuckStore(tmp_path / "s.duckdb")
    else:
        influx = request.getfixturevalue("influx")
        bus = open_bus(request.getfixturevalue("kafka_url"), clock)
        store = open_series(influx.store, token=influx.token, prefix=prefix)
    specs = topic_specs(prefix, gpu_partitions=PARTITIONS)
    await bus.create_topics(specs)
    await store.start()
    made = World(bus, store, prefix, clock)
    await made.send()
    await made.work()
    yield made
    await store.drop()
    await store.close()
    await bus.delete_topics([spec.name for spec in specs])
    await bus.close()


async def lose(world: World, minutes: range) -> None:
    for node in ("a", "b"):
        await world.store.delete_minutes(minutes.start, minutes.stop, node=node)


async def test_lost_minutes_come_back_and_the_others_stay(world: World) -> None:
    before = await world.rows()
    lost = range(MINUTE + 2, MINUTE + 9)
    await lose(world, lost)
    without = (await world.rows())[0]
    assert len(without) < len(before[0])
    work = world.rebuild()
    steps: list[tuple[int, int]] = []
    await work.run(lost, lambda done, total: steps.append((done, total)))
    assert await world.rows() == before
    assert steps[-1][0] == steps[-1][1] > 0
    assert work.parts == len(before[0]) - len(without)
    hours = {int(minute) // 60 for minute in lost}
    assert {(node, hour) for node in ("a", "b") for hour in hours} <= await world.flushed()


async def test_broken_off_it_goes_on_where_it_had_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await world.rows()
    minutes = range(MINUTE, MINUTE + 20)
    await lose(world, minutes)
    monkeypatch.setattr(rebuild, "_MOST_RECORDS", 1)

    def stop(done: int, total: int) -> None:
        if done < total:
            raise KeyboardInterrupt

    class Small(MinutesRebuild):
        def _before_end(self, chunks: Any) -> Any:
            return super()._before_end(chunks[:1])

    first = Small(world.bus, world.store, TimeRules(), world.clock, prefix=world.prefix)
    with pytest.raises(KeyboardInterrupt):
        await first.run(minutes, stop)
    assert first.parts > 0
    second = world.rebuild()
    seen: list[tuple[int, int]] = []
    await second.run(minutes, lambda done, total: seen.append((done, total)))
    total = 2 * (100 + 20 + 15)
    assert 0 < seen[-1][1] < total
    assert await world.rows() == before
