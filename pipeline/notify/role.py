"""The `notify` role: follows the log of alerts and tells the targets.

Its state is the log's: incidents, and beside them what was delivered where.
A notice is written down as `sending` before the first attempt and as `sent`
after it, so that a crash between the two repeats it, with the same key, and
the repeat is counted.  Needs neither database nor series store.  One process
acts, the member of the group that has the topic's partition; others stand by.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from collectors.contract.alerts import Control, Delivery, Incident, parse_alert_record
from collectors.contract.bus import (
    Bus,
    BusUnavailableError,
    Chunk,
    Consumer,
    Partition,
    Producer,
)
from collectors.contract.inventory import Inventory
from collectors.contract.topics import ALERTS, ALLOC, CONTROL, Allocation
from collectors.kit.clock import Clock
from pipeline.health import HealthBoard
from pipeline.notify.desk import Desk
from pipeline.notify.outlet import NotifyOptions, Office, Outlet
from pipeline.notify.quiet import Quiet
from pipeline.notify.senders import make_sender
from pipeline.notify.targets import AnyTarget, Secrets

_log = logging.getLogger(__name__)
GROUP = "petawatch-notify"
_AT_ONCE = 5_000


class Notifier:
    """Tells targets of incidents until it is stopped."""

    def __init__(
        self,
        bus: Bus,
        inventory: Callable[[], Inventory],
        targets: Sequence[AnyTarget],
        secrets: Secrets,
        options: NotifyOptions,
        clock: Clock,
        board: HealthBoard,
    ) -> None:
        """Raises ConfigError where a target needs what is not installed."""
        self._bus, self._clock, self._board = bus, clock, board
        self._targets, self._options = targets, options
        self._inventory = inventory
        self._senders = {one.name: make_sender(one, secrets, clock) for one in targets}
        self._alerts = options.prefix + ALERTS
        self._others = [options.prefix + CONTROL, options.prefix + ALLOC]

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop`; a bus that is away is tried again."""
        try:
            while not stop.is_set():
                try:
                    await self._work(stop)
                except BusUnavailableError as error:
                    self._board.add("bus_unavailable")
                    _log.warning("bus_away error=%s", type(error).__name__)
                    await self._clock.sleep(1.0)
        finally:
            for sender in self._senders.values():
                await sender.close()

    async def _work(self, stop: asyncio.Event) -> None:
        """One term: from getting the partition to losing it or the bus."""
        group = self._bus.consumer([self._alerts], self._options.prefix + GROUP)
        others = self._bus.consumer(self._others, None)
        producer = self._bus.producer()
        started: list[Any] = []
        try:
            for part in (group, others, producer):
                await part.start()
                started.append(part)
            term = _Term(self, others, producer)
            while not stop.is_set():
                chunks = await group.fetch(0.5, _AT_ONCE)
                if term.holds != bool(group.assigned):
                    await term.end()
                    term = _Term(self, others, producer)
                    if group.assigned:
                        await term.begin(group)
                    continue  # what was fetched before the seek is read again
                await term.turn(chunks)
            await term.end()
        finally:
            for part in reversed(started):
                with suppress(BusUnavailableError):
                    await part.stop()

    def outlets(self, desk: Desk, quiet: Quiet, producer: Producer) -> list[Outlet]:
        """One outlet per target."""
        office = Office(
            desk, quiet, producer, self._alerts, self._inventory, self._options,
            self._clock, self._board,
        )  # fmt: skip
        return [Outlet(one, self._senders[one.name], office) for one in self._targets]

    @property
    def targets(self) -> Sequence[AnyTarget]:
        """Whom it tells."""
        return self._targets

    @property
    def board(self) -> HealthBoard:
        """What it counts on."""
        return self._board

    @property
    def clock(self) -> Clock:
        """Its clock."""
        return self._clock

    @property
    def control_topic(self) -> str:
        """Where people's wishes come from."""
        return self._others[0]


class _Term:
    """The time in which this process is the one that tells."""

    def __init__(self, notifier: Notifier, others: Consumer, producer: Producer) -> None:
        self._notifier, self._others, self._producer = notifier, others, producer
        self._desk, self._quiet = Desk(notifier.targets), Quiet()
        self._outlets: list[Outlet] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._ends: Mapping[Partition, int] = {}
        self._began_us = 0
        self._read: dict[Partition, int] = {}
        self.holds = False
        """Whether the partition is ours."""

    async def begin(self, group: Consumer) -> None:
        """Reads from the beginning of all three topics; nobody is told before their ends."""
        self.holds = True
        self._began_us = self._notifier.clock.wall_us()
        self._ends = {**await group.end_offsets(), **await self._others.end_offsets()}
        for consumer in (group, self._others):
            for partition in consumer.assigned:
                await consumer.seek(partition, 0)

    async def turn(self, chunks: Sequence[Chunk]) -> None:
        """Takes what came, and starts the outlets once the log is known."""
        more = await self._others.fetch(0.0, _AT_ONCE) if self.holds else []
        for chunk in (*chunks, *more):
            self._take(chunk)
        if not self.holds:
            return
        self._quiet.forget(self._notifier.clock.wall_us())
        if not self._tasks and self._caught_up():
            self._outlets = self._notifier.outlets(self._desk, self._quiet, self._producer)
            self._tasks = [asyncio.create_task(one.run()) for one in self._outlets]
        for task in self._tasks:
            if task.done():
                task.result()
        for outlet in self._outlets:
            outlet.look()
        self._notifier.board.set("notify_folded", self._desk.folded)

    def _caught_up(self) -> bool:
        return all(
            self._read.get(partition, 0) >= end for partition, end in self._ends.items() if end
        )

    async def end(self) -> None:
        """Stops telling; what is under way is told by whoever comes next."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError, BusUnavailableError):
                await task

    def _take(self, chunk: Chunk) -> None:
        topic = chunk.partition.topic
        for key, value, bus_us in zip(chunk.keys, chunk.values, chunk.bus_us, strict=True):
            try:
                self._take_one(topic, bytes(key), bytes(value), bus_us)
            except (ValueError, msgspec.DecodeError) as error:
                self._notifier.board.add("notify_refused_records")
                _log.warning("record_refused topic=%s %s", topic, error)
        self._read[chunk.partition] = chunk.next_offset

    def _take_one(self, topic: str, key: bytes, value: bytes, bus_us: int) -> None:
        if topic == self._notifier.control_topic:
            control = msgspec.json.decode(value, type=Control)
            self._quiet.take_control(control)
            if control.kind == "notify_test" and bus_us >= self._began_us:
                for outlet in self._outlets:
                    outlet.test(control)
        elif key.startswith((b"alert/", b"incident/", b"delivery/")):
            record = parse_alert_record(key, value)
            if isinstance(record, Incident):
                self._desk.take_incident(record, bus_us)
            elif isinstance(record, Delivery):
                self._desk.take_delivery(record)
        else:
            self._quiet.take_allocation(msgspec.json.decode(value, type=Allocation))
