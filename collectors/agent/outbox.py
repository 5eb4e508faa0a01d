"""Between the agent's ticks and the bus: a bounded queue, and the spool behind it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from collectors.agent.spool import Spool
from collectors.contract.bus import BusUnavailableError, Message, Producer, RefusedError
from collectors.kit.clock import Clock

_log = logging.getLogger(__name__)
_BATCH = 500
_DRAIN_SPOOL_US = 5_000_000
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 30.0


@dataclass(slots=True)
class OutboxCounts:
    """What became of every message: sent + spooled + refused + dropped + queued = put + unspooled."""

    put: int = 0
    sent: int = 0
    spooled: int = 0
    unspooled: int = 0
    refused: int = 0
    dropped: int = 0


class Outbox:
    """Fresh messages first, then the spool in order; the bus may come and go.

    Without a spool the queue alone waits; when it is full its oldest are
    dropped and counted.
    """

    def __init__(
        self, producer: Producer, clock: Clock, *, spool: Spool | None = None, most: int = 10_000
    ) -> None:
        self._producer, self._clock, self._spool = producer, clock, spool
        self._most = most
        self._fresh: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._retry_us = 0
        self._retry_s = _FIRST_RETRY_S
        self._spool_empty = spool is None
        self.counts = OutboxCounts()

    @property
    def queued(self) -> int:
        """Messages that wait in memory."""
        return len(self._fresh)

    def put(self, message: Message) -> None:
        """Takes a message; never waits."""
        self.counts.put += 1
        self._fresh.append(message)
        if len(self._fresh) > self._most:
            self._fresh.popleft()
            self._count_dropped(1, "queue_full")
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Passes messages on until `stop`, then drains."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._wake.clear()
                if self._fresh:
                    await self._pass_on()
                elif self._away_s() <= 0 and not self._spool_empty:
                    await self._pass_spool_on()
                if not self._ready():
                    await self._idle(stopping)
            await self._drain()
        finally:
            stopping.cancel()
        _log.info("outbox_closed counts=%s", self.counts)

    async def _drain(self) -> None:
        """One last attempt with what waits, and with the spool for as long as stopping may take."""
        until_us = self._clock.monotonic_us() + _DRAIN_SPOOL_US
        self._retry_us = 0
        while self._fresh and self._away_s() <= 0:
            await self._pass_on()
        if self._fresh:
            self._count_dropped(len(self._fresh), "stopped")
            self._fresh.clear()
        while not self._spool_empty and self._away_s() <= 0:
            if self._clock.monotonic_us() > until_us:
                break
            await self._pass_spool_on()

    def _away_s(self) -> float:
        return (self._retry_us - self._clock.monotonic_us()) / 1e6

    def _ready(self) -> bool:
        if self._away_s() > 0:
            return bool(self._fresh) and self._spool is not None
        return bool(self._fresh) or not self._spool_empty

    async def _idle(self, stopping: asyncio.Task[bool]) -> None:
        """Waits for a message, the time of the next attempt, or the end."""
        away_s = self._away_s()
        waker = asyncio.create_task(self._wake.wait())
        timeout_s = away_s if away_s > 0 else None
        waiting: set[asyncio.Task[bool]] = {stopping}
        if away_s <= 0 or self._spool is not None:
            waiting.add(waker)
        try:
            await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waker.cancel()

    async def _pass_on(self) -> None:
        batch = [self._fresh.popleft() for _ in range(min(_BATCH, len(self._fresh)))]
        if self._away_s() > 0 or not await self._send(batch):
            await self._keep(batch)

    async def _keep(self, batch: list[Message]) -> None:
        if self._spool is None:
            self._fresh.extendleft(reversed(batch))
            excess = len(self._fresh) - self._most
            for _ in range(excess):
                self._fresh.popleft()
            if excess > 0:
                self._count_dropped(excess, "queue_full")
            return
        try:
            await self._spool.append(batch)
        except (BusUnavailableError, RefusedError) as error:
            _log.exception("spool_failed")
            self._count_dropped(len(batch), type(error).__name__)
            return
        self.counts.spooled += len(batch)
        self._spool_empty = False

    async def _pass_spool_on(self) -> None:
        spool = self._spool
        if spool is None:
            return
        batch = await spool.next()
        if not batch:
            self._spool_empty = True
        elif await self._send(batch):
            await spool.done()
            self.counts.unspooled += len(batch)

    async def _send(self, batch: list[Message]) -> bool:
        """Whether the batch is dealt with; if not, the bus is away for a while."""
        try:
            await self._producer.send(batch)
        except RefusedError as error:
            guilty = len(error.refused)
            self.counts.refused += guilty
            self.counts.sent += len(batch) - guilty
            _log.error("records_refused count=%d reason=%s", guilty, error)
        except BusUnavailableError as error:
            self._retry_us = self._clock.monotonic_us() + int(self._retry_s * 1e6)
            _log.warning("bus_away retry_s=%.0f reason=%s", self._retry_s, error)
            self._retry_s = min(self._retry_s * 2, _LONGEST_RETRY_S)
            return False
        else:
            self.counts.sent += len(batch)
        self._retry_s = _FIRST_RETRY_S
        return True

    def _count_dropped(self, count: int, reason: str) -> None:
        self.counts.dropped += count
        _log.error("messages_dropped count=%d reason=%s", count, reason)
