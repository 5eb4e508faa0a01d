"""Points of counters become segments, segments become exact integers per piece of time.

Between neighbouring points a counter is linear, V(c) = v0 + ⌊Δv·(c−t0)/Δt⌋,
and a part [a, b) gets V(b) − V(a): parts of a segment sum to its Δv to the
last unit.  A segment inside one piece is therefore summed whole, and only
those that cross a cut are divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.books.places import NOWHERE, PieceTable
from pipeline.books.rows import I64

Mask = NDArray[np.bool_]
Index = NDArray[np.intp]

_SAFE = float(2**62)


def muldiv(factor: I64, times: I64, by: I64) -> I64:
    """⌊factor·times/by⌋ exactly, for integers of 0 or more; 0 where `by` is 0.

    A product that might pass 2^62 goes through Python's integers.
    """
    divisor = np.maximum(by, 1)
    small = factor.astype(np.float64) * times < _SAFE
    result = np.where(small & (by > 0), factor * times // divisor, 0)
    for index in np.flatnonzero(~small & (by > 0)).tolist():
        result[index] = int(factor[index]) * int(times[index]) // int(by[index])
    return result


def sort_points(track: I64, time_us: I64, values: Sequence[I64]) -> Index | None:
    """The order by (track, time, values), or None where they are in it.

    Tracks must ascend already.  Points that come from minutes in order hardly
    ever need it, and then few tracks do, so only those are sorted.
    """
    step = np.diff(time_us)
    falls = np.zeros(len(step), np.bool_)
    for value in values:
        falls |= np.diff(value) < 0
    wrong = (np.diff(track) == 0) & ((step < 0) | ((step == 0) & falls))
    if not wrong.any():
        return None
    bad = np.zeros(int(track[-1]) + 1, np.bool_)
    bad[track[1:][wrong]] = True
    rows = np.flatnonzero(bad[track])
    keys = (*(value[rows] for value in reversed(values)), time_us[rows], track[rows])
    order = np.arange(len(track))
    order[rows] = rows[np.lexsort(keys)]
    return order


@dataclass(frozen=True)
class Frame:
    """Points in order of (track, time), with the pieces they fall in.

    Counters that were read together share one.  `limit_us` is the longest
    bridge between neighbours, None without a limit.
    """

    table: PieceTable
    track: I64
    place: I64
    time_us: I64
    limit_us: int | None = None

    def fits(self, track: I64, place: I64, time_us: I64) -> bool:
        """Whether other points are at the same places and times."""
        return (
            np.array_equal(self.time_us, time_us)
            and np.array_equal(self.track, track)
            and np.array_equal(self.place, place)
        )

    @cached_property
    def length_us(self) -> I64:
        """Δt of each pair of neighbours."""
        return np.diff(self.time_us)

    @cached_property
    def bridged(self) -> Mask:
        """Pairs that make a segment as far as time and track say."""
        longest = np.iinfo(np.int64).max if self.limit_us is None else self.limit_us
        long = (self.length_us > 0) & (self.length_us <= longest)
        return long & (np.diff(self.track) == 0)

    @cached_property
    def piece(self) -> Index:
        """The piece of each point."""
        return self.table.find(self.place, self.time_us)

    @cached_property
    def within(self) -> Mask:
        """Pairs whose points are in one piece."""
        return np.diff(self.piece) == 0

    @cached_property
    def _blocks(self) -> Index:
        """Where pairs with another first piece begin."""
        first = self.piece[:-1]
        return np.flatnonzero(np.append(True, np.diff(first) != 0))[: len(first)]

    def add_within(self, total: I64, amount: I64) -> None:
        """Adds each pair's amount to the total of its first point's piece."""
        if len(amount):
            blocks = self._blocks
            np.add.at(total, self.piece[:-1][blocks], np.add.reduceat(amount, blocks))

    def crossings(self, segments: Mask) -> Parts:
        """The parts, by piece, of those segments that lie in more than one."""
        pair = np.flatnonzero(segments & ~self.within)
        first, last = self.piece[pair], self.piece[pair + 1]
        count = last - first + 1
        segment = np.repeat(np.arange(len(pair)), count)
        step = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count)
        piece = first[segment] + step
        counted = self.table.row[piece] != NOWHERE
        pair, piece = pair[segment][counted], piece[counted]
        since = self.time_us[pair]
        start = np.maximum(since, self.table.start[piece]) - since
        end = np.minimum(self.time_us[pair + 1], self.table.end[piece]) - since
        return Parts(pair, piece, start, end, self.length_us[pair])


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of segments: pair, piece, start and end in µs from the pair's first point, Δt."""

    pair: Index
    piece: Index
    start: I64
    end: I64
    length_us: I64


def add_counter(frame: Frame, value: I64, total: I64) -> Mask:
    """Adds what a counter gained in each piece to `total`; returns which pairs are segments."""
    gain = np.diff(value)
    segments = frame.bridged & (gain >= 0)
    frame.add_within(total, np.where(segments & frame.within, gain, 0))
    parts = frame.crossings(segments)
    if len(parts.pair):
        whole = gain[parts.pair]
        share = muldiv(whole, parts.end, parts.length_us)
        share -= muldiv(whole, parts.start, parts.length_us)
        np.add.at(total, parts.piece, share)
    return segments


@dataclass(frozen=True, slots=True)
class StateTotals:
    """µs observed, active and down per piece."""

    observed: I64
    active: I64
    down: I64


def add_states(frame: Frame, values: Sequence[I64], totals: StateTotals) -> Mask:
    """Adds the states' times, from the counters (observed, down, active); returns the segments.

    K = min(ΔO + ΔD, Δt) is the time known of, cut linearly; observed time is
    cut by K, active time by observed time, so that each part keeps
    active ≤ observed ≤ known ≤ its length.
    """
    observed, down, active = (np.diff(value) for value in values)
    segments = frame.bridged & (observed >= 0) & (down >= 0) & (active >= 0)
    known = np.minimum(observed + down, frame.length_us)
    observed = np.minimum(observed, known)
    active = np.minimum(active, observed)
    whole = segments & frame.within
    frame.add_within(totals.observed, np.where(whole, observed, 0))
    frame.add_within(totals.active, np.where(whole, active, 0))
    frame.add_within(totals.down, np.where(whole, known - observed, 0))
    parts = frame.crossings(segments)
    if len(parts.pair):
        of = (known[parts.pair], observed[parts.pair], active[parts.pair])
        to = _states_until(of, parts.end, parts.length_us)
        since = _states_until(of, parts.start, parts.length_us)
        seen = to[1] - since[1]
        np.add.at(totals.observed, parts.piece, seen)
        np.add.at(totals.active, parts.piece, to[2] - since[2])
        np.add.at(totals.down, parts.piece, to[0] - since[0] - seen)
    return segments


def _states_until(of: tuple[I64, I64, I64], cut: I64, length_us: I64) -> tuple[I64, I64, I64]:
    known, observed, active = of
    known_until = muldiv(known, cut, length_us)
    observed_until = muldiv(observed, known_until, known)
    return known_until, observed_until, muldiv(active, observed_until, observed)
