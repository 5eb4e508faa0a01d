"""What tests of alerts share: the log of a simulated site as chunks, and a life of the alerts."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from collectors.contract.alerts import Alert, Incident
from collectors.contract.bus import Chunk, Message, Partition
from collectors.contract.inventory import Inventory
from collectors.contract.source import SourceOptions
from collectors.contract.topics import ALLOC, EVENTS, FACILITY, GPU, LIVE
from collectors.kit.clock import SystemClock
from collectors.simulator.source import create
from pipeline.health import HealthBoard
from pipeline.watch.alerts.follow import AlertLog, AlertOptions
from pipeline.watch.alerts.state import Saved

T0 = 1_790_000_040_000_000
"""A whole minute."""
S = 1_000_000
TOPICS = (GPU, EVENTS, ALLOC, FACILITY, LIVE)


class SetClock:
    """A clock that a test sets."""

    def __init__(self, now_us: int = T0) -> None:
        self.now_us = now_us

    def wall_us(self) -> int:
        return self.now_us

    def monotonic_us(self) -> int:
        return self.now_us

    async def sleep(self, seconds: float) -> None:
        self.now_us += int(seconds * S)
        await asyncio.sleep(0)


class Log:
    """A bus's log in memory: messages by partition, in the order in which they were sent."""

    def __init__(self, partitions: int = 12) -> None:
        self.records: dict[Partition, list[tuple[int, bytes, bytes]]] = {
            Partition(topic, number): []
            for topic in TOPICS
            for number in range(partitions if topic == GPU else 1)
        }
        self._partitions = partitions

    async def start(self) -> None:
        """Nothing to connect."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def send(self, messages: Sequence[Message]) -> None:
        for one in messages:
            number = zlib.crc32(one.key) % self._partitions if one.topic == GPU else 0
            partition = Partition(one.topic, number)
            if partition in self.records:
                assert one.arrival_us is not None
                self.records[partition].append((one.arrival_us, one.key, one.value))

    def put(self, topic: str, key: bytes, value: bytes, bus_us: int) -> None:
        number = zlib.crc32(key) % self._partitions if topic == GPU else 0
        self.records[Partition(topic, number)].append((bus_us, key, value))

    def settle(self) -> None:
        """Puts each partition in the order of its bus times."""
        for rows in self.records.values():
            rows.sort(key=lambda row: row[0])

    def ends(self) -> dict[Partition, int]:
        return {partition: len(rows) for partition, rows in self.records.items()}

    def chunk(self, partition: Partition, start: int, end: int) -> Chunk:
        rows = self.records[partition][start:end]
        bus_us, keys, values = zip(*rows, strict=True)
        return Chunk(partition, range(start, start + len(rows)), bus_us, keys, values)

    def fetches(
        self, rng: random.Random, starts: Mapping[Partition, int] | None = None
    ) -> Iterator[list[Chunk]]:
        """All of the log in fetches of random partitions and sizes."""
        at = dict.fromkeys(self.records, 0) | dict(starts or {})
        ends = self.ends()
        while left := [p for p in self.records if at[p] < ends[p]]:
            some = rng.sample(left, rng.randint(1, len(left)))
            chunks: list[Chunk] = []
            for partition in some:
                end = min(ends[partition], at[partition] + rng.choice((1, 3, 40, 400)))
                chunks.append(self.chunk(partition, at[partition], end))
                at[partition] = end
            yield chunks


def simulated(
    minutes: float, *, site: str = "demo", scenario: Path | None = None, seed: int = 1, **extra: str
) -> tuple[Log, Inventory]:
    """The log of a simulated site."""
    options = SourceOptions(
        site=site, seed=seed, speed=None, minutes=minutes, start_us=T0,
        extra={"observable": "off", **extra, **({"scenario": str(scenario)} if scenario else {})},
    )  # fmt: skip
    source = create(options, SystemClock())
    log = Log()
    asyncio.run(source.run(log, asyncio.Event()))
    log.settle()
    return log, source.inventory


class Life:
    """A life of the alerts that reads a log."""

    def __init__(
        self, log: Log, inventory: Inventory, options: AlertOptions, saved: Saved | None = None
    ) -> None:
        self.log = log
        self.clock = SetClock()
        self.board = HealthBoard("watch", "t", self.clock)
        self.alerts: list[Alert] = []
        self.incidents: list[Incident] = []
        self.saved: list[Saved] = []
        self.follow = AlertLog(lambda: inventory, options, self.clock, self.board, saved)
        self.starts = dict.fromkeys(log.records, 0)
        if saved is not None:
            for text, offset in saved.positions.items():
                topic, _, number = text.rpartition("/")
                self.starts[Partition(topic, int(number))] = offset
        self.follow.begin(self.starts, saved.newest_us if saved else 0, self.clock.monotonic_us())

    def read(self, rng: random.Random, most: int | None = None) -> None:
        """Reads the log in random fetches, `most` of them, and evaluates as it goes."""
        for number, chunks in enumerate(self.log.fetches(rng, self.starts)):
            if number == most:
                return
            self.take(chunks)

    def take(self, chunks: Sequence[Chunk]) -> None:
        self.clock.now_us += 10_000
        self.follow.take_in(chunks, self.clock.monotonic_us())
        watermark_us = self.follow.frontier.watermark_us(self.log.ends(), self.clock.monotonic_us())
        self.evaluate(watermark_us)

    def evaluate(self, watermark_us: int) -> None:
        more = True
        while more:
            alerts, incidents, saved, more = self.follow.advance(watermark_us)
            self.alerts += alerts
            self.incidents += incidents
            if saved is not None:
                self.saved.append(msgspec.convert(msgspec.to_builtins(saved), Saved))

    def finish(self, seconds: float = 0.0) -> None:
        """Everything has been read and nothing more comes for so long."""
        self.evaluate(self.follow.frontier.newest_us + int(seconds * S))
