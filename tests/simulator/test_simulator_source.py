"""The source on a real bus: order, pace, retries, claims left open, both truths."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from collectors.contract.bus import BusUnavailableError, Message, Producer
from collectors.contract.source import SourceOptions
from collectors.contract.topics import ALLOC, FACTS, GPU, topic_specs
from collectors.contract.wire import parse
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from collectors.simulator.oracle import observable_truth
from collectors.simulator.sites import make_site
from collectors.simulator.source import ARRIVAL_DELAY_US, create
from collectors.simulator.truth import read_truth

START_US = 1_800_000_000_000_000


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[SqliteBus]:
    bus = SqliteBus(tmp_path / "bus.db", clock=SystemClock())
    await bus.create_topics(topic_specs("t-", gpu_partitions=3))
    yield bus
    await bus.close()


async def _send(bus: SqliteBus, options: SourceOptions, stop: asyncio.Event | None = None) -> None:
    producer = bus.producer()
    await producer.start()
    try:
        source = create(options, SystemClock())
        await source.run(producer, asyncio.Event() if stop is None else stop)
    finally:
        await producer.stop()


async def _read(bus: SqliteBus, topic: str) -> list[tuple[bytes, bytes, int]]:
    """Key, value and bus time of every record of a topic, by partition."""
    consumer = bus.consumer([topic], None)
    await consumer.start()
    out: list[tuple[bytes, bytes, int]] = []
    while chunks := await consumer.fetch(0.05):
        for chunk in chunks:
            out += zip(chunk.keys, chunk.values, chunk.bus_us, strict=True)
    await consumer.stop()
    return out


def _options(**more: object) -> SourceOptions:
    given: dict[str, object] = {
        "site": "demo", "seed": 3, "speed": None, "minutes": 0.5, "start_us": START_US, "topic_prefix": "t-",
    }  # fmt: skip
    return SourceOptions(**(given | more))  # type: ignore[arg-type]


async def test_a_simulation_arrives_whole_with_its_own_arrival_times(bus: SqliteBus):
    await _send(bus, _options())
    records = await _read(bus, "t-" + GPU)
    assert len(records) == 8 * 30
    times: dict[bytes, list[int]] = {}
    for key, value, bus_us in records:
        told = parse(value)
        assert key == told.node.encode()
        assert bus_us == told.time_us + ARRIVAL_DELAY_US
        times.setdefault(key, []).append(told.time_us)
    assert all(each == sorted(each) for each in times.values())
    assert len(times) == 8


async def test_truth_files_are_what_the_oracle_says_of_the_bus(bus: SqliteBus, tmp_path: Path):
    await _send(bus, _options(truth=tmp_path / "truth"))
    physical, observable = read_truth(tmp_path / "truth")
    records = [(value, bus_us) for _, value, bus_us in await _read(bus, "t-" + GPU)]
    claims = [value for _, value, _ in await _read(bus, "t-" + ALLOC)]
    assert observable_truth(records, claims, make_site("demo")) == observable
    assert sum(physical.sent.values()) == len(records)
    assert physical.header.end_us - physical.header.start_us == 30_000_000


async def test_claims_end_with_the_simulation(bus: SqliteBus):
    await _send(bus, _options())
    last = {key: json.loads(value) for key, value, _ in await _read(bus, "t-" + ALLOC)}
    assert last
    assert all(told["to_us"] <= START_US + 30_000_000 for told in last.values())


async def test_claims_that_a_crash_left_open_are_ended_by_the_next_life(
    bus: SqliteBus, tmp_path: Path
):
    open_claims = tmp_path / "claims.json"
    source = create(_options(path=open_claims, minutes=None, speed=1.0), SystemClock())
    producer = _Flaky(bus.producer(), away=0)
    await producer.start()
    life = asyncio.create_task(source.run(producer, asyncio.Event()))
    await producer.tried.wait()
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life
    before = json.loads(open_claims.read_bytes())
    assert before
    assert all("to_us" not in told for told in before)
    await producer.stop()
    await _send(bus, _options(path=open_claims, start_us=START_US + 90_000_000))
    last = {
        told["id"]: told for told in (json.loads(v) for _, v, _ in await _read(bus, "t-" + ALLOC))
    }
    for told in before:
        assert last[told["id"]]["to_us"] == START_US + 90_000_000
    assert json.loads(open_claims.read_bytes()) == []


async def test_in_real_time_records_come_when_their_time_has_come(bus: SqliteBus):
    stop = asyncio.Event()
    clock = SystemClock()
    sending = asyncio.create_task(
        _send(bus, _options(speed=1.0, start_us=None, minutes=None, interval_s=0.2), stop)
    )
    consumer = bus.consumer(["t-" + GPU], None)
    await consumer.start()
    seen = 0
    while seen < 8 * 5:
        for chunk in await consumer.fetch(1.0):
            for value, bus_us in zip(chunk.values, chunk.bus_us, strict=True):
                assert parse(value).time_us <= bus_us <= clock.wall_us()
                seen += 1
    stop.set()
    await sending
    await consumer.stop()


class _Flaky:
    """A producer whose bus is away now and then."""

    def __init__(self, inner: Producer, away: int) -> None:
        self._inner, self._away = inner, away
        self.failures = 0
        self.tried = asyncio.Event()

    async def start(self) -> None:
        await self._inner.start()

    async def send(self, messages: Sequence[Message]) -> None:
        if self.failures < self._away:
            self.failures += 1
            self.tried.set()
            raise BusUnavailableError("away")
        await self._inner.send(messages)
        self.tried.set()

    async def stop(self) -> None:
        await self._inner.stop()


async def test_an_absent_bus_is_waited_for_and_nothing_is_lost(bus: SqliteBus):
    producer = _Flaky(bus.producer(), away=2)
    await producer.start()
    source = create(_options(minutes=0.1), SystemClock())
    await source.run(producer, asyncio.Event())
    await producer.stop()
    assert producer.failures == 2
    assert len(await _read(bus, "t-" + GPU)) == 8 * 6


async def test_stopping_does_not_wait_for_an_absent_bus(bus: SqliteBus):
    producer = _Flaky(bus.producer(), away=10**9)
    await producer.start()
    stop = asyncio.Event()
    source = create(_options(), SystemClock())
    running = asyncio.create_task(source.run(producer, stop))
    await producer.tried.wait()
    stop.set()
    async with asyncio.timeout(2):
        await running
    await producer.stop()
    assert source.sent == 0


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"site": "atlantis"}, "aisc-phase1"),
        ({"node": "n1"}, "leave out node"),
        ({"keep_time": True}, "keep_time"),
        ({"extra": {"zone": "UTC"}}, "zone"),
        ({"speed": 0.0}, "above 0"),
        ({"interval_s": 0.0}, "0.05"),
    ],
)
def test_options_that_a_simulation_cannot_serve_are_refused(more: dict[str, object], says: str):
    with pytest.raises(ValueError, match=says):
        create(_options(**more), SystemClock())


async def test_each_node_says_how_it_measures_and_again_after_ten_minutes(bus: SqliteBus):
    await _send(bus, _options(minutes=11.0, interval_s=30.0))
    told = [json.loads(value) for _, value, _ in await _read(bus, "t-" + FACTS)]
    assert len(told) == 2 * 8
    assert {one["origin"] for one in told} == {"simulated"}
    first = told[0]
    assert len(first["gpus"]) == 8
    assert {gpu["flop_method"] for one in told for gpu in one["gpus"]} <= {
        "gpm_pipe",
        "dcgm_pipe",
        "util_clock",
    }
    assert "fan_speed" in first["gpus"][0]["unsupported"]


class _Kept:
    """A producer that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def start(self) -> None:
        """Nothing to connect to."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Keeps them."""
        self.messages += messages

    async def stop(self) -> None:
        """Nothing to close."""


async def test_the_speed_changes_no_byte() -> None:
    found: list[list[Message]] = []
    for speed in (None, 40.0, 200.0):
        kept = _Kept()
        extra = {"telemetry_faults": "all", "faults": "random:20000"}
        options = _options(speed=speed, minutes=1.0, extra=extra)
        await create(options, SystemClock()).run(kept, asyncio.Event())
        found.append([one for one in kept.messages if not one.topic.endswith(FACTS)])
    assert len(found[0]) > 400
    assert found[0] == found[1] == found[2]
