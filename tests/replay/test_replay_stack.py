"""A recording and an agent through the real Kafka: every row once, spooled ones too."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from collectors.contract.bus import Bus
from collectors.contract.record import NodeRecord
from collectors.contract.topics import EVENTS, GPU, topic_specs
from collectors.contract.wire import parse
from collectors.kit.clock import SystemClock
from pipeline.bus import open_bus

pytestmark = pytest.mark.stack
CAPTURE = Path(__file__).parents[1] / "captures" / "nanogpt_8gpu.csv"
PETAWATCH = Path(sys.executable).with_name("petawatch")


@pytest.fixture
async def topics(kafka_url: str) -> AsyncIterator[tuple[Bus, str]]:
    """A bus with topics of this test's own, and what stands before their names."""
    prefix = f"replay-{secrets.token_hex(4)}."
    bus = open_bus(kafka_url, SystemClock())
    specs = topic_specs(prefix, gpu_partitions=2)
    await bus.create_topics(specs)
    yield bus, prefix
    await bus.delete_topics([spec.name for spec in specs])
    await bus.close()


def command(*options: object) -> None:
    done = subprocess.run(
        [str(PETAWATCH), *map(str, options)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def values(bus: Bus, topic: str, count: int) -> list[tuple[int, bytes]]:
    """The first `count` records of a topic with their bus times; no more may be there."""
    consumer = bus.consumer([topic], None)
    await consumer.start()
    found: list[tuple[int, bytes]] = []
    for _ in range(100):
        for chunk in await consumer.fetch(0.3):
            found += zip(chunk.bus_us, chunk.values, strict=True)
        if len(found) >= count:
            break
    assert await consumer.fetch(0.3) == []
    await consumer.stop()
    return found


async def test_every_row_arrives_with_its_value_and_its_time(
    kafka_url: str, topics: tuple[Bus, str]
) -> None:
    bus, prefix = topics
    command("replay", CAPTURE, "--speed", "max", "--keep-time", "--node", "g150",
            "--bus", kafka_url, "--topic-prefix", prefix)  # fmt: skip
    found = await values(bus, prefix + GPU, 20)
    records = [parse(value) for _, value in found]
    assert [record.time_us for record in records] == [bus_us for bus_us, _ in found]
    powers = [f"{power:.2f}" for record in records for power in record.values["power_w"]]
    written = [line.rpartition(",")[2].strip() for line in CAPTURE.read_text().splitlines()[1:]]
    assert powers == written


async def runs_until(bus: Bus, topic: str, enough: int) -> list[NodeRecord]:
    """The records of a topic up to that with which there are so many runs; more may come."""
    consumer = bus.consumer([topic], None)
    await consumer.start()
    found: list[NodeRecord] = []
    while len({record.run for record in found}) < enough:
        for chunk in await consumer.fetch(0.3):
            found += [parse(value) for value in chunk.values]
    await consumer.stop()
    return found


async def test_an_agent_sends_what_it_spooled_before(
    kafka_url: str, topics: tuple[Bus, str], tmp_path: Path
) -> None:
    """Three ticks without a bus, then a life with one: their records come, each once."""
    bus, prefix = topics
    more = {"XDG_STATE_HOME": str(tmp_path), "PETAWATCH_AGENT_METRICS_PORT": "0"}
    surroundings = {**os.environ, **more}

    async def agent(url: str, *options: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            PETAWATCH, "agent", "--backend", "sim", "--node", "n1", "--bus", url,
            "--topic-prefix", prefix, *options, env=surroundings, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    for _ in range(3):
        # Nothing has reached the bus, and the exit status says so.
        assert await (await agent("kafka://127.0.0.1:9", "--once")).wait() == 1
    living = await agent(kafka_url)
    found = await runs_until(bus, prefix + GPU, 4)
    living.terminate()
    assert await living.wait() == 0
    of_life = max(record.run for record in found)  # ids of runs are in order of their starts
    before = [record.run for record in found if record.run != of_life]
    assert len(before) == len(set(before)) == 3
    assert {record.node for record in found} == {"n1"}
    events = [json.loads(value)["kind"] for _, value in await values(bus, prefix + EVENTS, 8)]
    assert sorted(events) == ["agent_start"] * 4 + ["agent_stop"] * 4
