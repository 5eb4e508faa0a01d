"""The worker on a real log and a real store: what is written, announced, refused and retried."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from collectors.contract.bus import Message
from collectors.contract.catalogue import CATALOGUE, FieldRead, Kind, Metric
from collectors.contract.identity import Slot, pack_slot
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.topics import DEAD, FLUSHED, GPU, DeadLetter, Flushed, topic_specs
from collectors.contract.wire import encode
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from pipeline import health
from pipeline.health import HealthBoard
from pipeline.series.columns import merge_parts
from pipeline.series.duck import DuckStore
from pipeline.series.port import StoreUnavailableError, WriteBatch, WriteResult
from pipeline.store import intake
from pipeline.store.worker import StoreOptions, StoreWorker

SLOTS = [pack_slot(Slot(0, i + 1, 0, 0)) for i in range(2)]
NOW_US = SystemClock().wall_us() // 60_000_000 * 60_000_000


class FlakyStore(DuckStore):
    """A real store that a test can take away."""

    away = 0
    given_up: list[WriteBatch]

    async def write(self, batch: WriteBatch) -> WriteResult:
        if self.away:
            self.away -= 1
            self.given_up = [*getattr(self, "given_up", []), copy.deepcopy(batch)]
            raise StoreUnavailableError("taken away by the test")
        return await super().write(batch)


@dataclass
class World:
    """One worker's surroundings."""

    bus: SqliteBus
    store: FlakyStore
    clock: SystemClock
    boards: list[HealthBoard]

    def worker(self, raw_interval_s: float = 1.0, flush_s: float = 0.2) -> StoreWorker:
        board = HealthBoard("store", str(len(self.boards)), self.clock)
        self.boards.append(board)
        options = StoreOptions(flush_s=flush_s, raw_interval_s=raw_interval_s)
        return StoreWorker(self.bus, self.store, options, self.clock, board)

    async def send(self, values: Sequence[bytes], key: bytes = b"a") -> None:
        producer = self.bus.producer()
        await producer.start()
        await producer.send([Message(GPU, key, value) for value in values])
        await producer.stop()

    async def work(self, *workers: StoreWorker) -> None:
        """Runs the workers until all is committed."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.run(stop))
            while True:
                behind = [await worker.behind() for worker in workers]
                if sum(map(len, behind)) == 12 and not any(sum(b.values()) for b in behind):
                    break
                await asyncio.sleep(0)
            stop.set()

    async def values(self, topic: str) -> list[bytes]:
        consumer = self.bus.consumer([topic], None)
        await consumer.start()
        chunks = await consumer.fetch(0.2)
        await consumer.stop()
        return [value for chunk in chunks for value in chunk.values]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = SystemClock()
    world = World(
        SqliteBus(tmp_path / "bus.db", clock=clock), FlakyStore(tmp_path / "s.duckdb"), clock, []
    )
    await world.bus.create_topics(topic_specs())
    await world.store.start()
    yield world
    await world.store.close()
    await world.bus.close()


def record(node: str, sequence: int, **values: Sequence[float]) -> bytes:
    columns = {"energy_mj": [sequence, 2 * sequence], "power_w": [100.0, 200.5], **values}
    time_us = NOW_US - 30_000_000 + sequence * 1_000_000
    return encode(
        NodeRecord(node, Origin.SIMULATED, 7, sequence, time_us, 0, SLOTS, [1, 1], columns)
    )


def minute_range() -> tuple[int, int]:
    return NOW_US // 60_000_000 - 5, NOW_US // 60_000_000 + 5


async def test_written_announced_committed(world: World) -> None:
    await world.send([record("a", n) for n in range(5)])
    await world.work(world.worker())
    parts = merge_parts(await world.store.minutes(*minute_range()))
    assert parts.counters["energy_mj"].last.tolist() == [4, 8]
    raw = await world.store.raw(NOW_US - 10**9, NOW_US + 10**9, node="a")
    assert len(raw) == 10
    flushed = [msgspec.json.decode(v, type=Flushed) for v in await world.values(FLUSHED)]
    assert max(f.offset for f in flushed) == 5
    assert {n for f in flushed for n, _ in f.touched} == {"a"}
    board = world.boards[0]
    terms = {name: board.value(name, node="a") for name in (health.SENT, health.STORED)}
    assert terms == {health.SENT: 5, health.STORED: 5}
    assert board.value(health.IN_FLIGHT, node="a") == 0


async def test_a_new_worker_starts_where_the_last_one_committed(world: World) -> None:
    await world.send([record("a", n) for n in range(3)])
    await world.work(world.worker())
    await world.send([record("a", n) for n in range(3, 5)])
    await world.work(world.worker())
    assert world.boards[1].total("gpu_samples") == 4
    parts = await world.store.minutes(*minute_range())
    assert len(set(parts.writer.tolist())) == 2
    merged = merge_parts(parts)
    assert merged.counters["energy_mj"].first.tolist() == [0, 0]
    assert merged.counters["energy_mj"].last.tolist() == [4, 8]


async def test_broken_records_are_buried_with_the_reason_and_the_rest_counts(world: World) -> None:
    future = encode(
        NodeRecord(
            "a", Origin.MEASURED, 7, 9, NOW_US + 10**11, 0, SLOTS, [1, 1], {"power_w": [1, 2]}
        )
    )
    await world.send([record("a", 0), b"\xff\xff", future, record("a", 1)])
    await world.work(world.worker())
    dead = [msgspec.json.decode(v, type=DeadLetter) for v in await world.values(DEAD)]
    assert sorted((d.reason, d.offset) for d in dead) == [("future", 2), ("undecodable", 1)]
    assert next(d.payload for d in dead if d.offset == 1) == b"\xff\xff"
    assert world.boards[0].value(health.REJECTED, node="a") == 1
    raw = await world.store.raw(NOW_US - 10**9, NOW_US + 10**9, node="a")
    assert len(raw) == 4


async def test_a_clock_that_is_far_off_is_refused_and_seen(world: World) -> None:
    # By how much is told against the clock of the moment, and the module may be an hour old.
    ahead_us = SystemClock().wall_us() + 10**10
    fast = [
        NodeRecord("a", Origin.MEASURED, 7, n, ahead_us, 0, SLOTS, [1, 1], {"power_w": [1, 2]})
        for n in range(3)
    ]
    await world.send([encode(one) for one in fast])
    await world.work(world.worker())
    board = world.boards[0]
    assert board.value(health.REJECTED, node="a") == 3
    offset_us = board.value(health.CLOCK_OFFSET_US, node="a")
    assert offset_us is not None
    assert -(10**10) <= offset_us < -9 * 10**9


@pytest.mark.parametrize("bound", ["MOST_DEAD_BYTES", "MOST_ROWS"])
async def test_what_would_fill_the_memory_is_flushed_before_its_time(
    world: World, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(intake, bound, 1)
    await world.send([record("a", 0), b"\xff\xff"])
    # All is committed five minutes before a flush is due.
    await world.work(world.worker(flush_s=300.0))
    assert len(await world.values(DEAD)) == 1
    parts = merge_parts(await world.store.minutes(*minute_range()))
    assert parts.counters["energy_mj"].last.tolist() == [0, 0]


async def test_a_store_that_is_away_costs_time_and_nothing_else(world: World) -> None:
    world.store.away = 3
    await world.send([record("a", n) for n in range(4)])
    await world.work(world.worker())
    assert world.boards[0].total("store_unavailable") == 3
    assert world.boards[0].total("paused") == 0
    parts = merge_parts(await world.store.minutes(*minute_range()))
    assert parts.counters["energy_mj"].last.tolist() == [3, 6]


async def test_a_write_that_arrives_after_a_newer_one_takes_nothing_back(world: World) -> None:
    # As a server does that answers too late: the request is given up, made again, and done at last.
    worker = world.worker(flush_s=60.0)
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    world.store.away = 1
    for first, last in ((0, 10), (10, 20)):
        await world.send([record("n1", sequence) for sequence in range(first, last)])
        async with asyncio.timeout(30):
            while world.boards[-1].total("gpu_samples") < last * len(SLOTS):
                await world.clock.sleep(0.01)
        await worker.flush()
    stop.set()
    await running
    (late,) = world.store.given_up
    await DuckStore.write(world.store, late)
    low, high = minute_range()
    masks = await world.store.masks(low, high)
    assert sum(int(mask).bit_count() for mask in set(masks.mask.tolist())) == 20
    parts = merge_parts(await world.store.minutes(low, high))
    assert parts.counters["energy_mj"].last.tolist() == [19, 38]


async def test_any_number_of_workers_gives_the_same_rows(world: World) -> None:
    rng = random.Random(5)
    nodes = [f"n{i}" for i in range(20)]
    for start in range(0, 20, 5):
        for node in nodes:
            batch = [record(node, n) for n in range(start, start + 5)] * 2
            rng.shuffle(batch)
            await world.send(batch, node.encode())
        await world.work(*(world.worker() for _ in range(1 + start // 5)))
    merged = merge_parts(await world.store.minutes(*minute_range()))
    assert len(merged) == 40
    assert sorted(merged.counters["energy_mj"].last.tolist()) == [19] * 20 + [38] * 20
    masks = await world.store.masks(*minute_range())
    seen: dict[str, int] = {}
    for node, mask in zip(masks.node.tolist(), masks.mask.tolist(), strict=True):
        name = str(masks.nodes[node])
        seen[name] = seen.get(name, 0) | mask
    assert seen == dict.fromkeys(nodes, 2**20 - 1)


async def test_raw_is_thinned_and_minutes_are_not(world: World) -> None:
    await world.send([record("a", n) for n in range(25)])
    await world.work(world.worker(raw_interval_s=10.0))
    raw = await world.store.raw(NOW_US - 10**9, NOW_US + 10**9, node="a")
    times = sorted({(t - NOW_US) // 1_000_000 for t in raw.time_us.tolist()})
    assert times == [-30, -20, -10]
    merged = merge_parts(await world.store.minutes(*minute_range()))
    assert merged.counters["energy_mj"].last.tolist() == [24, 48]


async def test_a_new_catalogue_row_reaches_the_store(world: World, tmp_path: Path) -> None:
    metric = Metric("leak_detected", 120, "", "Coolant.", (0, 1), Kind.GAUGE, FieldRead(999))
    with CATALOGUE.extended(metric):
        store = FlakyStore(tmp_path / "more.duckdb")
        await store.start()
        more = World(world.bus, store, world.clock, [])
        await more.send([record("a", 0, leak_detected=[1.0, 0.0])])
        await more.work(more.worker())
        raw = await store.raw(NOW_US - 10**9, NOW_US + 10**9, node="a", metrics=["leak_detected"])
        assert raw.values["leak_detected"].tolist() == [1.0, 0.0]
        parts = await store.minutes(*minute_range())
        assert parts.gauges["leak_detected"].last.tolist() == [1.0, 0.0]
        await store.close()
