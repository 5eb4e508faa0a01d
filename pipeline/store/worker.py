"""The `store` role: fetch, take in, write, announce, commit, in that order.

What is committed is written; what is written may be written again.  A worker
that dies, stalls or loses its partitions costs repeated writes and nothing
else, since every row has a key of its own writer and parts merge.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from collectors.contract.bus import (
    Bus,
    BusUnavailableError,
    FencedError,
    Message,
    Partition,
    Producer,
)
from collectors.contract.identity import new_run
from collectors.contract.topics import DEAD, FLUSHED, GPU, Flushed, dumps
from collectors.kit.clock import Clock
from pipeline import health
from pipeline.series.port import (
    SeriesStore,
    StoreTooSlowError,
    StoreUnavailableError,
    WriteBatch,
    WriteResult,
)
from pipeline.store.intake import Intake, Snapshot, refused_letters
from pipeline.store.validate import TimeRules

_log = logging.getLogger(__name__)
FEWEST = 500
"""Records of a fetch at least: less is taken in after the group has gone on without this worker."""
MOST_RAW = 200_000
"""Raw samples in memory above which they are written before the flush is due."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a worker works; `group` is the consumer group that shares the partitions."""

    prefix: str = ""
    group: str = "store"
    flush_s: float = 10.0
    raw_interval_s: float = 1.0
    rules: TimeRules = field(default_factory=TimeRules)
    fetch_records: int = 20_000


class StoreWorker:
    """One worker of the group; run as many as there are partitions, anywhere."""

    def __init__(
        self,
        bus: Bus,
        series: SeriesStore,
        options: StoreOptions,
        clock: Clock,
        board: health.HealthBoard,
    ) -> None:
        self._bus = bus
        self._series = series
        self._options = options
        self._clock = clock
        self._board = board
        self._consumer = bus.consumer([options.prefix + GPU], options.prefix + options.group)
        self._producer: Producer = bus.producer()
        self._lock = asyncio.Lock()
        self._intake = self._new_intake()
        self._flushed_us = clock.monotonic_us()
        self._fetch_records = options.fetch_records
        self._given_up = False
        """Whether a request was given up on since the minutes were let go."""
        self._started = False

    def _new_intake(self) -> Intake:
        writer = new_run(self._clock.wall_us(), secrets.randbits(20))
        return Intake(writer, self._options.rules, self._options.raw_interval_s)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop`, then flushes what it has and leaves the group."""
        await self._retry(self._producer.start, BusUnavailableError)
        await self._retry(
            lambda: self._consumer.start(self._on_revoked, self._on_assigned), BusUnavailableError
        )
        self._started = True
        try:
            while not stop.is_set():
                await self._turn()
            async with self._lock:
                await self._flush()
        finally:
            await self._consumer.stop()
            await self._producer.stop()

    async def _turn(self) -> None:
        wait_s = max(0.01, min(0.5, self._due_s()))
        try:
            chunks = await self._consumer.fetch(wait_s, self._fetch_records)
        except BusUnavailableError:
            self._board.add("bus_unavailable")
            await self._clock.sleep(0.5)
            return
        intake = self._intake
        async with self._lock:
            if intake is not self._intake:
                # The partitions went or came anew while this waited: the
                # group's committed offsets hold, and these come again.
                return
            # In a thread, so that this member of the group is heard of meanwhile.
            samples = await asyncio.to_thread(self._intake.take_in, chunks)
            self._board.add("gpu_samples", samples)
            if self._due_s() <= 0 or self._intake.full:
                await self._flush()
            elif self._intake.raw_rows > MOST_RAW:
                result = await self._write(WriteBatch(self._intake.take_raw()))
                self._intake.refused(result.refused)
                self._refused(result)

    def _due_s(self) -> float:
        elapsed_us = self._clock.monotonic_us() - self._flushed_us
        return self._options.flush_s - elapsed_us / 1e6

    async def behind(self) -> dict[Partition, int]:
        """Per partition that this worker has, the records that are not committed yet."""
        lag: dict[Partition, int] = {}
        if not self._started:
            return lag
        for partition, end in (await self._consumer.end_offsets()).items():
            lag[partition] = end - (await self._consumer.committed(partition) or 0)
        return lag

    async def flush(self) -> None:
        """Writes and commits now."""
        async with self._lock:
            await self._flush()

    async def _flush(self) -> None:
        self._flushed_us = self._clock.monotonic_us()
        if not self._intake.pending:
            return
        snapshot = self._intake.snapshot()
        result = await self._write(snapshot.batch)
        snapshot.dead += refused_letters(result.refused)
        self._refused(result)
        await self._retry(lambda: self._announce(snapshot), BusUnavailableError)
        try:
            await self._retry(lambda: self._consumer.commit(snapshot.offsets), BusUnavailableError)
        except FencedError:
            # The group went on without this worker; another one reads the
            # same records again and merges to the same rows.
            _log.warning("commit_fenced partitions=%d", len(snapshot.offsets))
            self._board.add("commits_fenced")
            self._intake, self._given_up = self._new_intake(), False
            # What took too long is done in smaller steps, or it would be begun for ever.
            self._fetch_records = max(FEWEST, self._fetch_records // 2)
            return
        self._fetch_records = min(self._options.fetch_records, 2 * self._fetch_records)
        if self._intake.full or self._given_up:
            # A request that was given up on may be done by the server at any later time: what
            # comes for its minutes begins parts of their own, so that it takes nothing back.
            self._intake.let_go()
            self._given_up = False
        await self._report(snapshot, result)

    def _refused(self, result: WriteResult) -> None:
        """Says that the store will not have some rows, which only a person can mend."""
        if result.refused:
            count, first = len(result.refused), result.refused[0].reason
            _log.error("rows_refused count=%d first_reason=%s", count, first)
            self._board.add("rows_refused", count)

    async def _write(self, batch: WriteBatch) -> WriteResult:
        """Writes until it is durable; meanwhile polling goes on and nothing is taken in."""

        async def write() -> WriteResult:
            return await self._series.write(batch)

        async def paused(state: RetryCallState) -> None:
            self._given_up = True
            self._consumer.pause()
            self._board.set("paused", 1)
            self._board.add("store_unavailable")
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, StoreTooSlowError):
                # The store makes its requests smaller from here on.
                self._board.add("store_too_slow")
            _log.warning("store_away attempt=%d %s", state.attempt_number, error)
            with suppress(BusUnavailableError):
                await self._consumer.fetch(0.0, 1)

        result: WriteResult = await self._retry(write, StoreUnavailableError, paused)
        self._board.set("paused", 0)
        self._consumer.resume()
        return result

    async def _retry(
        self,
        work: Callable[[], Awaitable[Any]],
        error: type[Exception],
        before_sleep: Callable[[RetryCallState], Awaitable[None]] | None = None,
    ) -> Any:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(error),
            wait=wait_exponential_jitter(multiplier=0.1, max=5.0),
            sleep=self._clock.sleep,
            before_sleep=before_sleep or self._absent_peer,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                return await work()
        return None

    async def _absent_peer(self, state: RetryCallState) -> None:
        self._board.add("bus_unavailable")
        _log.warning("peer_away attempt=%d", state.attempt_number)

    async def _announce(self, snapshot: Snapshot) -> None:
        """Dead letters, then what was touched: books must hear of it before the commit."""
        prefix = self._options.prefix
        messages = [
            Message(prefix + DEAD, letter.reason.encode(), dumps(letter))
            for letter in snapshot.dead
        ]
        for partition, offset in snapshot.offsets.items():
            touched = tuple(sorted(snapshot.touched.get(partition, ())))
            value = Flushed(partition.number, offset, snapshot.bus_us[partition], touched)
            key = str(partition.number).encode()
            messages.append(Message(prefix + FLUSHED, key, dumps(value)))
        await self._producer.send(messages)

    async def _report(self, snapshot: Snapshot, result: WriteResult) -> None:
        board, balance = self._board, self._intake.balance
        board.add("rows_stored", result.stored)
        for letter in snapshot.dead:
            board.add("dead_letters", 1, reason=letter.reason)
        sent, rejected = balance.sent(), balance.rejected()
        stored = self._intake.seen_per_node()
        board.set_all(health.SENT, "node", sent)
        board.set_all(health.STORED, "node", stored)
        board.set_all(health.REJECTED, "node", rejected)
        missing = {n: s - stored.get(n, 0) - rejected.get(n, 0) for n, s in sent.items()}
        board.set_all(health.IN_FLIGHT, "node", missing)
        board.set_all(health.CLOCK_OFFSET_US, "node", balance.clock_offsets_us())
        board.set_all(health.REPEATED, "node", self._intake.repeats_per_node())
        board.set("values_out_of_range", self._intake.out_of_range)
        board.set("records_lost", self._consumer.lost)
        try:
            ends = await self._consumer.end_offsets()
        except BusUnavailableError:
            return
        for partition, end in ends.items():
            done = snapshot.offsets.get(partition)
            if done is not None:
                board.set(
                    health.LAG_RECORDS,
                    end - done,
                    topic=partition.topic,
                    partition=partition.number,
                )

    async def _on_revoked(self, _: frozenset[Partition]) -> None:
        """Before partitions go: writes and commits what came from them, then begins anew."""
        async with self._lock:
            await self._flush()
            self._intake = self._new_intake()

    async def _on_assigned(self, partitions: frozenset[Partition]) -> None:
        async with self._lock:
            self._intake = self._new_intake()
        _log.info("assigned partitions=%d", len(partitions))
        self._board.set("partitions", len(partitions))
