"""The file of a spool: a bus log of one partition a topic, bounded as a whole.

All of it blocks; one thread at a time calls it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from collectors.contract.bus import Message, Partition, TopicSpec
from collectors.contract.topics import ALLOC, EVENTS, FACTS
from collectors.kit.clock import Clock
from collectors.kit.sqlite_file import LogFile
from collectors.kit.sqlite_retention import RECORD_OVERHEAD_BYTES, Log, maintain
from collectors.kit.sqlite_schema import OFFSET_BITS

_FOREVER_S = 100 * 365 * 86_400
_FIRST = (ALLOC, FACTS, EVENTS)
"""Small, and what the others mean hangs on them: passed on before all others, in this order."""
_ROOMY_PAGES = 1_000


class SpoolFile(LogFile):
    """Records that wait, by position: a topic's positions rise in the order of arrival.

    With `most_bytes` reached the oldest go from the topic that takes most, so
    that a flood of one kind leaves the others alone.  Every transaction is
    synchronised with the disk: a power cut loses nothing that was kept.
    """

    def __init__(self, path: Path, clock: Clock, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)  # jobs and tenants are nobody else's business on the node
        super().__init__(path, clock, read_only=False, fsync=True)

    def keep(self, messages: Sequence[Message]) -> list[int]:
        """Appends; returns the positions.  A topic that is new is made."""
        new = {message.topic for message in messages if not self.has(message.topic)}
        if new:
            self.create([TopicSpec(name, 1, _FOREVER_S, self._most_bytes) for name in sorted(new)])
        self.append(messages)
        after = {name: self._only(name).base + self._only(name).next for name in self._topics}
        positions: list[int] = []
        for message in reversed(messages):
            after[message.topic] -= 1
            positions.append(after[message.topic])
        return positions[::-1]

    def _only(self, topic: str) -> Log:
        """A topic's one partition."""
        return self.topic(topic).logs[0]

    def _logs(self) -> list[Log]:
        return [log for topic in self._topics.values() for log in topic.logs]

    def _maintain(self, touched: dict[int, tuple[TopicSpec, Log]], now_us: int) -> None:
        """Bounds all topics together.  Age is judged when records leave, not by a clock that may
        be wrong while the network is away."""
        total_bytes = sum(log.bytes for log in self._logs())
        bulky = max(self._topics.values(), key=lambda topic: topic.logs[0].bytes)
        for topic in self._topics.values():
            others_bytes = total_bytes - topic.logs[0].bytes if topic is bulky else 0
            topic.spec = dataclasses.replace(
                topic.spec,
                retention_s=_FOREVER_S,
                retention_bytes=max(0, self._most_bytes - others_bytes),
            )
        logs = {log.id for _, log in touched.values()} | {bulky.logs[0].id}
        bounded = {
            topic.logs[0].id: (topic.spec, topic.logs[0])
            for topic in self._topics.values()
            if topic.logs[0].id in logs
        }
        super()._maintain(bounded, now_us)

    def peek(
        self, most: int, but: Collection[str], passed: Mapping[int, int]
    ) -> list[tuple[int, Message]]:
        """The oldest with their positions, of the first topic that has any.

        Those up to the positions in `passed` (by log) have been sent, though
        they could not be removed.
        """
        for name in self._in_turn(but):
            log = self._only(name)
            first = max(log.base + log.first, passed.get(log.id, -1) + 1)
            rows = self._connection.execute(
                "SELECT position, arrival_us, key, value FROM records"
                " WHERE position >= ? AND position < ? ORDER BY position LIMIT ?",
                (first, log.base + log.next, most),
            ).fetchall()
            if rows:
                return [
                    (position, Message(name, key, value, arrival_us))
                    for position, arrival_us, key, value in rows
                ]
        return []

    def _in_turn(self, but: Collection[str]) -> list[str]:
        def turn(name: str) -> int:
            ranks = (at for at, topic in enumerate(_FIRST) if name.endswith(topic))
            return next(ranks, len(_FIRST))

        return sorted((name for name in self._topics if name not in but), key=turn)

    def pass_on(self, position: int) -> None:
        """Removes a topic's records up to a position: they have been sent."""
        for name, topic in self._topics.items():
            if topic.logs[0].id == position >> OFFSET_BITS:
                offset = position - topic.logs[0].base + 1
                self.trim({Partition(name, 0): offset})
                return

    def remove(self, positions: Iterable[int]) -> None:
        """Removes single records that were sent after all."""
        logs = {log.id: log for log in self._logs()}
        with self._transaction() as connection:
            for position in positions:
                log = logs.get(position >> OFFSET_BITS)
                row = connection.execute(
                    "DELETE FROM records WHERE position = ? RETURNING length(key) + length(value)",
                    (position,),
                ).fetchone()
                if log is not None and row is not None:
                    log.records -= 1
                    log.bytes -= row[0] + RECORD_OVERHEAD_BYTES
            self._save(logs.values())

    def expire(self, suffix: str, keep_s: int) -> None:
        """Drops what is older, of topics with such an ending, and counts it."""
        now_us = self._clock.wall_us()
        for name, topic in self._topics.items():
            log = topic.logs[0]
            if not name.endswith(suffix) or self._oldest_us(log) >= now_us - keep_s * 1_000_000:
                continue
            with self._transaction() as connection:
                spec = dataclasses.replace(topic.spec, retention_s=keep_s)
                maintain(connection, spec, log, now_us)
                self._save([log])

    def _oldest_us(self, log: Log) -> int:
        row = self._connection.execute(
            "SELECT append_us FROM records WHERE position >= ? AND position < ?"
            " ORDER BY position LIMIT 1",
            (log.base + log.first, log.base + log.next),
        ).fetchone()
        return log.last_us if row is None else row[0]

    def add_dropped(self, count: int) -> None:
        """Remembers records that were dropped before they came here."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO counters VALUES ('dropped', ?)"
                " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (count,),
            )

    def dropped(self) -> int:
        """Records dropped since the file was made, here or before they came here."""
        row = self._connection.execute(
            "SELECT value FROM counters WHERE name = 'dropped'"
        ).fetchone()
        return sum(log.dropped for log in self._logs()) + (row[0] if row else 0)

    def left(self) -> tuple[int, int]:
        """Records and their bytes."""
        logs = self._logs()
        return sum(log.records for log in logs), sum(log.bytes for log in logs)

    def holds(self, suffixes: Collection[str]) -> bool:
        """Whether records of topics with such an ending wait."""
        return any(
            topic.logs[0].records > 0
            for name, topic in self._topics.items()
            if name.endswith(tuple(suffixes))
        )

    def shrink(self) -> None:
        """Gives the disk back what an empty file still takes."""
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        if free > _ROOMY_PAGES:
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
