"""Between the agent's ticks and the bus: what the bus does not take at once is put on disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from collectors.agent.drain import DrainPace, Progress
from collectors.agent.folded import FoldedLog
from collectors.agent.memory_queue import Flight, MemoryQueue
from collectors.agent.outbox_counts import OutboxCounts
from collectors.agent.patience import Bell, limit_from, patiently
from collectors.agent.prompt import Prompt
from collectors.agent.reach import Reach
from collectors.agent.spool import COMPACTED, Kept, Spool, to_its_end
from collectors.contract.bus import BusUnavailableError, Message, Producer, RefusedError
from collectors.kit.clock import Clock

_log = logging.getLogger(__name__)
_BATCH = 500
PATIENCE_S = 1.0
"""What the bus has not acknowledged within it is on disk."""
_DISK_RETRY_US = 2_000_000
_BLOCKED_S = 0.5
_STOP_S, _STOP_TURN_S = 5.0, 0.05
_STOP_DRAIN_US = 3_000_000
"""How long stopping may take for what is on disk, while it leaves."""


class Outbox:
    """Fresh messages first, then the spool in order; the bus may come and go.

    Without a spool, or while its disk fails, messages wait in memory; what is
    more than `most` or than 8 MiB is dropped there, the oldest first, and
    counted.  `spool_rate` is in records a second of the clock; what the bus has
    not acknowledged after `patience_s` is put on disk while it is waited for.
    """

    def __init__(
        self, producer: Producer, clock: Clock, *, spool: Spool | None = None, most: int = 10_000,
        spool_rate: float = 200.0, patience_s: float = PATIENCE_S,
    ) -> None:  # fmt: skip
        self._producer, self._clock, self._spool = producer, clock, spool
        self._folded = FoldedLog(_log, clock)
        self._waiting = MemoryQueue(most)
        self._moving = 0
        """Messages on their way from memory to disk."""
        self._flight = Flight()
        self._patience_s = patience_s
        self._bell = Bell()
        self._reach = Reach(clock, self._folded)
        self._prompt = Prompt(producer, self._reach, spool)
        self._pace = DrainPace(clock, spool_rate)
        self._disk_us = 0
        """When a disk that failed is tried again."""
        self.counts = OutboxCounts()

    @property
    def queued(self) -> int:
        """Messages that are in memory, those on their way to the bus or the disk included."""
        flying = 0 if self._flight.is_spooled else len(self._flight.messages)
        return len(self._waiting) + self._moving + flying

    def put(self, message: Message) -> None:
        """Takes a message; where it is the only one, and the bus takes it at once, it is sent."""
        self.counts.put += 1
        if not (self.queued or self._flight.messages) and self._prompt.sends(message):
            self.counts.sent += 1
            return
        self._count_dropped(self._waiting.put(message), "memory_full")
        self._bell.ring()

    def progress(self) -> Progress:
        """How the disk and the bus stand."""
        spool, is_away = self._spool, self._reach.is_away
        if spool is None:
            return Progress(0, 0, self.counts.dropped, is_away, 0.0, None, "")
        rate = 0.0 if is_away else self._pace.rate
        eta_s = spool.left / rate if rate else None
        return Progress(spool.left, spool.bytes, spool.dropped, is_away, rate, eta_s, spool.reason)

    @property
    def copies(self) -> int:
        """Messages on their way to the bus that are on disk as well."""
        kept = self._flight.kept
        return 0 if kept is None else len(kept.positions)

    @property
    def is_safe(self) -> bool:
        """Whether nothing is in memory alone: kill -9 would lose nothing now."""
        return self.queued == self.copies

    async def run(self, stop: asyncio.Event) -> None:
        """Passes messages on until `stop`; then what is left goes to the bus, or to disk."""
        stopping = asyncio.create_task(stop.wait())
        try:
            async with asyncio.timeout(None) as limit:
                stopping.add_done_callback(
                    lambda asked: limit_from(limit, asked, _STOP_S) or self._bell.ring()
                )
                while not stop.is_set():
                    self._bell.quiet()
                    got_on = await self._turn()
                    await self._idle(stopping, got_on=got_on)
                await self._finish()
        except TimeoutError:
            _log.warning("stopped_while_sending queued=%d", self.queued)
        except asyncio.CancelledError:
            await self._keep()
            raise
        finally:
            stopping.cancel()
        await self._keep()
        self._count_dropped(len(self._waiting.take_all()), "stopped")
        _log.info("outbox_closed counts=%s", self.counts)

    async def _turn(self) -> bool:
        """One step; whether there was one to make."""
        await self._try_disk()
        if self._reach.resting:
            return await self._keep()
        flight = Flight(self._waiting.take(_BATCH, self._blocked()))
        if not flight.messages:
            return await self._keep() or await self._drain()
        self._flight = flight
        if self._reach.is_away:  # what tries whether the bus is back must not be lost in trying
            await self._keep()
        await self._deliver(flight)
        return True

    async def _try_disk(self) -> None:
        """Now and then, whether a disk that failed works again."""
        now_us = self._clock.monotonic_us()
        if self._spool is not None and self._spool.reason and now_us >= self._disk_us:
            self._disk_us = now_us + _DISK_RETRY_US
            await self._spool.check()

    def _blocked(self) -> tuple[str, ...]:
        """Endings of topics whose fresh messages may not go to the bus now."""
        behind = self._spool is not None and self._spool.holds_compacted
        return self._reach.missing() + (COMPACTED if behind else ())

    async def _deliver(self, flight: Flight) -> bool:
        """Sends; whatever is in memory when the bus has not answered for a while goes to disk."""
        self._flight = flight
        try:
            error = await patiently(self._attempt(flight), self._patience_s, self._keep)
        except asyncio.CancelledError:
            self._take_back(flight)
            raise
        if error is None or isinstance(error, RefusedError):
            await self._delivered(flight, error)
            return True
        self._reach.failed(error)
        self._take_back(flight)
        return False

    async def _attempt(self, flight: Flight) -> Exception | None:
        try:
            await self._producer.send(flight.messages)
        except Exception as error:
            return error
        return None

    async def _delivered(self, flight: Flight, error: RefusedError | None) -> None:
        refused = 0 if error is None else len(error.refused)
        if refused:
            self._folded.error("refused", "records_refused count=%d reason=%s", refused, error)
        self.counts.refused += refused
        self.counts.sent += len(flight.messages) - refused
        self.counts.unspooled += len(flight.messages) if flight.is_spooled else 0
        self._flight = Flight()
        spool = self._spool
        if self._reach.answered():
            _log.warning("bus_back waiting_on_disk=%d", 0 if spool is None else spool.left)
        if spool is not None and flight.is_spooled:
            await to_its_end(asyncio.create_task(spool.done()))
        elif spool is not None and flight.kept is not None:
            await to_its_end(asyncio.create_task(spool.remove(flight.kept)))

    def _take_back(self, flight: Flight) -> None:
        """What was not sent waits: on disk where it is there already, else in memory."""
        self._flight = Flight()
        if flight.kept is not None:
            self.counts.spooled += len(flight.messages)
        elif not flight.is_spooled:
            self._put_back(flight.messages)

    def _put_back(self, messages: Sequence[Message]) -> None:
        self._count_dropped(self._waiting.put_back(messages), "memory_full")

    async def _keep(self) -> bool:
        """Puts all that is in memory alone on disk; whether any was."""
        flight = self._flight
        flying = [] if flight.is_spooled or flight.kept is not None else flight.messages
        if self._spool is None or self._spool.reason or not (flying or self._waiting):
            return False
        waiting = self._waiting.take_all()
        self._moving = len(waiting)
        appending = asyncio.create_task(self._spool.append([*flying, *waiting]))
        try:
            await to_its_end(appending)
        finally:
            self._moving = 0
            is_kept = self._is_kept(appending, waiting, flight if flying else None)
        return is_kept

    def _is_kept(
        self, appended: asyncio.Task[Kept], waiting: Sequence[Message], flight: Flight | None
    ) -> bool:
        """Counts what the disk has taken, or takes back what it has not."""
        error = appended.exception()
        if error is not None:
            self._put_back(waiting)
            if not isinstance(error, BusUnavailableError):
                raise error
            self._disk_us = self._clock.monotonic_us() + _DISK_RETRY_US
            return False
        kept = appended.result()
        self.counts.spooled += len(waiting)
        if flight is not None:
            flight.kept = Kept(kept.file, kept.positions[: len(flight.messages)])
        return True

    async def _drain(self) -> bool:
        """Sends some of the spool, where it is time for that."""
        spool = self._spool
        if spool is None or not spool.left or self._pace.due_us() > self._clock.monotonic_us():
            return False
        messages = await spool.next(self._pace.batch, self._reach.missing())
        if not messages:
            self._pace.rest()
            return False
        if await self._deliver(Flight(messages, is_spooled=True)):
            self._pace.sent(len(messages), spool.left)
        return True

    async def _idle(self, stopping: asyncio.Task[bool], *, got_on: bool) -> None:
        """Waits for a message, the end, or what is due next."""
        timeout_s = self._due_s()
        if not got_on and timeout_s is not None:
            timeout_s = max(timeout_s, _BLOCKED_S if self._waiting else 0.01)
        if timeout_s == 0:
            return
        wakes = got_on or not self._waiting
        if wakes and timeout_s is None:
            await self._bell.wait()
            return
        ends: list[asyncio.Task[None]] = []
        if wakes:
            ends.append(asyncio.create_task(self._bell.wait()))
        if timeout_s is not None:
            ends.append(asyncio.create_task(self._clock.sleep(timeout_s)))
        try:
            await asyncio.wait([stopping, *ends], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    def _due_s(self) -> float | None:
        """Seconds until something is to be done without a new message; None for never."""
        now_us = self._clock.monotonic_us()
        spool, retry_us = self._spool, self._reach.retry_us if self._reach.is_away else 0
        times: list[int] = []
        if self._waiting:
            times.append(retry_us if spool is None else 0)
        if spool is not None and spool.left:
            times.append(max(self._pace.due_us(), retry_us))
        if spool is not None and spool.reason:
            times.append(self._disk_us)
        return None if not times else max(0.0, (min(times) - now_us) / 1e6)

    async def _finish(self) -> None:
        """A last attempt where the bus is not known to be away."""
        if self._spool is None:
            self._reach.retry_us = 0
        until_us = self._clock.monotonic_us() + _STOP_DRAIN_US
        while self._is_worth_waiting(until_us):
            if not await self._turn():
                await asyncio.sleep(_STOP_TURN_S)

    def _is_worth_waiting(self, until_us: int) -> bool:
        """Whether stopping may take a moment longer for what is left: on disk until then, and only
        while it leaves."""
        spool = self._spool
        if self._reach.resting or (self._reach.is_away and spool is not None):
            return False
        if self._waiting or spool is None or spool.holds_compacted:
            return bool(self._waiting) or spool is not None
        return spool.left > 0 and max(self._clock.monotonic_us(), self._pace.due_us()) < until_us

    def _count_dropped(self, count: int, reason: str) -> None:
        if not count:
            return
        self.counts.dropped += count
        if self._spool is not None:
            self._spool.add_dropped(count)
        self._folded.error(reason, "messages_dropped count=%d reason=%s", count, reason)
