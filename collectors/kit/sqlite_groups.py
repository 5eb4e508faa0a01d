"""Consumers of a SQLite log and the groups in which they share partitions, within one process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from collectors.contract.bus import BusUnavailableError, Chunk, Partition, Rebalanced, ignore
from collectors.kit.spans import Spans
from collectors.kit.sqlite_file import LogFile
from collectors.kit.sqlite_thread import LogThread

FETCH_BYTES = 32 * 2**20
"""A fetch ends with the record that reaches this, so that a backlog does not fill the memory."""

_POLL_S = 0.25
"""How often a reader looks for what another process wrote."""


class Group:
    """The members of one group.  Every change revokes all partitions and shares them out anew."""

    def __init__(self, name: str, thread: LogThread) -> None:
        self.name = name
        self._thread = thread
        self._members: list[SqliteConsumer] = []
        self._changing = asyncio.Lock()

    async def join(self, member: SqliteConsumer) -> None:
        """Adds a member; returns once it has its partitions."""
        async with self._changing:
            # A topic that is not there is the newcomer's affair: the others keep theirs.
            await self._thread.call(lambda log: partitions_of(log, sorted(member.topics)))
            await self._revoke()
            self._members.append(member)
            await self._assign()

    async def leave(self, member: SqliteConsumer) -> None:
        """Removes a member, where it is one."""
        async with self._changing:
            if member in self._members:
                self._members.remove(member)
                await self._revoke()
                await self._assign()

    async def _revoke(self) -> None:
        for member in self._members:
            await member.revoke()

    async def _assign(self) -> None:
        try:
            generation, partitions = await self._thread.call(self._next_generation)
            for member, share in self._shares(partitions).items():
                await member.assign(share, generation)
        except BusUnavailableError as error:
            # Nobody has partitions now; each must hear of it, or would wait for ever.
            for member in self._members:
                member.fail(error)
            raise

    def _next_generation(self, log: LogFile) -> tuple[int, list[Partition]]:
        topics = {topic for member in self._members for topic in member.topics if log.has(topic)}
        return log.count(f"generation of {self.name}"), partitions_of(log, sorted(topics))

    def _shares(self, partitions: Sequence[Partition]) -> dict[SqliteConsumer, list[Partition]]:
        shares: dict[SqliteConsumer, list[Partition]] = {member: [] for member in self._members}
        for partition in partitions:
            takers = [share for member, share in shares.items() if partition.topic in member.topics]
            min(takers, key=len).append(partition)
        return shares


class SqliteConsumer:
    """A consumer of a SQLite log; see the port, `collectors.contract.bus.Consumer`.

    `stop` does not call `on_revoked`: who stops a consumer commits first.
    """

    def __init__(
        self, thread: LogThread, topics: Sequence[str], group: Group | None, *, latest: bool
    ) -> None:
        self.topics = frozenset(topics)
        self._thread = thread
        self._group = group
        self._latest = latest
        self._spans = Spans()
        self._epoch = 0
        """Grows whenever positions change other than by reading: what was being read then is void."""
        self._ready = False
        """Nothing is handed out between two assignments, nor before `on_assigned` has run."""
        self._paused = False
        self._turn = 0
        self._lost = 0
        self._generation = 0
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        self._on_revoked: Rebalanced = ignore
        self._on_assigned: Rebalanced = ignore

    async def start(
        self, on_revoked: Rebalanced = ignore, on_assigned: Rebalanced = ignore
    ) -> None:
        """Joins, and has partitions when it returns."""
        self._on_revoked, self._on_assigned = on_revoked, on_assigned
        if self._group is not None:
            await self._group.join(self)
        else:
            await self.assign(
                await self._thread.call(lambda log: partitions_of(log, sorted(self.topics))), 0
            )
        self._raise_failure()

    async def assign(self, partitions: Sequence[Partition], generation: int) -> None:
        """Gives the member its partitions (by its group)."""
        starts = await self._thread.call(lambda log: self._starts(log, partitions))
        self._spans.assign(starts)
        self._epoch += 1
        self._generation = generation
        await self._tell(self._on_assigned)
        self._ready = True
        self._wake.set()

    def _starts(self, log: LogFile, partitions: Sequence[Partition]) -> dict[Partition, int]:
        starts: dict[Partition, int] = {}
        for partition in partitions:
            committed = log.committed(self._group.name, partition) if self._group else None
            starts[partition] = (
                log.bounds(partition)[self._latest] if committed is None else committed
            )
        return starts

    async def revoke(self) -> None:
        """Takes the member's partitions (by its group)."""
        self._ready = False
        await self._tell(self._on_revoked)
        self._spans.assign({})
        self._epoch += 1

    async def _tell(self, listener: Rebalanced) -> None:
        """Calls a listener.  Its failure is this member's, not that of whoever changed the group."""
        if not self._spans.partitions:
            return
        try:
            await listener(self._spans.partitions)
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Lets the next fetch raise `error`."""
        self._failure = error
        self._wake.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    async def fetch(self, timeout_s: float, max_records: int = 50_000) -> list[Chunk]:
        """What has come.  Raises BusUnavailableError, and what a listener raised."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while True:
            self._raise_failure()
            self._wake.clear()
            chunks = await self._read(max_records) if self._ready and not self._paused else []
            left_s = deadline_s - loop.time()
            if chunks or left_s <= 0:
                return chunks
            with contextlib.suppress(TimeoutError):
                wait_s = min(left_s, _POLL_S) if self._thread.read_only else left_s
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    async def _read(self, max_records: int) -> list[Chunk]:
        epoch = self._epoch
        partitions = sorted(self._spans.partitions)
        # Each fetch begins with the next partition, so that a long backlog in one starves none.
        self._turn += 1
        turn = self._turn % max(1, len(partitions))
        wanted = [(one, self._spans.position(one)) for one in partitions[turn:] + partitions[:turn]]
        if not wanted:
            return []
        chunks, skipped = await self._thread.call(lambda log: read_all(log, wanted, max_records))
        if epoch != self._epoch or not self._ready:
            return []
        for partition, (offset, first) in skipped.items():
            self._lost += first - offset
            self._spans.seek(partition, first)
        for chunk in chunks:
            self._spans.seek(chunk.partition, chunk.next_offset)
        return chunks

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Remembers offsets.  Raises FencedError where they are of an earlier assignment."""
        if self._group is None:
            raise RuntimeError("a consumer without a group cannot commit")
        group, done = self._group.name, dict(offsets)
        self._spans.check(done)
        await self._thread.call(lambda log: log.commit(group, done))

    async def committed(self, partition: Partition) -> int | None:
        """The group's committed offset."""
        group = self._group
        return (
            None
            if group is None
            else await self._thread.call(lambda log: log.committed(group.name, partition))
        )

    async def seek(self, partition: Partition, offset: int) -> None:
        """Goes to an offset.  Raises KeyError where the partition is not assigned."""
        self._spans.seek(partition, offset)
        self._epoch += 1
        self._wake.set()

    async def seek_time(self, partition: Partition, bus_us: int) -> int:
        """Goes to the first record taken at or after a bus time; returns its offset."""
        offset = await self._thread.call(lambda log: log.find_time(partition, bus_us))
        await self.seek(partition, offset)
        return offset

    async def end_offsets(self) -> dict[Partition, int]:
        """For each assigned partition the offset after its last record."""
        partitions = self._spans.partitions
        return await self._thread.call(lambda log: {one: log.bounds(one)[1] for one in partitions})

    def pause(self) -> None:
        """From now on `fetch` returns nothing."""
        self._paused = True

    def resume(self) -> None:
        """Ends a pause."""
        self._paused = False
        self._wake.set()

    def wake(self) -> None:
        """Says that there may be something to fetch."""
        self._wake.set()

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
        """Leaves the group."""
        self._spans.assign({})
        self._epoch += 1
        if self._group is not None:
            await self._group.leave(self)


def partitions_of(log: LogFile, topics: Sequence[str]) -> list[Partition]:
    """All partitions of some topics."""
    return [
        Partition(name, number) for name in topics for number in range(len(log.topic(name).logs))
    ]


def read_all(
    log: LogFile, wanted: Sequence[tuple[Partition, int]], max_records: int
) -> tuple[list[Chunk], dict[Partition, tuple[int, int]]]:
    """A chunk for each partition that has one, within `max_records` and FETCH_BYTES together,
    and (offset wanted, oldest kept) where retention was faster."""
    chunks: list[Chunk] = []
    skipped: dict[Partition, tuple[int, int]] = {}
    left_bytes = FETCH_BYTES
    for partition, offset in wanted:
        if max_records <= 0 or left_bytes <= 0:
            break
        first, _ = log.bounds(partition)
        if offset < first:
            skipped[partition] = (offset, first)
        chunk = log.read(partition, max(offset, first), max_records, left_bytes)
        if chunk is not None:
            chunks.append(chunk)
            max_records -= len(chunk.values)
            left_bytes -= sum(map(len, chunk.values))
    return chunks, skipped
