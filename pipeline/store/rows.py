"""State rows of GPU-minutes as arrays, and the operations that merge points into them.

A row is a semilattice: firsts are minima and lasts maxima of (time, value),
gauges have minimum, maximum and last.  Merging is idempotent, commutative and
associative, so repeats, order and batching cannot change the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT

NEVER_FIRST = np.int64(np.iinfo(np.int64).max)
NEVER_LAST = np.int64(-1)
_STRIP = 2_048
"""Rows worked on at a time: their columns then stay in the processor's cache."""

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
F32 = NDArray[np.float32]
Bools = NDArray[np.bool_]
Where = slice | NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Points:
    """What some records say of m distinct rows.

    Times are int64[m]; counters uint64[C, m] (absent: `COUNTER_ABSENT`),
    gauges float32[Q, m] (absent: NaN).
    """

    first_us: I64
    first: U64
    last_us: I64
    last: U64
    minimum: F32
    maximum: F32
    final: F32
    energy_epoch: U64

    def part(self, rows: slice) -> Points:
        """Views of some of the rows."""
        return Points(*(getattr(self, name)[..., rows] for name in self.__slots__))

    def rows(self, chosen: NDArray[np.bool_]) -> Points:
        """Some of the rows, by bool[m]."""
        return Points(*(getattr(self, name)[..., chosen] for name in self.__slots__))


@dataclass(slots=True)
class Rows:
    """State columns: [C, capacity] of counters, [Q, capacity] of gauges.

    `newest_us` is the latest time seen of a row; `counted` and `gauged` say
    what it has a value for.
    """

    first_us: I64
    first: U64
    last_us: I64
    last: U64
    minimum: F32
    maximum: F32
    final: F32
    final_us: I64
    energy_epoch: U64
    newest_us: I64
    counted: Bools
    gauged: Bools

    @classmethod
    def empty(cls, capacity: int) -> Rows:
        """Rows that have seen nothing."""
        c, q = (len(CATALOGUE.counters), capacity), (len(CATALOGUE.gauges), capacity)
        return cls(
            np.full(c, NEVER_FIRST, np.int64),
            np.full(c, COUNTER_ABSENT, np.uint64),
            np.full(c, NEVER_LAST, np.int64),
            np.zeros(c, np.uint64),
            np.full(q, np.nan, np.float32),
            np.full(q, np.nan, np.float32),
            np.full(q, np.nan, np.float32),
            np.full(q, NEVER_LAST, np.int64),
            np.zeros(capacity, np.uint64),
            np.full(capacity, NEVER_LAST, np.int64),
            np.zeros(c, bool),
            np.zeros(q, bool),
        )

    @property
    def capacity(self) -> int:
        """Rows that there is room for."""
        return len(self.energy_epoch)

    def grown(self, capacity: int) -> Rows:
        """The same rows with more room."""
        more = Rows.empty(capacity - self.capacity)
        return Rows(
            *(
                np.concatenate([getattr(self, name), getattr(more, name)], axis=-1)
                for name in self.__slots__
            )
        )

    def move(self, start: int, end: int, count: int) -> None:
        """Moves `count` rows from `start` to `end`, which is unused, and leaves empty ones."""
        empty = Rows.empty(count)
        for name in self.__slots__:
            column = getattr(self, name)
            column[..., end : end + count] = column[..., start : start + count]
            column[..., start : start + count] = getattr(empty, name)

    def merge(self, at: Where, points: Points) -> None:
        """Merges points into the rows `at`, which must be distinct."""
        count = len(points.energy_epoch)
        for start in range(0, count, _STRIP):
            stop = min(start + _STRIP, count)
            if isinstance(at, slice):
                strip: Where = slice(at.start + start, at.start + stop)
            else:
                strip = at[start:stop]
            self._merge_strip(strip, points.part(slice(start, stop)))

    def _merge_strip(self, at: Where, points: Points) -> None:
        counted, gauged = points.last != COUNTER_ABSENT, ~np.isnan(points.final)
        odd = self._odd(at, points, counted, gauged)
        number = int(np.count_nonzero(odd))
        if number * 2 > len(odd):
            self._merge(at, points)
            return
        if number:
            # What is read seldom is news to some rows in every tick: they alone go the long way.
            rows = np.flatnonzero(odd) + at.start if isinstance(at, slice) else at[odd]
            self._merge(rows, points.rows(odd))
            counted &= ~odd
            gauged &= ~odd
        self._advance(at, points, counted, gauged)

    def _odd(self, at: Where, points: Points, counted: Bools, gauged: Bools) -> Bools:
        """Rows that do not simply go on: bool[m].

        Where all is later than what a row holds, and it had a value before of
        each metric that has one now, firsts stay and lasts are the new values.
        """
        odd = points.first_us <= self.newest_us[at]
        odd |= points.energy_epoch != self.energy_epoch[at]
        odd |= (counted & ~self.counted[:, at]).any(axis=0)
        odd |= (gauged & ~self.gauged[:, at]).any(axis=0)
        return odd

    def _advance(self, at: Where, points: Points, counted: Bools, gauged: Bools) -> None:
        _put(self.last_us, at, self.last_us[:, at], counted, points.last_us)
        _put(self.last, at, self.last[:, at], counted, points.last)
        self._widen(at, points)
        _put(self.final, at, self.final[:, at], gauged, points.final)
        _put(self.final_us, at, self.final_us[:, at], gauged, points.last_us)
        self.newest_us[at] = np.maximum(self.newest_us[at], points.last_us)

    def _widen(self, at: Where, points: Points) -> None:
        """Gauges' minima and maxima."""
        for state, value, reduce in (
            (self.minimum, points.minimum, np.fmin),
            (self.maximum, points.maximum, np.fmax),
        ):
            if isinstance(at, slice):
                reduce(state[:, at], value, out=state[:, at])
            else:
                state[:, at] = reduce(state[:, at], value)

    def _merge(self, at: Where, points: Points) -> None:
        self._merge_counters(at, points)
        self._merge_gauges(at, points)
        self.energy_epoch[at] = np.maximum(self.energy_epoch[at], points.energy_epoch)
        self.newest_us[at] = np.maximum(self.newest_us[at], points.last_us)
        self.counted[:, at] = self.first_us[:, at] != NEVER_FIRST
        self.gauged[:, at] = self.final_us[:, at] != NEVER_LAST

    def _merge_counters(self, at: Where, points: Points) -> None:
        state_us, state = self.first_us[:, at], self.first[:, at]
        better = points.first_us < state_us
        better |= (points.first_us == state_us) & (points.first < state)
        better &= points.first != COUNTER_ABSENT
        _put(self.first_us, at, state_us, better, points.first_us)
        _put(self.first, at, state, better, points.first)
        state_us, state = self.last_us[:, at], self.last[:, at]
        better = points.last_us > state_us
        better |= (points.last_us == state_us) & (points.last > state)
        better &= points.last != COUNTER_ABSENT
        _put(self.last_us, at, state_us, better, points.last_us)
        _put(self.last, at, state, better, points.last)

    def _merge_gauges(self, at: Where, points: Points) -> None:
        self._widen(at, points)
        state_us, final = self.final_us[:, at], self.final[:, at]
        better = points.last_us > state_us
        better |= (points.last_us == state_us) & (points.final > final)
        better &= ~np.isnan(points.final)
        _put(self.final_us, at, state_us, better, points.last_us)
        _put(self.final, at, final, better, points.final)


def _put(
    target: NDArray[np.generic],
    at: Where,
    current: NDArray[np.generic],
    better: Bools,
    value: NDArray[np.generic],
) -> None:
    """Writes `value` where it is better; `current` is target[:, at], a view when `at` is a slice."""
    np.copyto(current, value, where=better)
    if not isinstance(at, slice):
        target[:, at] = current
