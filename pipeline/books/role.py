"""The `books` role: allocations and minutes into the hour ledger.

One process leads, others stand by (`pipeline.books.leader`).  Positions on the bus move in the
transaction that keeps what was read there, and a node-hour is replaced in one with its day totals:
after kill -9 at any moment the books go on where the database says and come to the same rows.

The hour that goes on is computed up to `as_of`: the bus time that all
partitions of the GPU records have passed, less `margin_s`, in whole seconds.
An hour is final when all have passed its end by `lateness_s`; what comes
later computes it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from collectors.contract.bus import Bus, BusUnavailableError, Chunk, Partition
from collectors.contract.inventory import Inventory
from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.contract.topics import ALLOC, FLUSHED, GPU
from collectors.kit.clock import Clock
from pipeline.books import progress
from pipeline.books.compute import Computer
from pipeline.books.database import BooksUnavailableError, Database
from pipeline.books.deadline import Deadline
from pipeline.books.inbox import Inbox
from pipeline.books.leader import Leader, LeadershipLostError
from pipeline.books.reach import Reach
from pipeline.books.remember import Memory
from pipeline.books.rows import HOUR_US
from pipeline.books.site_now import SiteNow
from pipeline.health import HealthBoard
from pipeline.series.port import SeriesStore, StoreUnavailableError

_log = logging.getLogger(__name__)
_SECOND_US = 1_000_000
_DRAINED_S = 10.0
_STANDBY_S = 1.0
"""Between two looks whether the one that leads is gone."""
_AWAY = (BusUnavailableError, BooksUnavailableError)


@dataclass(frozen=True, slots=True)
class BooksSettings:
    """How the books work; `chunk_minutes` bounds the GPU-minutes in memory at once."""

    prefix: str = ""
    interval_s: float = 60.0
    lateness_s: float = 900.0
    margin_s: float = 3.0
    chunk_minutes: int = 8_000
    minutes_days: float = 90.0
    """How long the series store keeps minutes."""


class Books:
    """Reads `telemetry.alloc` and `petawatch.flushed`, writes the ledger."""

    def __init__(
        self,
        bus: Bus,
        series: SeriesStore,
        inventory: Callable[[], Inventory],
        database: Database,
        settings: BooksSettings,
        clock: Clock,
        board: HealthBoard,
        tenants: Callable[[], Tenants] = lambda: NO_TENANTS,
    ) -> None:
        """`inventory` and `tenants` are called for what the site's files say now."""
        self._bus = bus
        self._series = series
        self._database = database
        self._leader = Leader(database)
        self._settings = settings
        self._clock = clock
        self._board = board
        database.report_to(board)
        self._topics = [settings.prefix + ALLOC, settings.prefix + FLUSHED]
        self._site = SiteNow(inventory, tenants, self._leader, clock, self._topics[0])
        self._consumer = bus.consumer(self._topics, None)
        self._inbox = Inbox(settings.prefix, board)
        self._read: dict[Partition, int] = {}
        self._computer = self._new_computer(Memory())
        self._reach = Reach(bus, settings.prefix + GPU, database)
        self._deadline = Deadline(database, board, settings.minutes_days)
        self._open = False
        self._alone = asyncio.Lock()
        self._due_us = 0
        self.as_of_us: int | None = None
        """Up to when the ledger is computed; None before the first time."""

    def _new_computer(self, memory: Memory) -> Computer:
        return Computer(
            self._series, self._leader, memory, self._clock, self._board,
            chunk_minutes=self._settings.chunk_minutes,
        )  # fmt: skip

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop`, or stands by while another does; waits for a bus, a database or a
        store that is away."""
        try:
            while not stop.is_set():
                try:
                    await self._lead(stop)
                except LeadershipLostError as error:
                    self._board.add("books_followed")
                    _log.warning("leadership_lost %s", error)
                    await self.close()
                    self.as_of_us = None
        except _AWAY:
            # What was not kept is read again after the next start.
            if not stop.is_set():
                raise
        finally:
            await self.close()

    async def _lead(self, stop: asyncio.Event) -> None:
        while not (stop.is_set() or self._leader.leads):
            await self._retry(self._stand_by, stop)
        if not stop.is_set():
            await self._retry(self._start, stop)
        while not stop.is_set():
            async with self._alone:
                await self._turn(stop)
        await self._keep()

    async def _stand_by(self) -> None:
        """Waits a while where another leads."""
        await self._database.start()
        leads = await self._leader.take()
        self._board.set("books_leads", int(leads))
        if not leads:
            await self._clock.sleep(_STANDBY_S)

    async def close(self) -> None:
        """Leaves the bus and the lead; for those who call `finish` without `run`."""
        self._inbox.clear()
        self._deadline.forget()
        if self._open:
            self._open = False
            await self._consumer.stop()
        await self._leader.leave()

    async def finish(self) -> None:
        """Reads all that is on the bus, then computes every hour of the ledger whole.

        For when everything was flushed.  Raises what the parts raise when away.
        """
        async with self._alone:
            while not self._leader.leads:
                await self._stand_by()
            await self._start()
            await self._drain()
            await self._keep()
            last = await self._database.read(progress.last_hour)
            if last is not None:
                until_us = (last + 1) * HOUR_US
                await self._compute(until_us, await self._final_before_us(), again=True)
                self.as_of_us = until_us

    async def _start(self) -> None:
        if self._open:
            return
        await self._site.adopt(anew=True)
        memory = Memory(await self._database.read(progress.read_spans))
        self._computer = self._new_computer(memory)
        saved = await self._database.read(progress.read_positions)
        self._consumer = self._bus.consumer(self._topics, None)
        self._read = {}
        self._reach.forget()
        await self._consumer.start()
        ends = await self._consumer.end_offsets()
        for partition, end in ends.items():
            offset = saved.get((partition.topic, partition.number))
            if offset is None:
                continue
            if offset > end:
                _log.warning("topic_made_anew topic=%s position=%d", partition.topic, offset)
                self._board.add("books_positions_void", 1, topic=partition.topic)
                offset = 0
            await self._consumer.seek(partition, offset)
            self._read[partition] = offset
        self._due_us = self._clock.monotonic_us() + int(self._settings.interval_s * 1e6)
        self._open = True

    async def _retry(self, work: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        """Does work once its peers are there; their absence is raised only when stopped."""

        async def say(state: RetryCallState) -> None:
            self._board.add("books_waits")
            _log.warning("peer_away attempt=%d", state.attempt_number)

        await AsyncRetrying(
            retry=retry_if_exception_type(_AWAY),
            wait=wait_exponential_jitter(multiplier=0.1, max=5.0),
            stop=lambda _: stop.is_set(),
            sleep=self._clock.sleep,
            before_sleep=say,
            reraise=True,
        )(work)

    async def _turn(self, stop: asyncio.Event) -> None:
        wait_s = (self._due_us - self._clock.monotonic_us()) / 1e6
        try:
            self._take(await self._consumer.fetch(max(0.0, min(1.0, wait_s))))
        except BusUnavailableError:
            self._board.add("bus_unavailable")
            await self._clock.sleep(0.5)
        if self._inbox.allocations:
            await self._retry(self._keep, stop)
        await self._retry(self._adopt, stop)
        if self._clock.monotonic_us() < self._due_us:
            return
        try:
            await self._keep()
            await self._cycle()
        except (*_AWAY, StoreUnavailableError) as error:
            self._board.add("books_put_off")
            _log.warning("cycle_put_off %s", error)
        self._due_us = self._clock.monotonic_us() + int(self._settings.interval_s * 1e6)

    def _take(self, chunks: Sequence[Chunk]) -> None:
        self._inbox.take(chunks)
        for chunk in chunks:
            self._read[chunk.partition] = chunk.next_offset

    async def _keep(self) -> None:
        """Writes what was read; an allocation that changes an older hour asks for a cycle now."""
        if self._inbox.empty:
            return
        earliest = await self._leader.write(self._inbox.write)
        self._inbox.clear()
        self._hurry(earliest)

    def _hurry(self, earliest: int | None) -> None:
        if earliest is not None and (earliest + 1) * HOUR_US <= (self.as_of_us or 0):
            self._due_us = min(self._due_us, self._clock.monotonic_us())

    async def _adopt(self) -> None:
        self._hurry(await self._site.adopt())

    async def _compute(self, until_us: int, final_before_us: int, *, again: bool = False) -> None:
        inventory, tenants = self._site.files
        await self._computer.compute(
            inventory, until_us, final_before_us, tenants=tenants, again=again
        )

    async def _cycle(self) -> None:
        reached = await self._reach.reached_us()
        self._board.add("books_cycles")
        if reached is None:
            return
        until_us = (reached - int(self._settings.margin_s * 1e6)) // _SECOND_US * _SECOND_US
        until_us = max(until_us, self.as_of_us or 0)
        await self._compute(until_us, reached - self._lateness_us)
        self.as_of_us = until_us
        self._board.set("books_as_of_us", until_us)
        await self._deadline.tell(self._site.files.inventory.time_zone, until_us)

    @property
    def _lateness_us(self) -> int:
        return int(self._settings.lateness_s * 1e6)

    async def _final_before_us(self) -> int:
        reached = await self._reach.reached_us()
        return 0 if reached is None else reached - self._lateness_us

    async def _drain(self) -> None:
        """Reads to the end of the topics as it is now."""
        ends = await self._consumer.end_offsets()
        since_us = self._clock.monotonic_us()
        while any(self._read.get(partition, 0) < end for partition, end in ends.items()):
            chunks = await self._consumer.fetch(0.2)
            self._take(chunks)
            now_us = self._clock.monotonic_us()
            if chunks:
                since_us = now_us
            elif now_us - since_us > _DRAINED_S * 1e6:
                # What retention removed will never come.
                return
