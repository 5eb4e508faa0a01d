"""The file of a SQLite log: topics, records, commits.

All of it blocks, and one thread at a time calls it; the bus gives it a thread.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from collectors.contract.bus import (
    BusUnavailableError,
    Chunk,
    Message,
    Partition,
    TopicMissingError,
    TopicSpec,
)
from collectors.kit.clock import Clock
from collectors.kit.partitions import partition_of
from collectors.kit.sqlite_retention import RECORD_OVERHEAD_BYTES, Log, cut, maintain, measure
from collectors.kit.sqlite_schema import OFFSET_BITS, connect, lock

_EXPIRE_EVERY_US = 10_000_000
_FETCH_ROWS = 1000
_OFFSETS = (1 << OFFSET_BITS) - 1


@dataclass(slots=True)
class Topic:
    """A topic and its partitions' logs by number."""

    spec: TopicSpec
    logs: list[Log] = field(default_factory=list[Log])


class LogFile:
    """An open log.  Only the writer holds the lock; a reader sees what was committed.

    Everything raises sqlite3.Error where the file fails, and BusUnavailableError
    where a topic is not there.
    """

    def __init__(self, path: Path, clock: Clock, *, read_only: bool, fsync: bool) -> None:
        self._clock = clock
        self._read_only = read_only
        self._lock: IO[str] | None = None
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock(path)
        try:
            self._connection = connect(path, read_only=read_only, fsync=fsync)
        except BaseException:
            self._unlock()
            raise
        self._topics: dict[str, Topic] = {}
        self._expired_us = 0
        self._stale = False
        try:
            self._load()
            self.start_number = 0 if read_only else self.count("starts")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file and lets go of the lock."""
        self._connection.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _load(self) -> None:
        self._topics = {
            name: Topic(TopicSpec(name, partitions, retention_s, retention_bytes, bool(compacted)))
            for name, partitions, retention_s, retention_bytes, compacted in self._connection.execute(
                "SELECT name, partitions, retention_s, retention_bytes, compacted FROM topics"
            )
        }
        for name, *columns in self._connection.execute(
            "SELECT topic, id, first, next, records, bytes, dropped, last_us FROM logs ORDER BY topic, number"
        ):
            self._topics[name].logs.append(Log(*columns))
        self._stale = False

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        """All or nothing, also in what is remembered."""
        if self._read_only:
            raise BusUnavailableError("this bus log was opened for reading only")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            if self._stale:
                self._load()
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            self._stale = True
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._load()
            raise

    def has(self, name: str) -> bool:
        """Whether a topic is there."""
        return name in self._topics

    def topic(self, name: str) -> Topic:
        """A topic as it is now."""
        if self._read_only:
            self._load()
        if name not in self._topics:
            raise TopicMissingError(name)
        return self._topics[name]

    def _log(self, partition: Partition) -> Log:
        return self.topic(partition.topic).logs[partition.number]

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Creates the topics that are not there."""
        with self._transaction() as connection:
            for spec in specs:
                if spec.name in self._topics:
                    continue
                connection.execute(
                    "INSERT INTO topics VALUES (?, ?, ?, ?, ?)",
                    (
                        spec.name,
                        spec.partitions,
                        spec.retention_s,
                        spec.retention_bytes,
                        spec.compacted,
                    ),
                )
                connection.executemany(
                    "INSERT INTO logs (topic, number) VALUES (?, ?)",
                    [(spec.name, number) for number in range(spec.partitions)],
                )
        self._load()

    def delete(self, names: Sequence[str]) -> None:
        """Deletes topics, their records and what groups committed for them."""
        with self._transaction() as connection:
            for name in names:
                logs = self._topics[name].logs if name in self._topics else []
                connection.executemany(
                    "DELETE FROM records WHERE position >= ? AND position < ?",
                    [(log.base, log.base + log.next) for log in logs],
                )
                connection.execute("DELETE FROM logs WHERE topic = ?", (name,))
                connection.execute("DELETE FROM commits WHERE topic = ?", (name,))
                connection.execute("DELETE FROM topics WHERE name = ?", (name,))
        self._load()

    def append(self, messages: Sequence[Message]) -> None:
        """Appends in one transaction, and keeps to the retention in it."""
        now_us = self._clock.wall_us()
        rows: list[tuple[int, int, int | None, bytes, bytes]] = []
        touched: dict[int, tuple[TopicSpec, Log]] = {}
        with self._transaction() as connection:
            for message in messages:
                topic = self.topic(message.topic)
                log = topic.logs[partition_of(message.key, len(topic.logs))]
                touched[log.id] = (topic.spec, log)
                # The append time never falls, or a search by time would go astray.
                log.last_us = max(log.last_us, now_us)
                rows.append(
                    (
                        log.base + log.next,
                        log.last_us,
                        message.arrival_us,
                        message.key,
                        message.value,
                    )
                )
                log.next += 1
                log.records += 1
                log.since_compaction += 1
                log.bytes += len(message.key) + len(message.value) + RECORD_OVERHEAD_BYTES
            connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
            self._maintain(touched, now_us)

    def _maintain(self, touched: dict[int, tuple[TopicSpec, Log]], now_us: int) -> None:
        if now_us - self._expired_us >= _EXPIRE_EVERY_US:
            self._expired_us = now_us
            touched = {
                log.id: (topic.spec, log) for topic in self._topics.values() for log in topic.logs
            }
        for spec, log in touched.values():
            maintain(self._connection, spec, log, now_us)
        self._save(log for _, log in touched.values())

    def _save(self, logs: Iterable[Log]) -> None:
        self._connection.executemany(
            "UPDATE logs SET first = ?, next = ?, records = ?, bytes = ?, dropped = ?, last_us = ? WHERE id = ?",
            [
                (log.first, log.next, log.records, log.bytes, log.dropped, log.last_us, log.id)
                for log in logs
            ],
        )

    def trim(self, offsets: Mapping[Partition, int]) -> None:
        """Removes what a spool has passed on: all before these offsets, not counted as dropped."""
        with self._transaction() as connection:
            for partition, offset in offsets.items():
                log = self._log(partition)
                first = max(log.first, min(offset, log.next))
                cut(connection, log, first, *measure(connection, log, first))
                self._save([log])

    def read(
        self, partition: Partition, offset: int, max_records: int, max_bytes: int
    ) -> Chunk | None:
        """Records from `offset` on, at least one where there is one."""
        log = self._log(partition)
        if offset >= log.next:
            return None
        cursor = self._connection.execute(
            "SELECT position, coalesce(arrival_us, append_us), key, value FROM records"
            " WHERE position >= ? AND position < ? ORDER BY position LIMIT ?",
            (log.base + offset, log.base + log.next, max_records),
        )
        rows: list[tuple[int, int, bytes, bytes]] = []
        size_bytes = 0
        while size_bytes < max_bytes and (more := cursor.fetchmany(_FETCH_ROWS)):
            size_bytes += sum(len(row[3]) for row in more)
            rows += more
        cursor.close()
        if not rows:
            return None
        positions, bus_us, keys, values = zip(*rows, strict=True)
        return Chunk(
            partition, [position & _OFFSETS for position in positions], bus_us, keys, values
        )

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """The oldest offset that is kept, and the offset after the last record."""
        log = self._log(partition)
        return log.first, log.next

    def find_time(self, partition: Partition, bus_us: int) -> int:
        """The first offset taken at or after a bus time, or the end, by bisection.

        Arrival times that fall within a partition make it one of several right answers.
        """
        log = self._log(partition)
        low, high = log.base + log.first, log.base + log.next
        while low < high:
            middle = (low + high) // 2
            row = self._connection.execute(
                "SELECT position, coalesce(arrival_us, append_us) FROM records"
                " WHERE position >= ? AND position < ? ORDER BY position LIMIT 1",
                (middle, high),
            ).fetchone()
            if row is None or row[1] >= bus_us:
                high = middle
            else:
                low = row[0] + 1
        return low - log.base

    def commit(self, group: str, offsets: Mapping[Partition, int]) -> None:
        """Remembers a group's offsets."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO commits VALUES (?, ?, ?, ?)",
                [
                    (group, partition.topic, partition.number, offset)
                    for partition, offset in offsets.items()
                ],
            )

    def committed(self, group: str, partition: Partition) -> int | None:
        """A group's offset, where it has one."""
        row = self._connection.execute(
            "SELECT next FROM commits WHERE member_group = ? AND topic = ? AND number = ?",
            (group, partition.topic, partition.number),
        ).fetchone()
        return None if row is None else row[0]

    def count(self, name: str) -> int:
        """Adds one to a lasting counter and returns it."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1",
                (name,),
            )
            (value,) = connection.execute(
                "SELECT value FROM counters WHERE name = ?", (name,)
            ).fetchone()
        return value
