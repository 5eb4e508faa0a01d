"""Alerts beside the live figures: reads the bus, publishes what changes, keeps its memory there."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from collectors.contract.bus import (
    Bus,
    BusUnavailableError,
    Consumer,
    Message,
    Partition,
    Producer,
    RefusedError,
)
from collectors.contract.inventory import Inventory
from collectors.contract.record import Origin
from collectors.contract.topics import ALERTS, ALLOC
from collectors.kit.clock import Clock
from pipeline.health import HealthBoard
from pipeline.watch.alerts import memory, state
from pipeline.watch.alerts.follow import TOPICS, AlertLog, AlertOptions
from pipeline.watch.alerts.publish import Published, messages
from pipeline.watch.alerts.state import Saved
from pipeline.watch.lead import Lead

_log = logging.getLogger(__name__)
GROUP = "petawatch-alerts"
_FETCH_S = 0.1
_BEHIND_WALL_US = 5_000_000
"""How far behind the wall clock silence is taken for time after a restart."""


_BEGUN_OLD_US = 600_000_000
"""A beginning without a snapshot that is longer ago is none to go on from."""


def _still(saved: Mapping[str, int], ends: Mapping[Partition, int]) -> dict[Partition, int]:
    """Saved positions of the partitions that there are."""
    return {p: at for p, at in memory.partitions_of(saved).items() if p in ends}


class AlertWatch:
    """Runs the alerts until it is stopped; an absent bus is waited for, and nothing is lost by it.

    Of several one publishes (`Lead`); the others wait, and begin where it ended.
    """

    def __init__(
        self,
        bus: Bus,
        inventory: Callable[[], Inventory],
        options: AlertOptions,
        clock: Clock,
        board: HealthBoard,
    ) -> None:
        self._bus, self._inventory, self._options = bus, inventory, options
        self._clock, self._board = clock, board
        self._lead = Lead(bus, options.prefix + ALERTS, options.prefix + GROUP, clock, board)
        self._published = Published()
        self._unsent: deque[Message] = deque()
        self._snapshot: list[Message] = []
        self._turn = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop`."""
        leading = asyncio.create_task(self._lead.run())
        try:
            while not stop.is_set():
                if leading.done():
                    leading.result()
                if self._lead.term:
                    await self._life(stop)
                else:
                    await self._clock.sleep(_FETCH_S)
        finally:
            leading.cancel()
            with suppress(asyncio.CancelledError):
                await leading

    async def _life(self, stop: asyncio.Event) -> None:
        """From the last snapshot on, until the term ends or the bus is away: what was sent before
        is not sent again."""
        term = self._lead.term
        consumer, producer = self._bus.consumer(self._topics(), None), self._bus.producer()
        started: list[Consumer | Producer] = []
        self._unsent.clear()
        self._snapshot.clear()
        try:
            for part in (consumer, producer):
                await part.start()
                started.append(part)
            log = await self._log_of(consumer)
            while not stop.is_set() and self._lead.term == term:
                await self._step(log, consumer, producer)
        except BusUnavailableError as error:
            _log.warning("alerts_wait reason=%s", error)
            self._board.add("bus_unavailable")
            await self._clock.sleep(1.0)
        finally:
            for part in started:
                await part.stop()

    def _topics(self) -> list[str]:
        return [self._options.prefix + name for name in TOPICS]

    async def _log_of(self, consumer: Consumer) -> AlertLog:
        """Where the snapshot says, else where one began that lived too shortly for a snapshot, else
        at the end of the log (allocations: all of them)."""
        prefix = self._options.prefix
        saved, begun = await state.read_state(self._bus, prefix)
        self._published = Published()
        await self._published.read(self._bus, prefix + ALERTS)
        starts = await consumer.end_offsets()
        if saved is not None:
            starts.update(_still(saved.positions, starts))
        elif begun is not None and self._clock.wall_us() - begun.at_us < _BEGUN_OLD_US:
            starts.update(_still(begun.positions, starts))
        else:
            first = self._options.from_start
            starts = {
                p: 0 if first or p.topic == prefix + ALLOC else at for p, at in starts.items()
            }
            here = state.Begun(memory.texts_of(starts), self._clock.wall_us())
            self._snapshot = [state.begun_message(here, prefix)]
        for partition, offset in starts.items():
            await consumer.seek(partition, offset)
        log = AlertLog(self._inventory, self._options, self._clock, self._board, saved)
        log.begin(starts, self._newest_us(saved), self._clock.monotonic_us())
        self._board.add("alerts_lives")
        _log.info("alerts_begin snapshot=%s", "none" if saved is None else saved.done_s)
        return log

    def _newest_us(self, saved: Saved | None) -> int:
        """Bus time that has passed for sure: where a site is live, silence is told from the wall."""
        if saved is None:
            return 0
        live = saved.origin == Origin.MEASURED
        return max(saved.newest_us, self._clock.wall_us() - _BEHIND_WALL_US if live else 0)

    async def _step(self, log: AlertLog, consumer: Consumer, producer: Producer) -> None:
        chunks = await consumer.fetch(_FETCH_S, self._options.fetch_records)
        log.take_in(chunks, self._clock.monotonic_us())
        self._board.set("alerts_lost", consumer.lost)
        if await self._send(producer) and log.ready(self._clock.monotonic_us()):
            ends = await consumer.end_offsets()
            watermark_us = log.frontier.watermark_us(ends, self._clock.monotonic_us())
            more = True
            while more:
                more = self._advance(log, watermark_us)
                more = await self._send(producer) and more
                await asyncio.sleep(0)

    def _advance(self, log: AlertLog, watermark_us: int) -> bool:
        alerts, incidents, saved, more = log.advance(watermark_us)
        new = self._published.new(alerts, incidents)
        self._unsent.extend(messages(new, self._options.prefix))
        if saved is not None:
            self._turn += 1
            self._snapshot = state.messages(saved, self._options.prefix, self._turn)
        self._board.set("alerts_done_s", log.done_s)
        self._board.set("alerts_repeats", self._published.repeats)
        return more

    async def _send(self, producer: Producer) -> bool:
        """Transitions, then the snapshot that follows them: never the other way about.

        False where it is not known just now who leads: then they wait, nothing more is evaluated,
        and another one's term drops them.
        """
        if not (self._unsent or self._snapshot):
            return True
        async with self._lead.publishing() as leads:
            if not leads:
                return False
            batch = list(self._unsent)
            if batch:
                await self._sent(producer, batch, "alerts_sent")
                self._unsent.clear()
            if self._snapshot:
                snapshot, self._snapshot = self._snapshot, []
                await self._sent(producer, snapshot, "alerts_snapshots")
        return True

    async def _sent(self, producer: Producer, batch: list[Message], counter: str) -> None:
        try:
            await producer.send(batch)
        except RefusedError as error:
            self._board.add("alerts_unsendable", len(error.refused))
            _log.error("alerts_refused reason=%s", error)
        else:
            self._board.add(counter, len(batch) if counter == "alerts_sent" else 1)
