"""The bus as a disk log in one SQLite file: embedded deployments, and the agent's spool."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

from collectors.contract.bus import Message, Partition, RefusedError, TopicSpec
from collectors.kit.clock import Clock, SystemClock
from collectors.kit.sqlite_file import LogFile
from collectors.kit.sqlite_groups import Group, SqliteConsumer
from collectors.kit.sqlite_thread import LogThread


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much of a topic is kept: what a spool reports."""

    records: int
    bytes: int
    dropped: int
    """Records that retention removed since the topic was created."""


class SqliteBus:
    """See the port, `collectors.contract.bus.Bus`.

    One process writes a file, and is told by BusUnavailableError who has it
    already; others may open it with `read_only` and read without a group.
    `fsync` lets acknowledged records survive a power cut, not only the end of
    the process.  The file is opened by the first call that needs it.
    """

    def __init__(
        self, path: Path, *, clock: Clock, read_only: bool = False, fsync: bool = False
    ) -> None:
        self._thread = LogThread(path, clock, read_only=read_only, fsync=fsync)
        self._groups: dict[str, Group] = {}
        self._consumers: WeakSet[SqliteConsumer] = WeakSet()

    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        """Creates those that are not there."""
        await self._thread.call(lambda log: log.create(topics))

    async def delete_topics(self, names: Sequence[str]) -> None:
        """Deletes those that are there, and what groups committed for them."""
        await self._thread.call(lambda log: log.delete(names))

    def producer(self, *, max_request_bytes: int = 4 * 2**20) -> SqliteProducer:
        """A producer that is not started yet."""
        return SqliteProducer(self._thread, self._consumers, max_request_bytes)

    def consumer(
        self, topics: Sequence[str], group: str | None, *, latest: bool = False
    ) -> SqliteConsumer:
        """A consumer that is not started yet.  Raises ValueError: a reader has no groups."""
        if group is not None and self._thread.read_only:
            raise ValueError("a bus log opened for reading only has no groups: leave the group out")
        shared = (
            None if group is None else self._groups.setdefault(group, Group(group, self._thread))
        )
        consumer = SqliteConsumer(self._thread, topics, shared, latest=latest)
        self._consumers.add(consumer)
        return consumer

    async def backlog(self, topic: str) -> Backlog:
        """How much of a topic is kept.  Raises BusUnavailableError where there is no such topic."""

        def measure(log: LogFile) -> Backlog:
            logs = log.topic(topic).logs
            return Backlog(
                sum(one.records for one in logs),
                sum(one.bytes for one in logs),
                sum(one.dropped for one in logs),
            )

        return await self._thread.call(measure)

    async def trim(self, offsets: Mapping[Partition, int]) -> None:
        """Removes what a spool has passed on: all before these offsets."""
        await self._thread.call(lambda log: log.trim(offsets))

    async def start_number(self) -> int:
        """How often the file was opened for writing."""
        return await self._thread.call(lambda log: log.start_number)

    async def health(self) -> dict[str, str]:
        """What answers and in which version; raises BusUnavailableError."""
        starts = await self.start_number()
        return {
            "bus": "sqlite",
            "version": sqlite3.sqlite_version,
            "path": str(self._thread.path),
            "starts": str(starts),
        }

    async def close(self) -> None:
        """Closes the file; another process may have it then."""
        await self._thread.close()


class SqliteProducer:
    """See the port, `collectors.contract.bus.Producer`: each send is one transaction."""

    def __init__(
        self,
        thread: LogThread,
        consumers: WeakSet[SqliteConsumer],
        max_request_bytes: int,
        *,
        closes_file: bool = False,
    ) -> None:
        self._thread = thread
        self._consumers = consumers
        self._max_request_bytes = max_request_bytes
        self._closes_file = closes_file

    async def start(self) -> None:
        """Opens the file.  Raises BusUnavailableError."""
        await self._thread.call(lambda log: log.start_number)

    async def send(self, messages: Sequence[Message]) -> None:
        """Appends.  Raises RefusedError for those above the bound, after the others were taken."""
        limit = self._max_request_bytes
        refused = [one for one in messages if len(one.key) + len(one.value) > limit]
        taken = [one for one in messages if len(one.key) + len(one.value) <= limit]
        if taken:
            await self._thread.call(lambda log: log.append(taken))
            topics = {message.topic for message in taken}
            for consumer in list(self._consumers):
                if not topics.isdisjoint(consumer.topics):
                    consumer.wake()
        if refused:
            raise RefusedError(f"{len(refused)} record(s) above {limit} bytes", refused)

    async def stop(self) -> None:
        """Nothing is left to flush: what was sent is in the file."""
        if self._closes_file:
            await self._thread.close()


def open_producer(url: str) -> SqliteProducer:
    """A producer for sqlite:///PATH that has the file to itself.  Raises ValueError."""
    thread = LogThread(path_of(url), SystemClock(), read_only=False, fsync=False)
    return SqliteProducer(thread, WeakSet(), 4 * 2**20, closes_file=True)


def path_of(url: str) -> Path:
    """The path in sqlite:///PATH.  Raises ValueError that says what to write."""
    path = url.removeprefix("sqlite:///")
    if path in {"", url}:
        raise ValueError(f"bus {url!r}: write sqlite:///PATH (an absolute path has four slashes)")
    return Path(path)
