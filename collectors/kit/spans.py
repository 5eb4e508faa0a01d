"""Which offsets a consumer has been given and may commit: the same bookkeeping for every bus."""

from __future__ import annotations

from collections.abc import Mapping

from collectors.contract.bus import FencedError, Partition


class Spans:
    """Per assigned partition the offset read next, and the range of offsets read since assignment.

    A commit outside that range belongs to an earlier assignment: between the
    two another member may have gone on, so the commit would move the group
    back, or past records that were thrown away.
    """

    def __init__(self) -> None:
        self._next: dict[Partition, int] = {}
        self._low: dict[Partition, int] = {}
        self._high: dict[Partition, int] = {}

    def assign(self, starts: Mapping[Partition, int]) -> None:
        """Replaces the assignment; reading begins at `starts`."""
        self._next = dict(starts)
        self._low = dict(starts)
        self._high = dict(starts)

    def add(self, partition: Partition, start: int) -> None:
        """Takes one partition more, where it is not assigned yet."""
        for offsets in (self._next, self._low, self._high):
            offsets.setdefault(partition, start)

    @property
    def partitions(self) -> frozenset[Partition]:
        """What is assigned."""
        return frozenset(self._next)

    def position(self, partition: Partition) -> int:
        """The offset read next.  Raises KeyError where the partition is not assigned."""
        return self._next[partition]

    def seek(self, partition: Partition, offset: int) -> None:
        """Reads on at an offset, after a fetch or a jump.  Raises KeyError where the partition is not assigned."""
        if partition not in self._next:
            raise KeyError(partition)
        self._next[partition] = offset
        self._low[partition] = min(self._low[partition], offset)
        self._high[partition] = max(self._high[partition], offset)

    def check(self, offsets: Mapping[Partition, int]) -> None:
        """Raises FencedError where an offset is not this assignment's to commit."""
        for partition, offset in offsets.items():
            if partition not in self._next:
                raise FencedError(
                    f"{partition.topic}[{partition.number}] is no longer this member's"
                )
            if not self._low[partition] <= offset <= self._high[partition]:
                raise FencedError(
                    f"offset {offset} of {partition.topic}[{partition.number}] was read under an earlier assignment"
                )
