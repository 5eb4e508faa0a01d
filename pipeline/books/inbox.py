"""What came over the bus since the books last wrote: read here, kept there, in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import msgspec
from sqlalchemy import Connection

from collectors.contract.bus import Chunk
from collectors.contract.topics import ALLOC, FLUSHED, Allocation, Flushed
from pipeline.books import progress, versions
from pipeline.books.claims import claims_of
from pipeline.books.progress import Cause, NodeHour
from pipeline.health import HealthBoard

_log = logging.getLogger(__name__)


class Inbox:
    """Records taken and not yet written.  Its size is bounded by what a fetch returns and by
    the node-hours that a store may touch."""

    def __init__(self, prefix: str, board: HealthBoard) -> None:
        self._alloc, self._flushed = prefix + ALLOC, prefix + FLUSHED
        self._board = board
        self.allocations: list[tuple[Allocation, int]] = []
        self._touched: set[NodeHour] = set()
        self._clocks: dict[int, tuple[int, int]] = {}
        self._offsets: dict[tuple[str, int], int] = {}

    def take(self, chunks: Iterable[Chunk]) -> None:
        """Reads records; what cannot be read is counted and passed over."""
        for chunk in chunks:
            topic, number = chunk.partition
            for offset, bus_us, value in zip(
                chunk.offsets, chunk.bus_us, chunk.values, strict=True
            ):
                try:
                    self._take(topic, value, bus_us)
                except ValueError as error:
                    self._board.add("books_refused", 1, topic=topic)
                    _log.warning("record_refused topic=%s offset=%d %s", topic, offset, error)
            self._offsets[topic, number] = chunk.next_offset

    def _take(self, topic: str, value: bytes, bus_us: int) -> None:
        if topic == self._alloc:
            allocation = msgspec.json.decode(value, type=Allocation)
            claims_of(allocation)
            self.allocations.append((allocation, bus_us))
        elif topic == self._flushed:
            told = msgspec.json.decode(value, type=Flushed)
            self._touched.update((hour, node) for node, hour in told.touched)
            known = self._clocks.get(told.partition, (0, 0))
            self._clocks[told.partition] = farther(known, (told.offset, told.bus_us))

    def write(self, connection: Connection) -> int | None:
        """Writes all of it; returns the earliest hour in the ledger that an allocation touches."""
        changes = versions.record(connection, self.allocations)
        earliest = versions.mark_changes(connection, changes, Cause.ALLOCATIONS)
        progress.add_pending(connection, sorted(self._touched), Cause.RECORDS)
        known = progress.read_clocks(connection)
        progress.save_clocks(connection, _later(known, self._clocks))
        progress.save_positions(connection, self._offsets)
        return earliest

    def clear(self) -> None:
        """Forgets what was written."""
        self.allocations = []
        self._touched = set()
        self._clocks = {}
        self._offsets = {}

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._offsets


def _later(
    known: Mapping[int, tuple[int, int]], told: Mapping[int, tuple[int, int]]
) -> dict[int, tuple[int, int]]:
    """By partition how far it is after an announcement."""
    return {number: farther(known.get(number, (0, 0)), one) for number, one in told.items()}


def farther(known: tuple[int, int], told: tuple[int, int]) -> tuple[int, int]:
    """(offset, bus time) after an announcement: neither goes back where the same records are
    announced again, as by a worker that took a partition over, or by a rebuild.

    A lower offset with a newer time is of a topic that was made anew, and holds.
    """
    offset, bus_us = told
    before, before_us = known
    if bus_us > before_us:
        return told
    return max(offset, before), before_us
