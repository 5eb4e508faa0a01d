"""How far all partitions have been read in bus time: a second is evaluated once nothing of it
can come any more, and then from the same records whatever the fetches were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from collectors.contract.bus import Chunk, Partition

QUIET_US = 200_000
"""A partition read to its end holds nobody up once nothing new has come to it for so long."""
SLACK_US = 1_000_000
"""Silence of all partitions is taken for the passing of time, so much behind the clock."""
_KEPT_US = 600_000_000


@dataclass(slots=True)
class _Reached:
    next_offset: int = 0
    bus_us: int = 0
    changed_us: int = 0
    marks: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=list[tuple[NDArray[np.int64], NDArray[np.int64]]]
    )
    """(bus times, offsets) of chunks read lately."""


class Frontier:
    """Positions of the partitions that alerts follow."""

    def __init__(self) -> None:
        self._at: dict[Partition, _Reached] = {}
        self.newest_us = 0
        self._newest_seen_us = 0

    def begin(self, positions: Mapping[Partition, int]) -> None:
        """Where reading starts."""
        for partition, offset in positions.items():
            self._at[partition] = _Reached(offset)

    def note(self, chunk: Chunk, now_us: int) -> None:
        """A chunk was read; `now_us` is monotonic."""
        at = self._at.setdefault(chunk.partition, _Reached())
        bus = np.maximum.accumulate(np.asarray(chunk.bus_us, np.int64))
        at.marks.append((bus, np.asarray(chunk.offsets, np.int64)))
        at.next_offset = chunk.next_offset
        at.bus_us = max(at.bus_us, int(bus[-1]))
        at.changed_us = now_us
        if at.bus_us > self.newest_us:
            self.newest_us, self._newest_seen_us = at.bus_us, now_us

    def most_us(self, now_us: int) -> int:
        """What the watermark can be at most now."""
        silent_us = max(0, now_us - self._newest_seen_us - SLACK_US)
        return self.newest_us + silent_us if self.newest_us else 0

    def watermark_us(self, ends: Mapping[Partition, int], now_us: int) -> int:
        """Bus time up to which everything has been read.

        `ends` were asked for after the last `note`; 0 while nothing is known.
        """
        if not self.newest_us:
            return 0
        behind = [
            at for partition, at in self._at.items() if at.next_offset < ends.get(partition, 0)
        ]
        if behind:
            return min(at.bus_us for at in behind)
        lively = [at for at in self._at.values() if now_us - at.changed_us < QUIET_US and at.bus_us]
        return min((at.bus_us for at in lively), default=self.most_us(now_us))

    def positions(self, bus_us: int) -> dict[Partition, int]:
        """Per partition the offset of the first record taken after a bus time.

        Marks of more than ten minutes before are forgotten.
        """
        out: dict[Partition, int] = {}
        for partition, at in self._at.items():
            while at.marks and at.marks[0][0][-1] <= bus_us - _KEPT_US:
                at.marks.pop(0)
            out[partition] = at.next_offset
            for bus, offsets in at.marks:
                if bus[-1] > bus_us:
                    out[partition] = int(offsets[int(np.searchsorted(bus, bus_us, "right"))])
                    break
        return out

    def resume(self, bus_us: int, now_us: int) -> None:
        """The newest bus time of a former life."""
        self.newest_us, self._newest_seen_us = bus_us, now_us
