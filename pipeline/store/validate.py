"""What a record must be to count: range, time, and the three own times together.

Pure, on arrays, and the same for every reader of the log: whether a record
counts depends on that record and its bus time alone, so that no order, no
worker and no replay can change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import COUNTER_ABSENT, COUNTER_LIMIT
from pipeline.decode.batch import Broken, Group, Wanted

_TOGETHER = ("observed_us", "down_us", "active_us")


@dataclass(frozen=True, slots=True)
class TimeRules:
    """How far event time may be from bus time."""

    future_us: int = 60_000_000
    ancient_us: int = 72 * 3_600_000_000


class Validator:
    """Applies the catalogue's ranges and the time rules to groups."""

    def __init__(self, rules: TimeRules, metrics: Wanted | None = None) -> None:
        """`metrics` are the reader's; the three own times must be among them."""
        self._rules = rules
        wanted = metrics or Wanted.all()
        low = np.array([metric.valid[0] for metric in wanted.gauges], np.float32)
        high = np.array([metric.valid[1] for metric in wanted.gauges], np.float32)
        self._low, self._high = low[:, None, None], high[:, None, None]
        names = [metric.name for metric in wanted.counters]
        self._together = [names.index(name) for name in _TOGETHER]
        self.out_of_range = 0

    def validate(self, group: Group, bus_us: NDArray[np.int64]) -> tuple[Group, Sequence[Broken]]:
        """The records that count, and those refused (`future`, `ancient`).

        `bus_us` is int64[n].  Values out of range become absent, in place, and
        are counted in `out_of_range`.
        """
        self._ranges(group)
        ahead_us = group.time_us - bus_us
        future = ahead_us > self._rules.future_us
        ancient = ahead_us < -self._rules.ancient_us
        if not (future.any() or ancient.any()):
            return group, ()
        broken = [
            Broken(int(group.index[row]), reason, f"{int(ahead_us[row])} µs from bus time")
            for reason, rows in (("future", future), ("ancient", ancient))
            for row in np.flatnonzero(rows)
        ]
        return group.take(~(future | ancient)), broken

    def _ranges(self, group: Group) -> None:
        bad = (group.gauges < self._low) | (group.gauges > self._high)
        if bad.any():
            self.out_of_range += int(bad.sum())
            group.gauges[bad] = np.nan
        counters = group.counters
        large = (counters >= COUNTER_LIMIT) & (counters != COUNTER_ABSENT)
        if large.any():
            self.out_of_range += int(large.sum())
            counters[large] = COUNTER_ABSENT
        own = counters[self._together]
        absent = (own == COUNTER_ABSENT).any(axis=0)
        if absent.any():
            for row in self._together:
                counters[row][absent] = COUNTER_ABSENT
