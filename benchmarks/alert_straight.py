"""A simulated site straight into the alerts, without a broker: what `watch` would read from the log,
in the order of its arrival."""

from __future__ import annotations

import asyncio
import json
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from collectors.contract.alerts import Alert, Incident
from collectors.contract.bus import Chunk, Message, Partition
from collectors.contract.inventory import Inventory
from collectors.contract.source import SourceOptions
from collectors.contract.topics import GPU
from collectors.kit.clock import SystemClock
from collectors.simulator.source import create
from pipeline.health import HealthBoard
from pipeline.watch.alerts.follow import TOPICS, AlertLog, AlertOptions
from pipeline.watch.alerts.rules_file import load_rules
from pipeline.watch.alerts.thermal import ThermalPhysics
from pipeline.watch.incidents import Incidents

START_US = 1_790_000_040_000_000
_PARTITIONS = 12
_HELD_US = 1_000_000
"""Messages are sorted by their arrival; none comes out of the simulator later than this."""


class SimulatedClock:
    """Stands at the newest arrival."""

    def __init__(self) -> None:
        self.now_us = START_US

    def wall_us(self) -> int:
        """Simulated time."""
        return self.now_us

    def monotonic_us(self) -> int:
        """The same."""
        return self.now_us

    async def sleep(self, seconds: float) -> None:
        """Gives way; nobody waits here."""
        del seconds  # simulated time goes on by what arrives
        await asyncio.sleep(0)


class Straight:
    """A producer whose messages go to the alerts in the order of their arrival, what comes within
    `every_us` at once."""

    def __init__(self, inventory: Inventory, options: AlertOptions, every_us: int) -> None:
        self._clock = SimulatedClock()
        board = HealthBoard("watch", "benchmark", self._clock)
        self._log = AlertLog(lambda: inventory, options, self._clock, board)
        self._next = {
            Partition(topic, number): 0
            for topic in TOPICS
            for number in range(_PARTITIONS if topic == GPU else 1)
        }
        self._log.begin(dict(self._next), 0, START_US)
        self._held: list[Message] = []
        self._every_us, self._due_us = every_us, START_US
        self.alerts: list[Alert] = []
        self.incidents: list[Incident] = []
        self.snapshots = 0
        self.made_us: dict[tuple[str, int], int] = {}
        """Bus time at which each revision of an incident was made."""

    async def start(self) -> None:
        """Nothing to connect."""

    async def stop(self) -> None:
        """The rest."""
        self._feed(2**62)

    async def send(self, messages: Sequence[Message]) -> None:
        """Takes messages in; evaluates once enough time has passed."""
        self._held += messages
        newest_us = max(map(_arrival_us, messages), default=0)
        if newest_us - _HELD_US >= self._due_us:
            self._due_us = newest_us - _HELD_US + self._every_us
            self._feed(newest_us - _HELD_US)

    def _feed(self, until_us: int) -> None:
        self._held.sort(key=_arrival_us)
        count = bisect_right(self._held, until_us, key=_arrival_us)
        ready, self._held = self._held[:count], self._held[count:]
        for _, some in groupby(ready, lambda one: _arrival_us(one) // self._every_us):
            self._lump(list(some))

    def _lump(self, messages: Sequence[Message]) -> None:
        some: dict[Partition, list[Message]] = {}
        for one in messages:
            number = zlib.crc32(one.key) % _PARTITIONS if one.topic == GPU else 0
            some.setdefault(Partition(one.topic, number), []).append(one)
        chunks = [self._chunk(at, of) for at, of in some.items() if at in self._next]
        newest_us = _arrival_us(messages[-1])
        self._clock.now_us = max(self._clock.now_us, newest_us)
        self._log.take_in(chunks, self._clock.now_us)
        self._evaluate(newest_us)

    def _chunk(self, at: Partition, some: Sequence[Message]) -> Chunk:
        first = self._next[at]
        self._next[at] += len(some)
        return Chunk(
            at,
            range(first, self._next[at]),
            [_arrival_us(one) for one in some],
            [one.key for one in some],
            [one.value for one in some],
        )

    def _evaluate(self, watermark_us: int) -> None:
        more = True
        while more:
            alerts, incidents, saved, more = self._log.advance(watermark_us)
            self.alerts += [one for one in alerts if one.state == "firing"]
            self.incidents += incidents
            self.made_us.update({(one.id, one.revision): watermark_us for one in incidents})
            self.snapshots += saved is not None


def _arrival_us(message: Message) -> int:
    return message.arrival_us or 0


def shipped() -> AlertOptions:
    """The alerts with the rules and the physics that an installation has."""
    return AlertOptions(
        rules=load_rules(),
        physics=ThermalPhysics,
        folding=lambda saved: Incidents.restored(saved) if saved else Incidents(),
    )


async def simulated(options: SourceOptions, every_us: int) -> Straight:
    """A simulated site, all of it through the alerts."""
    source = create(options, SystemClock())
    straight = Straight(source.inventory, shipped(), every_us)
    await source.run(straight, asyncio.Event())
    await straight.stop()
    return straight


def known(truth: Path) -> list[dict[str, Any]]:
    """The faults that there were, by the simulator's own account."""
    rows = [json.loads(line) for line in (truth / "physical.jsonl").read_text().splitlines()]
    return [row["fault"] for row in rows if "fault" in row]
