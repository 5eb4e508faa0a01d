"""What a SQLite log throws away: what is too old, what is too much, what was superseded."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from collectors.contract.bus import TopicSpec
from collectors.kit.sqlite_schema import OFFSET_BITS

RECORD_OVERHEAD_BYTES = 24
"""What a record takes beside its key and value, counted in retention."""

COMPACTION_LAG_S = 3600
"""A record stays this long after a later one of its key, so that a reader who
keeps up sees every step."""

_COMPACT_AFTER_RECORDS = 1000


@dataclass(slots=True)
class Log:
    """One partition: `first` is the oldest offset kept, `next` the one to come."""

    id: int
    first: int
    next: int
    records: int
    bytes: int
    dropped: int
    last_us: int
    since_compaction: int = _COMPACT_AFTER_RECORDS

    @property
    def base(self) -> int:
        """The position of offset 0."""
        return self.id << OFFSET_BITS


def maintain(connection: sqlite3.Connection, spec: TopicSpec, log: Log, now_us: int) -> None:
    """Brings a log within its bounds, as part of the caller's transaction.

    A topic's bytes are shared out evenly over its partitions.  The newest
    record stays, whatever its size.
    """
    excess_bytes = log.bytes - spec.retention_bytes // spec.partitions
    _expire(connection, log, excess_bytes, now_us - spec.retention_s * 1_000_000)
    if spec.compacted and log.since_compaction >= max(_COMPACT_AFTER_RECORDS, log.records // 2):
        _compact(connection, log, now_us - COMPACTION_LAG_S * 1_000_000)


def _expire(connection: sqlite3.Connection, log: Log, excess_bytes: int, cutoff_us: int) -> None:
    rows = connection.execute(
        "SELECT position, append_us, length(key) + length(value) FROM records"
        " WHERE position >= ? AND position < ? ORDER BY position",
        (log.base + log.first, log.base + log.next - 1),
    )
    freed = count = 0
    kept_from = log.base + log.first
    for position, append_us, size in rows:
        if append_us >= cutoff_us and freed >= excess_bytes:
            break
        freed += size + RECORD_OVERHEAD_BYTES
        count += 1
        kept_from = position + 1
    rows.close()
    if count:
        log.dropped += count
        cut(connection, log, kept_from - log.base, count, freed)


def cut(connection: sqlite3.Connection, log: Log, first: int, count: int, freed_bytes: int) -> None:
    """Removes all before the offset `first`: `count` records of `freed_bytes` in all."""
    connection.execute(
        "DELETE FROM records WHERE position >= ? AND position < ?",
        (log.base + log.first, log.base + first),
    )
    log.first = first
    log.records -= count
    log.bytes -= freed_bytes


def _compact(connection: sqlite3.Connection, log: Log, cutoff_us: int) -> None:
    bounds = (log.base + log.first, log.base + log.next)
    connection.execute(
        "DELETE FROM records WHERE position >= ? AND position < ? AND append_us < ? AND position NOT IN"
        " (SELECT max(position) FROM records WHERE position >= ? AND position < ? GROUP BY key)",
        (*bounds, cutoff_us, *bounds),
    )
    log.since_compaction = 0
    log.records, size = measure(connection, log, log.next)
    log.bytes = size


def measure(connection: sqlite3.Connection, log: Log, until: int) -> tuple[int, int]:
    """How many records stand before the offset `until`, and how many bytes they take."""
    count, size = connection.execute(
        "SELECT count(*), coalesce(sum(length(key) + length(value)), 0) FROM records"
        " WHERE position >= ? AND position < ?",
        (log.base + log.first, log.base + until),
    ).fetchone()
    return count, size + count * RECORD_OVERHEAD_BYTES
