"""State rows of GPU-minutes as arrays, and the operations that merge points into them.

A row is a semilattice: firsts are minima and lasts maxima of (time, value),
gauges have minimum, maximum and last.  Merging is idempotent, commutative and
associative, so repeats, order and batching cannot change the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

    `newest_us` is the latest time seen of a row; `held` says what it has a
    value for, in words of bits: counters first, then gauges.
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
    held: U64

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
            np.zeros((_words(c[0] + q[0]), capacity), np.uint64),
        )

    @property
    def capacity(self) -> int:
        """Rows that there is room for."""
        return len(self.energy_epoch)

    def holding(self, at: Where) -> tuple[list[int], list[int]]:
        """Which counters and which gauges any of the rows has a value of."""
        words = np.bitwise_or.reduce(self.held[:, at], axis=1).tolist()
        bits = [row for row in range(64 * len(words)) if words[row // 64] >> row % 64 & 1]
        counters = len(self.last)
        return [b for b in bits if b < counters], [b - counters for b in bits if b >= counters]

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
        there = _There.of(points)
        late = points.first_us <= self.newest_us[at]
        odd = late | self._news(at, points, there)
        number = int(np.count_nonzero(odd))
        if number * 2 > len(odd):
            self._merge(at, points, there)
            return
        if number:
            # What is read seldom is news to some rows in every tick: they alone go the long way.
            rows = np.flatnonzero(odd) + at.start if isinstance(at, slice) else at[odd]
            few = points.rows(odd)
            self._merge(rows, few, _There.of(few))
        # To those of them that are not late the short way changes nothing more.
        self._advance(at, points, there, ~late if late.any() else None)

    def _news(self, at: Where, points: Points, there: _There) -> Bools:
        """Rows that get a value of a metric that they had none of, or another energy epoch: bool[m].

        Where there is neither, and all is later than what a row holds, firsts
        stay and lasts are the new values.
        """
        news = points.energy_epoch != self.energy_epoch[at]
        for word, bits in enumerate(there.bits(len(news))):
            news |= (bits & ~self.held[word, at]) != 0
        return news

    def _advance(self, at: Where, points: Points, there: _There, plain: Bools | None) -> None:
        """Later values take the place of earlier ones, in the rows `plain` (None: all)."""
        for target, runs, some, values in (
            (self.last, there.counters, there.some_counters, points.last),
            (self.last_us, there.counters, there.some_counters, points.last_us),
            (self.final, there.gauges, there.some_gauges, points.final),
            (self.final_us, there.gauges, there.some_gauges, points.last_us),
        ):
            for run in runs:
                value = values if values.ndim == 1 else values[run]
                if plain is None:
                    target[run, at] = value
                else:
                    _put(target, run, at, plain, value)
            for row, mask in some.items():
                value = values if values.ndim == 1 else values[row]
                _put(target, row, at, mask if plain is None else mask & plain, value)
        self._widen(at, points, there)
        self.newest_us[at] = np.maximum(self.newest_us[at], points.last_us)

    def _widen(self, at: Where, points: Points, there: _There) -> None:
        """Gauges' minima and maxima."""
        for state, value, reduce in (
            (self.minimum, points.minimum, np.fmin),
            (self.maximum, points.maximum, np.fmax),
        ):
            for run in (*there.gauges, *there.some_gauges):
                state[run, at] = reduce(state[run, at], value[run])

    def _merge(self, at: Where, points: Points, there: _There) -> None:
        self._merge_counters(at, points)
        self._merge_gauges(at, points, there)
        self.energy_epoch[at] = np.maximum(self.energy_epoch[at], points.energy_epoch)
        self.newest_us[at] = np.maximum(self.newest_us[at], points.last_us)
        for word, bits in enumerate(there.bits(len(points.energy_epoch))):
            self.held[word, at] |= bits

    def _merge_counters(self, at: Where, points: Points) -> None:
        state_us, state = self.first_us[:, at], self.first[:, at]
        better = points.first_us < state_us
        better |= (points.first_us == state_us) & (points.first < state)
        better &= points.first != COUNTER_ABSENT
        _put(self.first_us, _ALL, at, better, points.first_us)
        _put(self.first, _ALL, at, better, points.first)
        state_us, state = self.last_us[:, at], self.last[:, at]
        better = points.last_us > state_us
        better |= (points.last_us == state_us) & (points.last > state)
        better &= points.last != COUNTER_ABSENT
        _put(self.last_us, _ALL, at, better, points.last_us)
        _put(self.last, _ALL, at, better, points.last)

    def _merge_gauges(self, at: Where, points: Points, there: _There) -> None:
        self._widen(at, points, there)
        state_us, final = self.final_us[:, at], self.final[:, at]
        better = points.last_us > state_us
        better |= (points.last_us == state_us) & (points.final > final)
        better &= ~np.isnan(points.final)
        _put(self.final_us, _ALL, at, better, points.last_us)
        _put(self.final, _ALL, at, better, points.final)


_ALL = slice(None)


@dataclass(frozen=True, slots=True)
class _There:
    """Which metrics points have: runs of those that all rows have, masks bool[m] of the others."""

    counters: Sequence[slice]
    gauges: Sequence[slice]
    some_counters: Mapping[int, Bools]
    some_gauges: Mapping[int, Bools]
    first_gauge: int
    metrics: int

    @classmethod
    def of(cls, points: Points) -> _There:
        """What the points have.  A largest counter below `COUNTER_ABSENT`, and a largest gauge
        that is a number, say that no row lacks it."""
        c, q = len(points.last), len(points.final)
        none = not len(points.energy_epoch)
        lacking = np.ones(c, bool) if none else points.last.max(axis=1) == COUNTER_ABSENT
        missing = np.ones(q, bool) if none else np.isnan(points.final.max(axis=1))
        some = {row: points.last[row] != COUNTER_ABSENT for row in _where(lacking)}
        few = {row: ~np.isnan(points.final[row]) for row in _where(missing)}
        return cls(
            _runs(~lacking),
            _runs(~missing),
            {row: mask for row, mask in some.items() if mask.any()},
            {row: mask for row, mask in few.items() if mask.any()},
            c,
            c + q,
        )

    def bits(self, rows: int) -> Sequence[U64]:
        """Words of the rows' bits, each uint64[rows] or one for all of them."""
        words: list[Any] = [np.uint64(0)] * _words(self.metrics)
        for base, runs in ((0, self.counters), (self.first_gauge, self.gauges)):
            for run in runs:
                for row in range(base + run.start, base + run.stop):
                    words[row // 64] |= np.uint64(1) << np.uint64(row % 64)
        for base, some in ((0, self.some_counters), (self.first_gauge, self.some_gauges)):
            for row, mask in some.items():
                at = base + row
                words[at // 64] = words[at // 64] | mask.astype(np.uint64) << np.uint64(at % 64)
        return [np.broadcast_to(word, rows) for word in words]


def _words(metrics: int) -> int:
    return -(-metrics // 64)


def _where(mask: Bools) -> list[int]:
    return [int(row) for row in np.flatnonzero(mask)]


def _runs(mask: Bools) -> list[slice]:
    """The true stretches of a mask."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).tolist()
    return [slice(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _put(
    target: NDArray[np.generic],
    run: slice | int,
    at: Where,
    better: Bools,
    value: NDArray[np.generic],
) -> None:
    """Writes `value` to target[run, at] where it is better."""
    if isinstance(at, slice):
        np.copyto(target[run, at], value, where=better)
    else:
        target[run, at] = np.where(better, value, target[run, at])
