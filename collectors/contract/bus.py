"""The bus port: a partitioned, durable log with consumer groups.

Two adapters pass one contract suite: a SQLite log (embedded, and the agent's
spool) and Kafka.  A record is acknowledged when `Producer.send` or `flush`
returns; what was acknowledged survives kill -9.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

ARRIVAL_HEADER = "arrival_us"
"""Header (8 bytes, little-endian µs) that stands for the bus time of a record
sent by a simulation or replay that runs faster than life."""


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic is created with; retention is bounded in time and in bytes."""

    name: str
    partitions: int
    retention_s: int
    retention_bytes: int
    compacted: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A record to send.  Its partition is chosen by `key`; the same key, the same partition.

    `arrival_us` is set only by simulation and replay faster than life.
    """

    topic: str
    key: bytes
    value: bytes
    arrival_us: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive records of one partition, as columns of equal length.

    `bus_us` is when the bus took each record (LogAppendTime, or the arrival
    header where there is one), in µs since 1970.
    """

    partition: Partition
    offsets: Sequence[int]
    bus_us: Sequence[int]
    keys: Sequence[bytes]
    values: Sequence[bytes]

    @property
    def next_offset(self) -> int:
        """The offset to commit once this chunk is dealt with."""
        return self.offsets[-1] + 1


class BusUnavailableError(ConnectionError):
    """The bus cannot be reached now; try again."""


class TopicMissingError(BusUnavailableError):
    """The bus answers, and this topic cannot be written; that may change.  Nothing of the send
    was taken."""

    def __init__(self, topic: str, why: str = "is not there; create the topics first") -> None:
        super().__init__(f"topic {topic} {why}")
        self.topic = topic


class RefusedError(ValueError):
    """The bus will never take these records (too large, say); drop them, count them, go on.

    `refused` are the guilty ones of a send; all its others are acknowledged.
    """

    def __init__(self, text: str, refused: Sequence[Message] = ()) -> None:
        super().__init__(text)
        self.refused = tuple(refused)


class FencedError(RuntimeError):
    """The group has gone on without this member: its commit did not count."""


class Producer(Protocol):
    """Sends records; in order per key, each once per acknowledged send."""

    async def start(self) -> None:
        """Connects; raises BusUnavailableError when it cannot."""
        ...

    async def send(self, messages: Sequence[Message]) -> None:
        """Returns when all are acknowledged.  Raises RefusedError or BusUnavailableError."""
        ...

    async def stop(self) -> None:
        """Flushes and closes."""
        ...


@runtime_checkable
class PromptProducer(Protocol):
    """A producer that can often send one record within some milliseconds, without the loop."""

    def send_at_once(self, message: Message) -> bool:
        """Whether it is acknowledged.  If not, nothing is known of it, and it must be the first
        of the next `send`.  May hold up the loop's thread for so long."""
        ...


Rebalanced = Callable[[frozenset[Partition]], Awaitable[None]]


async def ignore(_: frozenset[Partition]) -> None:
    """A listener that does nothing."""


class Consumer(Protocol):
    """A member of a consumer group; commits are its own business (no auto-commit).

    Without a committed offset it starts at the earliest record, or at the
    latest where it was made so.
    """

    async def start(
        self, on_revoked: Rebalanced = ignore, on_assigned: Rebalanced = ignore
    ) -> None:
        """Joins.  `on_revoked` runs before partitions go and may still commit them."""
        ...

    async def fetch(self, timeout_s: float, max_records: int = 50_000) -> list[Chunk]:
        """What has come, at most one chunk per partition; empty after `timeout_s`.

        Records that retention removed before they were read are skipped and
        counted in `lost`.
        """
        ...

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Says that all before these offsets is done.  Raises FencedError."""
        ...

    async def committed(self, partition: Partition) -> int | None:
        """The group's committed offset."""
        ...

    async def seek(self, partition: Partition, offset: int) -> None:
        """Goes to an offset of an assigned partition."""
        ...

    async def seek_time(self, partition: Partition, bus_us: int) -> int:
        """Goes to the first record taken at or after a bus time; returns its offset (or the end)."""
        ...

    async def end_offsets(self) -> dict[Partition, int]:
        """For each assigned partition the offset after its last record."""
        ...

    def pause(self) -> None:
        """From now on `fetch` returns nothing, but goes on polling so that the member stays."""
        ...

    def resume(self) -> None:
        """Ends a pause."""
        ...

    @property
    def assigned(self) -> frozenset[Partition]:
        """The partitions that this member reads now."""
        ...

    @property
    def lost(self) -> int:
        """Records skipped because retention had removed them."""
        ...

    @property
    def generation(self) -> int:
        """The group's generation at this member's last assignment; it grows with every
        rebalance and outlives restarts.  0 without a group."""
        ...

    async def stop(self) -> None:
        """Leaves the group and closes."""
        ...


class Bus(Protocol):
    """Makes producers and consumers and looks after topics."""

    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        """Creates those that are not there."""
        ...

    async def delete_topics(self, names: Sequence[str]) -> None:
        """Deletes those that are there, and what groups committed for them."""
        ...

    def producer(self, *, max_request_bytes: int = 4 * 2**20) -> Producer:
        """A producer that is not started yet."""
        ...

    def consumer(
        self, topics: Sequence[str], group: str | None, *, latest: bool = False
    ) -> Consumer:
        """A consumer that is not started yet; without a group it reads all partitions alone
        and cannot commit."""
        ...

    async def health(self) -> dict[str, str]:
        """What answers and in which version; raises BusUnavailableError."""
        ...

    async def close(self) -> None:
        """Closes what the bus itself holds open."""
        ...
