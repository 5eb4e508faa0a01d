"""kill -9 of `watch` at random moments: no transition is lost, none changes, and none is told of
twice but in the moment of a death."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import secrets
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
from alert_tools import Life, Log
from test_alerts_log import options

from collectors.contract.alerts import Alert
from collectors.contract.bus import Bus, Partition
from collectors.contract.inventory import Inventory
from collectors.contract.source import SourceOptions
from collectors.contract.topics import ALERTS, LIVE
from collectors.kit.clock import SystemClock
from collectors.simulator.source import create
from pipeline.commands.wiring import install, topics
from pipeline.health import HealthBoard
from pipeline.settings import Settings
from pipeline.watch.alerts.role import AlertWatch

KILLS = 4
SPEED = 12.0
MINUTES = 4.0
BEGUN = "alerts_begin"
LEADS = "petawatch-alerts term="
WRONG = """
[[event]]
fault = "power_brake"
at = "40s"
for = "30s"
rack = "b01"

[[event]]
fault = "node_dark"
at = "70s"
for = "40s"
node = "a01n02"

[[event]]
fault = "xid"
at = "150s"
gpu = "a01n03/5"
strength = 79
"""


class Child:
    """A `watch` in a process of its own."""

    def __init__(self, settings: Settings, log: Path, session_s: int = 1) -> None:
        self._log = log
        self._environ = {
            "PETAWATCH_BUS": settings.bus, "PETAWATCH_SITE": "demo",
            "PETAWATCH_DATA": str(settings.data),
            "PETAWATCH_TOPIC_PREFIX": settings.topic_prefix,
            "PETAWATCH_KAFKA_SESSION_TIMEOUT_S": str(session_s),
        }  # fmt: skip
        self.process: asyncio.subprocess.Process | None = None

    @property
    def lives(self) -> int:
        """How often it has begun to lead."""
        return self._log.read_text().count(BEGUN) if self._log.exists() else 0

    @property
    def said(self) -> list[str]:
        """The lines of its log."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    async def begin(self) -> None:
        before = self.lives
        await self.start()
        while self.lives == before:
            self.check()
            await asyncio.sleep(0.05)

    def check(self) -> None:
        assert self.process is not None
        assert self.process.returncode is None, self._log.read_text()[-3_000:]

    async def start(self) -> None:
        code = "from collectors.cli import main; main()"
        with self._log.open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, "pipeline", "--role", "watch", stdout=out, stderr=out,
                env={**os.environ, **self._environ},
            )  # fmt: skip

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    end = kill


async def read_all(bus: Bus, topic: str) -> list[tuple[Partition, int, bytes, bytes]]:
    """All records of a topic: partition, bus time, key, value."""
    consumer = bus.consumer([topic], None)
    await consumer.start()
    ends = await consumer.end_offsets()
    reached = dict.fromkeys(ends, 0)
    out: list[tuple[Partition, int, bytes, bytes]] = []
    while any(reached[p] < ends[p] for p in ends):
        for chunk in await consumer.fetch(0.5):
            reached[chunk.partition] = chunk.next_offset
            rows = zip(chunk.bus_us, chunk.keys, chunk.values, strict=True)
            out += [(chunk.partition, *row) for row in rows]
    await consumer.stop()
    return out


async def transitions(bus: Bus, topic: str) -> Counter[str]:
    """Each as text, with how often it was sent."""
    found = await read_all(bus, topic)
    return Counter(
        msgspec.json.encode(msgspec.json.decode(value, type=Alert)).decode()
        for _, _, key, value in found
        if key.startswith(b"alert/")
    )


async def undisturbed(bus: Bus, prefix: str, log: Log, inventory: Inventory) -> list[str]:
    """What one life says of the same log."""
    for partition in log.records:
        if partition.number == 0:
            for at, bus_us, key, value in await read_all(bus, prefix + partition.topic):
                place = Partition(partition.topic, at.number)
                log.records[place].append((bus_us, key, value))
    life = Life(log, inventory, options())
    life.read(random.Random(1))
    life.finish()
    return [msgspec.json.encode(one).decode() for one in life.alerts]


class Task:
    """A `watch` in this process, as a task that is cancelled wherever it stands."""

    def __init__(self, bus: Bus, inventory: Inventory, prefix: str) -> None:
        self._bus, self._inventory = bus, inventory
        self._options = dataclasses.replace(options(), prefix=prefix)
        self._task: asyncio.Task[None] | None = None
        self._board = HealthBoard("alerts", secrets.token_hex(4), SystemClock())

    @property
    def lives(self) -> int:
        """How often it has begun to lead."""
        return int(self._board.total("alerts_lives"))

    async def begin(self) -> None:
        before = self.lives
        await self.start()
        while self.lives == before:
            self.check()
            await asyncio.sleep(0.02)

    def check(self) -> None:
        assert self._task is not None
        assert not self._task.done()

    async def start(self) -> None:
        watch = AlertWatch(
            self._bus, lambda: self._inventory, self._options, SystemClock(), self._board
        )
        self._task = asyncio.create_task(watch.run(asyncio.Event()))

    async def kill(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    end = kill


class Killable(Protocol):
    """What is killed and begins again."""

    async def begin(self) -> None:
        """Begins, and is at work when it returns."""
        ...

    async def kill(self) -> None:
        """Dies at once."""
        ...

    async def end(self) -> None:
        """Leaves nothing running."""
        ...


@dataclass(frozen=True)
class Played:
    """What was sent, how often; what ought to be; the numbers of the live frames."""

    sent: Mapping[str, int]
    wanted: list[str]
    frames: list[int]


async def frames(bus: Bus, topic: str) -> list[int]:
    """The numbers that the publisher gave its frames, in the order of the log."""
    out: list[int] = []
    for _, _, key, value in await read_all(bus, topic):
        if key == b"frame":
            body = zlib.decompress(value[4:])
            header: dict[str, int] = json.loads(body[4 : 4 + struct.unpack_from("<I", body)[0]])
            out.append(header["frame"])
    return out


async def played(
    settings: Settings, tmp: Path, make: Callable[[Bus, Inventory], Killable]
) -> Played:
    """A site that is simulated while `watch` is killed."""
    rng = random.Random(7)
    scenario = tmp / "wrong.toml"
    scenario.write_text(WRONG)
    clock = SystemClock()
    source_options = SourceOptions(
        site="demo", speed=SPEED, minutes=MINUTES, topic_prefix=settings.topic_prefix,
        extra={"scenario": str(scenario)},
    )  # fmt: skip
    source = create(source_options, clock)
    installation = install(settings, clock, source.inventory, series=False, books=False)
    await installation.start()
    bus, prefix = installation.bus, settings.topic_prefix
    child = make(bus, source.inventory)
    try:
        await child.begin()
        producer = bus.producer()
        await producer.start()
        sending = asyncio.create_task(source.run(producer, asyncio.Event()))
        for _ in range(KILLS):
            await asyncio.sleep(rng.uniform(0.5, 3.0))
            await child.kill()
            await child.begin()
        await sending
        await producer.stop()
        wanted = await undisturbed(bus, prefix, Log(settings.gpu_partitions), source.inventory)
        sent = await transitions(bus, prefix + ALERTS)
        until_us = clock.monotonic_us() + 60_000_000
        while not set(wanted) <= set(sent) and clock.monotonic_us() < until_us:
            sent = await transitions(bus, prefix + ALERTS)
        return Played(sent, wanted, await frames(bus, prefix + LIVE))
    finally:
        await child.end()
        await bus.delete_topics([spec.name for spec in topics(settings)])
        await installation.close()


def compare(played: Played, repeats: int = KILLS) -> None:
    sent, wanted = played.sent, played.wanted
    last_us = max(msgspec.json.decode(one, type=Alert).at_us for one in wanted)
    until = {
        one: times for one, times in sent.items()
        if msgspec.json.decode(one, type=Alert).at_us <= last_us
    }  # fmt: skip
    rules = {msgspec.json.decode(one, type=Alert).rule for one in wanted}
    assert {"power_brake", "node_silent", "xid_critical"} <= rules
    assert set(until) == set(wanted)
    assert sum(until.values()) - len(until) <= repeats, until


@pytest.mark.timeout(400)
async def test_deaths_on_the_embedded_bus(tmp_path: Path) -> None:
    """One process alone may have that bus open: the task dies, wherever it stands."""
    settings = msgspec.convert({"data": tmp_path, "site": "demo", "gpu_partitions": 4}, Settings)
    compare(await played(settings, tmp_path, lambda bus, site: Task(bus, site, "")))


@pytest.mark.stack
@pytest.mark.timeout(400)
async def test_kills_on_kafka(kafka_url: str, tmp_path: Path) -> None:
    prefix = f"alerts-{secrets.token_hex(4)}-"
    settings = msgspec.convert(
        {"bus": kafka_url, "data": tmp_path, "site": "demo", "gpu_partitions": 4,
         "topic_prefix": prefix}, Settings,
    )  # fmt: skip
    log = tmp_path / "watch.log"
    compare(await played(settings, tmp_path, lambda _bus, _site: Child(settings, log)))
