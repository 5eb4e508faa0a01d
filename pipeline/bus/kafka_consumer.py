"""A consumer of Kafka through aiokafka: groups, positions kept here, records as columns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from collectors.contract.bus import (
    BusUnavailableError,
    Chunk,
    FencedError,
    Partition,
    Rebalanced,
    ignore,
)
from collectors.kit.spans import Spans
from pipeline.bus.kafka_admin import require_topics
from pipeline.bus.kafka_client import Listener, close, reason
from pipeline.bus.kafka_records import columns
from pipeline.bus.kafka_search import first_at_or_after

_NOWHERE = TopicPartition("", 0)
"""Asked for this, the client polls, which keeps it in its group, and returns nothing."""


class KafkaConsumer:
    """See the port, `collectors.contract.bus.Consumer`.

    `timeout_s` bounds each question to the broker, `join_timeout_s` the start;
    `options` go to aiokafka.  `stop` does not call `on_revoked`: who stops a
    consumer commits first.
    """

    def __init__(
        self,
        topics: Sequence[str],
        group: str | None,
        *,
        latest: bool,
        timeout_s: float,
        join_timeout_s: float,
        options: Mapping[str, Any],
    ) -> None:
        self._topics = list(topics)
        self._group = group
        self._latest = latest
        self._timeout_s = timeout_s
        self._join_timeout_s = join_timeout_s
        self._options = options
        self._client: Any = None  # aiokafka is not typed
        self._spans = Spans()
        self._ready = asyncio.Event()
        """Set while positions stand: what the client hands out otherwise is thrown away and read again."""
        self._running = asyncio.Event()
        self._running.set()
        self._generation = 0
        self._lost = 0
        self._failure: Exception | None = None
        self._on_revoked: Rebalanced = ignore
        self._on_assigned: Rebalanced = ignore

    async def start(
        self, on_revoked: Rebalanced = ignore, on_assigned: Rebalanced = ignore
    ) -> None:
        """Joins, and has its share when it returns.  Raises BusUnavailableError."""
        self._on_revoked, self._on_assigned = on_revoked, on_assigned
        # The client itself would wait for a missing topic for ever.
        await require_topics(self._options["bootstrap_servers"], self._topics, self._timeout_s)
        topics = () if self._group else self._topics
        self._client = AIOKafkaConsumer(
            *topics,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            **self._options,
        )
        try:
            async with asyncio.timeout(self._join_timeout_s):
                if self._group:
                    listener = Listener(self.revoke, self.assign)
                    self._client.subscribe(self._topics, listener=listener)
                await self._client.start()
                if not self._group:
                    await self.assign()
                await self._ready.wait()
        except (KafkaError, OSError, TimeoutError) as error:
            await self.stop()
            names = ", ".join(self._topics)
            raise BusUnavailableError(f"cannot read {names}: {reason(error)}") from error
        self._raise_failure()

    async def revoke(self) -> None:
        """Runs before partitions go."""
        self._ready.clear()
        await self._tell(self._on_revoked)
        self._spans.assign({})

    async def assign(self) -> None:
        """Takes up the partitions that the client has been given."""
        self._generation = self._live_generation
        while True:
            try:
                starts = await self._starts(self._client.assignment())
                break
            except (KafkaError, OSError):
                # The client's own back-off has passed; a member that was expelled gets a new assignment.
                if self._live_generation != self._generation:
                    return
        for partition, offset in starts.items():
            self._client.seek(TopicPartition(*partition), offset)
        self._spans.assign(starts)
        await self._tell(self._on_assigned)
        self._ready.set()

    async def _starts(self, targets: Collection[TopicPartition]) -> dict[Partition, int]:
        known: dict[TopicPartition, Any] = {}
        if self._group:
            known = {one: await self._client.committed(one) for one in targets}
        starts: dict[TopicPartition, int] = {
            one: offset for one, offset in known.items() if offset is not None
        }
        fresh = [one for one in targets if one not in starts]
        if fresh:
            ask = self._client.end_offsets if self._latest else self._client.beginning_offsets
            starts.update(await ask(fresh))
        return {Partition(one.topic, one.partition): offset for one, offset in starts.items()}

    @property
    def _live_generation(self) -> int:
        # The client has no public word for it; it is -1 from when the group has expelled this member.
        return self._client._coordinator.generation if self._group else 0  # noqa: SLF001

    async def _tell(self, listener: Rebalanced) -> None:
        """Calls a listener; the client would only log its failure, so `fetch` raises it."""
        if not self._spans.partitions:
            return
        try:
            await listener(self._spans.partitions)
        except Exception as error:
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    async def fetch(self, timeout_s: float, max_records: int = 50_000) -> list[Chunk]:
        """What has come; empty while the broker is away.  Raises what a listener raised, and
        BusUnavailableError where the client gave up."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                while True:
                    self._raise_failure()
                    await self._poll_while_paused()
                    await self._ready.wait()
                    left_s = max(0.0, deadline_s - loop.time())
                    chunks = self._take(await self._get(left_s, max_records))
                    if chunks or left_s == 0.0:
                        return chunks
        return []

    async def _poll_while_paused(self) -> None:
        if not self._running.is_set():
            await self._client.getmany(_NOWHERE, timeout_ms=0)
            await self._running.wait()

    async def _get(self, timeout_s: float, max_records: int) -> dict[TopicPartition, list[Any]]:
        try:
            return await self._client.getmany(
                timeout_ms=int(timeout_s * 1000), max_records=max_records
            )
        except OffsetOutOfRangeError as error:
            (out_of_range,) = error.args
            await self._skip(out_of_range)
        except NoOffsetForPartitionError as error:
            # The client forgot a position, as when it sees new partitions; it is kept here.
            self._reposition(error.args)
        except KafkaError as error:
            raise BusUnavailableError(reason(error)) from error
        return {}

    async def _skip(self, out_of_range: Mapping[TopicPartition, int]) -> None:
        """Goes on at the oldest record: retention was faster, or the topic was made anew."""
        firsts = await self._asked(self._client.beginning_offsets(list(out_of_range)))
        for target, first in firsts.items():
            if Partition(*target) in self._spans.partitions:
                self._lost += max(0, first - out_of_range[target])
                await self.seek(Partition(*target), first)

    def _reposition(self, targets: Collection[TopicPartition]) -> None:
        for target in targets:
            partition = Partition(*target)
            if self._group is None:  # a partition that the topic did not have before
                self._spans.add(partition, 0)
            if partition in self._spans.partitions:
                self._client.seek(target, self._spans.position(partition))

    def _take(self, fetched: Mapping[TopicPartition, list[Any]]) -> list[Chunk]:
        # Between the client's return and here nothing else has run, so these
        # records stand at the positions kept here or belong to no assignment.
        if not self._ready.is_set():
            return []
        chunks: list[Chunk] = []
        for target, records in fetched.items():
            partition = Partition(*target)
            if records and partition in self._spans.partitions:
                chunks.append(columns(partition, records))
                self._spans.seek(partition, chunks[-1].next_offset)
        return chunks

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commits.  Raises FencedError where the group has gone on, and BusUnavailableError."""
        if self._group is None:
            raise RuntimeError("a consumer without a group cannot commit")
        self._spans.check(offsets)
        if self._live_generation != self._generation:
            raise FencedError(f"the group {self._group} has gone on without this member")
        try:
            async with asyncio.timeout(self._timeout_s):
                done = {TopicPartition(*one): offset for one, offset in offsets.items()}
                await self._client.commit(done)
        except (CommitFailedError, IllegalStateError) as error:
            raise FencedError(str(error)) from error
        except (KafkaError, OSError, TimeoutError) as error:
            raise BusUnavailableError(reason(error)) from error

    async def committed(self, partition: Partition) -> int | None:
        """The group's committed offset.  Raises BusUnavailableError."""
        target = TopicPartition(*partition)
        return await self._asked(self._client.committed(target)) if self._group else None

    async def seek(self, partition: Partition, offset: int) -> None:
        """Goes to an offset.  Raises KeyError where the partition is not assigned."""
        self._spans.seek(partition, offset)
        self._client.seek(TopicPartition(*partition), offset)

    async def seek_time(self, partition: Partition, bus_us: int) -> int:
        """Goes to the first record taken at or after a bus time; returns its offset."""
        target = TopicPartition(*partition)
        offset = await self._asked(first_at_or_after(target, bus_us, self._options))
        await self.seek(partition, offset)
        return offset

    async def end_offsets(self) -> dict[Partition, int]:
        """For each assigned partition the offset after its last record."""
        targets = [TopicPartition(*one) for one in self._spans.partitions]
        ends = await self._asked(self._client.end_offsets(targets))
        return {Partition(*target): offset for target, offset in ends.items()}

    async def _asked(self, question: Any) -> Any:
        """The broker's answer, in time or as BusUnavailableError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await question
        except (KafkaError, OSError, TimeoutError) as error:
            raise BusUnavailableError(reason(error)) from error

    def pause(self) -> None:
        """From now on `fetch` returns nothing, but keeps the member in its group."""
        self._running.clear()

    def resume(self) -> None:
        """Ends a pause."""
        self._running.set()

    @property
    def assigned(self) -> frozenset[Partition]:
        """The partitions that this member reads now."""
        return self._spans.partitions

    @property
    def lost(self) -> int:
        """Records skipped because retention had removed them."""
        return self._lost

    @property
    def generation(self) -> int:
        """The group's generation at the last assignment."""
        return self._generation

    async def stop(self) -> None:
        """Leaves the group and closes."""
        self._ready.clear()
        if self._client is not None:
            await close(self._client, self._timeout_s)
        # Only now: a rebalance may have brought some while this closed.
        self._spans.assign({})
