"""A worker before a real InfluxDB that is away, slow, full or refuses: offsets wait, then all is
there once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from chaos_disk import Disk
from chaos_processes import MissingServicesError, Services
from influx_gate import Gate
from stack_fixtures import Influx

from collectors.contract.bus import Message
from collectors.contract.identity import Slot, pack_slot
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.topics import DEAD, GPU, DeadLetter, topic_specs
from collectors.contract.wire import encode
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from pipeline import health
from pipeline.health import HealthBoard
from pipeline.series.columns import merge_parts
from pipeline.series.influx import InfluxStore
from pipeline.series.influx_wire import InfluxWire
from pipeline.series.port import StoreUnavailableError
from pipeline.store.worker import StoreOptions, StoreWorker

pytestmark = pytest.mark.stack
SLOTS = [pack_slot(Slot(0, i + 1, 0, 0)) for i in range(8)]
MINUTE = SystemClock().wall_us() // 60_000_000 - 10
NODES = [f"n{i}" for i in range(20)]


def record(node: str, sequence: int) -> bytes:
    columns = {
        "energy_mj": [sequence + slot for slot in range(8)],
        "power_w": [100.0 + sequence + slot for slot in range(8)],
    }
    time_us = MINUTE * 60_000_000 + sequence * 1_000_000
    return encode(
        NodeRecord(node, Origin.SIMULATED, 7, sequence, time_us, 0, SLOTS, [1] * 8, columns)
    )


@dataclass
class World:
    """A worker between a log and a real server behind a gate."""

    bus: SqliteBus
    store: InfluxStore
    gate: Gate
    board: HealthBoard
    worker: StoreWorker
    stop: asyncio.Event

    async def send(self, sequences: range) -> None:
        producer = self.bus.producer()
        await producer.start()
        rows = [(node, n) for n in sequences for node in NODES]
        await producer.send([Message(GPU, node.encode(), record(node, n)) for node, n in rows])
        await producer.stop()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - what is waited for another task counts
            await asyncio.sleep(0.02)

    async def committed(self) -> None:
        while True:
            behind = await self.worker.behind()
            if behind and not any(behind.values()):
                return
            await asyncio.sleep(0.02)

    async def stored_once(self, sequences: range) -> None:
        """Law 6 per node, and every minute and raw sample just once."""
        count, last = len(sequences), sequences[-1]
        for node in NODES:
            assert self.board.value(health.SENT, node=node) == count
            assert self.board.value(health.STORED, node=node) == count
            assert self.board.value(health.IN_FLIGHT, node=node) == 0
        merged = merge_parts(await self.store.minutes(MINUTE, MINUTE + 9, gauges=()))
        newest = merged.minute == merged.minute.max()
        found = sorted(merged.counters["energy_mj"].last[newest].tolist())
        assert found == sorted([last + slot for slot in range(8)] * len(NODES))
        raw = await self.store.raw(0, 2**62, node=NODES[3])
        assert len(raw) == 8 * count


async def started(store: InfluxStore) -> bool:
    try:
        await store.start()
    except StoreUnavailableError:
        return False
    return True


@asynccontextmanager
async def opened(influx: Influx, folder: Path, timeout_s: float = 5.0) -> AsyncGenerator[World]:
    """A worker at work, until the end of the context."""
    host, _, port = influx.url.removeprefix("http://").partition(":")
    gate, clock = Gate(host, int(port)), SystemClock()
    await gate.open()
    store = InfluxStore(
        f"http://127.0.0.1:{gate.port}", influx.token, influx.org,
        prefix=f"test-{uuid4().hex[:12]}", timeout_s=timeout_s,
    )  # fmt: skip
    bus = SqliteBus(folder / "bus.db", clock=clock)
    await bus.create_topics(topic_specs(gpu_partitions=3))
    async with asyncio.timeout(60):
        # A server that was started just now takes connections before it can answer.
        while not await started(store):  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.1)
    board = HealthBoard("store", "1", clock)
    worker = StoreWorker(bus, store, StoreOptions(flush_s=0.1), clock, board)
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    yield World(bus, store, gate, board, worker, stop)
    gate.bytes_a_second = None
    stop.set()
    await running
    await store.drop()
    await store.close()
    await gate.shut()
    await bus.close()


@pytest.fixture
async def world(influx: Influx, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(influx, tmp_path) as made:
        yield made


@dataclass
class Small:
    """A server of the test's own on a disk that can be filled."""

    services: Services
    disk: Disk

    @property
    def influx(self) -> Influx:
        told = self.services.settings
        store = told["PETAWATCH_STORE"]
        address, _, org = store.removeprefix("influxdb://").partition("?org=")
        return Influx(f"http://{address}", told["PETAWATCH_INFLUX_TOKEN"], org, store)


@pytest.fixture
def small(influx: Influx, tmp_path: Path) -> Iterator[Small]:
    assert influx  # what is cached for the shared one is what this one starts from
    disk = Disk(tmp_path / "influx", 400)
    try:
        services = Services(tmp_path, {"influx": disk})
    except MissingServicesError as missing:
        disk.close()
        pytest.skip(str(missing))
    while not all(target.answers() for target in services.targets):
        assert all(target.alive for target in services.targets)
        time.sleep(0.05)
    yield Small(services, disk)
    for target in services.targets:
        target.kill()
    disk.close()


async def test_a_server_that_is_away_makes_offsets_wait_and_lag_show(world: World) -> None:
    await world.send(range(5))
    await world.committed()
    await world.gate.shut()
    await world.send(range(5, 40))
    await world.until(lambda: world.board.total("store_unavailable") >= 3)
    await world.send(range(40, 80))
    # Paused, it takes nothing in: memory holds what one fetch brought, and no more.
    taken = world.board.total("gpu_samples")
    failures = world.board.total("store_unavailable")
    await world.until(lambda: world.board.total("store_unavailable") > failures)
    assert world.board.total("gpu_samples") == taken
    assert world.board.total("paused") == 1
    behind = sum((await world.worker.behind()).values())
    assert behind >= 40 * len(NODES)
    await world.gate.open()
    await world.committed()
    await world.until(lambda: world.board.value(health.STORED, node=NODES[0]) == 80)
    assert world.board.total("paused") == 0
    await world.stored_once(range(80))


async def test_a_slow_server_costs_time_and_nothing_else(world: World) -> None:
    world.gate.bytes_a_second = 300_000
    await world.send(range(12))
    await world.committed()
    world.gate.bytes_a_second = None
    await world.until(lambda: world.board.value(health.STORED, node=NODES[0]) == 12)
    await world.stored_once(range(12))


async def test_requests_become_smaller_until_they_are_answered_and_grow_again(
    influx: Influx, tmp_path: Path
) -> None:
    async with opened(influx, tmp_path, timeout_s=1.0) as world:
        world.gate.bytes_a_second = 100_000
        # 240 kB of samples alone in one request: never answered within a second.
        await world.send(range(14))
        await world.until(lambda: world.board.total("store_too_slow") >= 1)
        await world.committed()
        assert world.store.lines_a_request < 1_200
        world.gate.bytes_a_second = None
        await world.until(lambda: world.board.value(health.STORED, node=NODES[0]) == 14)
        await world.stored_once(range(14))
        slow = world.store.lines_a_request
        await world.send(range(14, 40))
        await world.committed()
        assert world.store.lines_a_request > slow
        await world.until(lambda: world.board.value(health.STORED, node=NODES[0]) == 40)
        await world.stored_once(range(40))


async def test_a_full_disk_makes_offsets_wait_and_loses_nothing(
    small: Small, tmp_path: Path
) -> None:
    async with opened(small.influx, tmp_path) as world:
        await world.send(range(5))
        await world.until(lambda: world.board.value(health.STORED, node=NODES[0]) == 5)
        [server] = small.services.targets
        small.disk.fill([server.process.pid])
        await world.send(range(5, 40))
        await world.until(lambda: world.board.total("store_unavailable") >= 3)
        assert world.board.total("paused") == 1
        assert world.board.total("rows_refused") == 0
        assert sum((await world.worker.behind()).values()) >= 35 * len(NODES)
        small.disk.clear()
        # The server keeps what failed to open closed until it is started anew.
        server.kill()
        server.start()
        await world.committed()
        await world.until(lambda: world.board.value(health.STORED, node=NODES[0]) == 40)
        assert world.board.total("paused") == 0
        await world.stored_once(range(40))


async def test_what_the_server_refuses_is_buried_with_its_reason(
    world: World, influx: Influx
) -> None:
    """A field of another type in the bucket: the server takes a request's other lines (422)."""
    wire = InfluxWire(influx.url, influx.token, influx.org, timeout_s=10.0, gzip=False)
    wire.open()
    bucket = (await world.store.health())["buckets"].partition(" (")[0]
    # The type of a field holds within a shard, so this node's samples of power are refused.
    line = f"gpu,node=n5,origin=simulated,slot=0000:01:00.0 power_w=1i {MINUTE * 60_000_000_000}"
    assert wire.write(bucket, line.encode()) == []
    await world.send(range(4))
    await world.committed()
    await world.until(lambda: world.board.value(health.STORED, node=NODES[0]) == 4)
    consumer = world.bus.consumer([DEAD], None)
    await consumer.start()
    chunks = await consumer.fetch(2.0)
    await consumer.stop()
    dead = [msgspec.json.decode(v, type=DeadLetter) for chunk in chunks for v in chunk.values]
    assert dead
    assert all(one.reason == "store_refused" for one in dead)
    assert all("field type conflict" in one.detail for one in dead)
    assert world.board.total("rows_refused") == len(dead)
    # Minutes, which bills are made of, are all there.
    merged = merge_parts(await world.store.minutes(MINUTE, MINUTE + 1))
    assert len(merged) == len(SLOTS) * len(NODES)
    wire.close()
