"""The minutes that hours of some nodes need: those in them, and the nearest point on either side.

Most series have a point within two minutes of an hour's bounds.  Where one
has none there, and its span says that it goes on beyond, the store is asked
for the nearest minute, as far away as that may be.  It is asked for each
counter by itself: what is nearest of one may not be so of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.books.ledger import ENERGY_REACH_US
from pipeline.books.rows import COUNTERS, ENERGY, HOUR_MINUTES, HOUR_US, STATE_COUNTERS
from pipeline.books.spans import ANY, Spans, by_node, merge_spans, no_spans, spans_of, without
from pipeline.series.columns import concat_parts, select_parts
from pipeline.series.port import MinuteParts, SeriesStore

LOOK_AROUND = 2
"""Minutes read on either side of the hours."""
MINUTE_US = HOUR_US // HOUR_MINUTES
_BILLED = frozenset((STATE_COUNTERS[0], *COUNTERS))
"""The series that hours are made of."""
_WIDEST = 64
"""Minutes read at once when a series is searched for among others that go on."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """Parts for some hours, what is known of all series, and the series before, in and after them."""

    parts: MinuteParts
    spans: Spans
    before: Spans
    inside: Spans
    after: Spans

    def neighbours(self, hours: range) -> Mapping[str, tuple[range, range]]:
        """By node the hours before and after whose last or first segment ends in `hours`."""
        firsts = {n: int(one.last_us.min()) // HOUR_US for n, one in by_node(self.before).items()}
        lasts = {n: int(one.first_us.max()) // HOUR_US for n, one in by_node(self.after).items()}
        return {
            node: (
                range(firsts.get(node, hours.start), hours.start),
                range(hours.stop, lasts.get(node, hours.stop - 1) + 1),
            )
            for node in by_node(self.inside)
        }


async def gather(
    series: SeriesStore, known: Sequence[Spans], hours: range, nodes: Sequence[str]
) -> Gathered:
    """Reads what `compute_hours` needs.  `known` are the spans so far; raises StoreUnavailableError."""
    first, stop = hours.start * HOUR_MINUTES, hours.stop * HOUR_MINUTES
    parts = await series.minutes(first - LOOK_AROUND, stop + LOOK_AROUND, nodes=nodes, gauges=())
    before = spans_of(select_parts(parts, parts.minute < first))
    within = (parts.minute >= first) & (parts.minute < stop)
    inside = spans_of(select_parts(parts, within))
    after = spans_of(select_parts(parts, parts.minute >= stop))
    spans = merge_spans([*known, before, inside, after])
    back = _Search(series, first - LOOK_AROUND, before=True)
    found = await back.run(without(_reaching_over(spans, first * MINUTE_US), before))
    ahead = _Search(series, stop + LOOK_AROUND, before=False)
    found += await ahead.run(without(_reaching_over(spans, stop * MINUTE_US), after))
    if found:
        parts = concat_parts([parts, *found])
    before = merge_spans([before, *back.spans])
    return Gathered(parts, spans, before, inside, merge_spans([after, *ahead.spans]))


def _reaching_over(spans: Spans, edge_us: int) -> Spans:
    """The series with points on both sides of a time, so that a segment may lie over it."""
    over = (spans.first_us < edge_us) & (spans.last_us >= edge_us)
    named: NDArray[np.bool_] = np.array([name != ANY for name in spans.counters] or [False])
    return spans.select(np.flatnonzero(over & named[spans.counter]))


class _Search:
    """Looks for the nearest points of series, from a minute on in one direction."""

    def __init__(self, series: SeriesStore, at: int, *, before: bool) -> None:
        self._series = series
        self._start = at
        self._before = before
        self._wanted = no_spans()
        self._last: tuple[tuple[int, int, list[str]], MinuteParts] | None = None
        self.spans: list[Spans] = []

    async def run(self, wanted: Spans) -> list[MinuteParts]:
        """The parts found; a series that the store no longer has is left out."""
        self._wanted = wanted
        found: list[MinuteParts] = []
        for counter in [name for name in self._wanted.counters if name in _BILLED]:
            found += await self._counter(counter)
        return found

    def _of(self, counter: str) -> Spans:
        index = list(self._wanted.counters).index(counter)
        return self._wanted.select(np.flatnonzero(self._wanted.counter == index))

    def _reach(self, counter: str, wanted: Spans) -> int:
        """Minutes to look at most: to the end of the spans; of energy no more than is bridged."""
        if self._before:
            farthest = self._start - int(wanted.first_us.min()) // MINUTE_US
        else:
            farthest = int(wanted.last_us.max()) // MINUTE_US - self._start + 1
        limit = ENERGY_REACH_US // MINUTE_US + LOOK_AROUND
        return min(farthest, limit) if counter == ENERGY else farthest

    async def _counter(self, counter: str) -> list[MinuteParts]:
        found: list[MinuteParts] = []
        wanted, at, width = self._of(counter), self._start, LOOK_AROUND
        while len(wanted):
            reach = self._reach(counter, wanted) - abs(self._start - at)
            if reach <= 0:
                break
            nodes = [str(wanted.nodes[int(index)]) for index in np.unique(wanted.node).tolist()]
            near = await self._series.nearest(
                at, nodes=nodes, counter=counter, before=self._before, reach=reach
            )
            slots = {(wanted.nodes[n], s) for n, s in _places(wanted)}
            minutes = [minute for node, slot, minute in near if (node, slot) in slots]
            if not minutes:
                break
            low = max(minutes) - width + 1 if self._before else min(minutes)
            parts, fresh = await self._minutes(low, width, nodes)
            needed = self._needed(parts, counter)
            found += [needed] if fresh else []
            at, width = (low if self._before else low + width), min(2 * width, _WIDEST)
            wanted = self._of(counter)
        return found

    async def _minutes(self, low: int, width: int, nodes: list[str]) -> tuple[MinuteParts, bool]:
        """Parts, and whether they were read now: most counters ask for the same as the one before."""
        key = (low, width, nodes)
        if self._last is not None and self._last[0] == key:
            return self._last[1], False
        parts = await self._series.minutes(low, low + width, nodes=nodes, gauges=())
        self._last = (key, parts)
        return parts, True

    def _needed(self, parts: MinuteParts, counter: str) -> MinuteParts:
        """Of parts just read only those of the runs and epochs in question; of these the counter
        that was looked for is wanted no more."""
        rows = np.isin(parts.slot, self._wanted.slot)
        ids = np.isin(parts.run, self._wanted.id) | np.isin(parts.energy_epoch, self._wanted.id)
        parts = select_parts(parts, rows & ids)
        spans = _only(spans_of(parts), counter)
        there = without(self._wanted, without(self._wanted, spans))
        self.spans.append(_among(spans, there))
        self._wanted = without(self._wanted, spans)
        return parts


def _only(spans: Spans, counter: str) -> Spans:
    named: NDArray[np.bool_] = np.array([name == counter for name in spans.counters] or [False])
    return spans.select(np.flatnonzero(named[spans.counter]))


def _among(spans: Spans, wanted: Spans) -> Spans:
    return without(spans, without(spans, wanted)) if len(wanted) else no_spans()


def _places(spans: Spans) -> list[tuple[int, int]]:
    return list(zip(spans.node.tolist(), spans.slot.tolist(), strict=True))
