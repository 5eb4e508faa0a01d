"""The hour ledger: kept points, claims and inventory in, exact integers per hour and owner out.

Pure.  A minute's first and last points of each counter are the kept points;
everything else follows by integer arithmetic, so any order, number of
workers or cut of the same points gives the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.inventory import Inventory
from pipeline.books.claims import Claim
from pipeline.books.places import NOWHERE, Cut, Interval, Places, overlaps
from pipeline.books.rows import (
    COUNTERS,
    ENERGY,
    FIGURES,
    HOUR_MINUTES,
    HOUR_US,
    I64,
    STATE_COUNTERS,
    U8,
    LedgerRows,
)
from pipeline.books.segments import (
    Frame,
    Index,
    Mask,
    StateTotals,
    add_counter,
    add_states,
    sort_points,
)
from pipeline.books.sharing import divided
from pipeline.books.spans import Spans, merge_spans, spans_of
from pipeline.series.columns import group_rows, merge_parts, select_parts
from pipeline.series.port import CounterSpan, MinuteParts

ENERGY_REACH_US = 72 * HOUR_US
"""A longer gap between two points of an energy epoch is not bridged."""

_ABSENT = np.uint64(COUNTER_ABSENT)


@dataclass(frozen=True, slots=True)
class Tracks:
    """How the parts are ordered for counters of one kind, and where their points belong.

    `order` are the parts by (slot, run or epoch, minute); `track` numbers the
    (slot, run or epoch) of each, `place` is where its pieces are.
    """

    order: Index
    track: I64
    place: I64


def compute_hours(
    parts: MinuteParts,
    claims: Mapping[str, Sequence[Claim]],
    inventory: Inventory,
    hours: range,
    nodes: Sequence[str],
    *,
    until_us: int | None = None,
    spans: Spans | None = None,
) -> LedgerRows:
    """The rows of some consecutive hours of some nodes.

    `parts` hold the minutes of these hours and, on either side, the nearest
    point of each series; points farther away change nothing.  `claims` are by
    node.  `until_us` ends the last hour early, at the time reached so far.
    `spans` says what is known of series beyond the parts; without it the parts
    are all there is.
    """
    from_us, to_us = hours.start * HOUR_US, hours.stop * HOUR_US
    to_us = to_us if until_us is None else max(from_us, min(to_us, until_us))
    places = Places(inventory, claims, nodes, from_us, to_us)
    merged = _one_per_key(parts)
    known = merge_spans([spans_of(merged)] if spans is None else [spans, spans_of(merged)])
    slot = _slot_of_parts(merged, places)
    if not (slot >= 0).all():
        merged, slot = select_parts(merged, slot >= 0), slot[slot >= 0]
    return _Sums(merged, slot, places, known).rows()


def _one_per_key(parts: MinuteParts) -> MinuteParts:
    """The parts as they are where each key has one, as is usual; else merged."""
    keys = (parts.node, parts.slot, parts.minute, parts.run, parts.label_epoch)
    _, starts = group_rows(keys)
    return parts if len(starts) == len(parts) else merge_parts(parts)


def _slot_of_parts(parts: MinuteParts, places: Places) -> I64:
    """The place of each part's slot, -1 where that is not installed."""
    order, starts = group_rows((parts.node, parts.slot))
    heads = order[starts]
    found = [
        places.index.get((str(parts.nodes[int(node)]), int(slot)), -1)
        for node, slot in zip(parts.node[heads].tolist(), parts.slot[heads].tolist(), strict=True)
    ]
    place = np.empty(len(parts), np.int64)
    place[order] = np.repeat(np.array(found, np.int64), np.diff(np.append(starts, len(parts))))
    return place


class _Sums:
    """One computation: what each counter gained in each piece."""

    def __init__(self, parts: MinuteParts, slot: I64, places: Places, spans: Spans) -> None:
        self._parts, self._slot, self._places = parts, slot, places
        extra: list[list[Cut]] = []
        self._runs = self._tracks(parts.run, overlaps(spans, places, energy=False), extra)
        taken = overlaps(spans, places, energy=True)
        self._epochs = self._tracks(parts.energy_epoch, taken, extra)
        self._table = places.table(extra)
        self._frames: list[Frame] = []
        hours = (places.to_us - 1) // HOUR_US - places.from_us // HOUR_US + 1
        self._origin: U8 = np.zeros((len(places.slots), max(hours, 0)), np.uint8)

    def _tracks(
        self,
        ids: NDArray[np.uint64],
        taken: Mapping[tuple[int, int], Sequence[Interval]],
        extra: list[list[Cut]],
    ) -> Tracks:
        slot, minute = self._slot, self._parts.minute
        order = np.lexsort((self._parts.label_epoch, self._parts.run, minute, ids, slot))
        slot, ids = slot[order], ids[order]
        starts = np.ones(len(order), np.bool_)
        starts[1:] = (np.diff(slot) != 0) | (ids[1:] != ids[:-1])
        track = np.cumsum(starts) - 1
        place = slot.copy()
        if taken:
            heads = np.flatnonzero(starts)
            for number, key in enumerate(
                zip(slot[heads].tolist(), ids[heads].tolist(), strict=True)
            ):
                if key in taken:
                    place[track == number] = len(self._places.slots) + len(extra)
                    extra.append(self._places.without(key[0], taken[key]))
        return Tracks(order, track, place)

    def rows(self) -> LedgerRows:
        """All rows, in the order in which the slots were cut."""
        self._mark_points()
        keys, places = self._places.rows, self._places
        owned = np.array(keys.owned_us, np.int64)
        figures = {name: np.zeros(len(owned), np.int64) for name in FIGURES}
        self._add_states(figures, owned)
        for name in COUNTERS:
            if name in self._parts.counters:
                self._add_counter(name, figures[name])
        owned_rows = divided(keys, figures)
        slot = np.array(owned_rows.slot, np.intp)
        slots = np.array(places.slots, np.uint64).reshape(-1, 2)[slot]
        hour = np.array(owned_rows.hour, np.int64)
        first_hour = places.from_us // HOUR_US
        return LedgerRows(
            places.nodes,
            tuple(owned_rows.owners),
            hour,
            slots[:, 0].astype(np.int32),
            slots[:, 1],
            np.array(owned_rows.owner, np.int32),
            self._origin[slot, hour - first_hour],
            owned_rows.figures,
        )

    def _mark_points(self) -> None:
        """The origins of a slot's own points in an hour."""
        parts = self._parts
        present = np.zeros(len(parts), np.bool_)
        for span in parts.counters.values():
            present |= span.first != _ABSENT
            if present.all():
                break
        hour = parts.minute // HOUR_MINUTES - self._places.from_us // HOUR_US
        inside = present & (hour >= 0) & (hour < self._origin.shape[1])
        np.maximum.at(self._origin, (self._slot[inside], hour[inside]), parts.origin[inside])

    def _mark_segments(self, frame: Frame, segments: Mask, slot: I64, origin: U8) -> None:
        """The origins of segments that reach into another hour than their first point's."""
        pair = np.flatnonzero(segments & ~frame.within)
        base = self._places.from_us // HOUR_US
        first = np.maximum(frame.time_us[pair] // HOUR_US - base, 0)
        last = np.minimum(
            (frame.time_us[pair + 1] - 1) // HOUR_US - base, self._origin.shape[1] - 1
        )
        both = np.maximum(origin[pair], origin[pair + 1])
        for step in range(int((last - first).max(initial=-1)) + 1):
            reach = first + step <= last
            np.maximum.at(self._origin, (slot[pair][reach], (first + step)[reach]), both[reach])

    def _points(
        self, tracks: Tracks, spans: Sequence[CounterSpan], limit_us: int | None
    ) -> tuple[Frame, list[I64], Index]:
        """The kept points of counters that were read together: frame, values, part of each."""
        present = np.ones(len(tracks.order), np.bool_)
        for span in spans:
            present &= span.first[tracks.order] != _ABSENT
        kept = slice(None) if present.all() else present
        part = tracks.order[kept]
        track, place = (np.repeat(one[kept], 2) for one in (tracks.track, tracks.place))
        time_us = _interleaved(spans[0].first_us, spans[0].last_us, part)
        values = [_interleaved(span.first, span.last, part).view(np.int64) for span in spans]
        source = np.repeat(part, 2)
        order = sort_points(track, time_us, values)
        if order is not None:
            time_us, source = time_us[order], source[order]
            values = [value[order] for value in values]
        return self._frame(track, place, time_us, limit_us), values, source

    def _frame(self, track: I64, place: I64, time_us: I64, limit_us: int | None) -> Frame:
        for frame in self._frames:
            if frame.limit_us == limit_us and frame.fits(track, place, time_us):
                return frame
        frame = Frame(self._table, track, place, time_us, limit_us)
        self._frames = [*self._frames[-2:], frame]
        return frame

    def _add_states(self, figures: Mapping[str, I64], owned: I64) -> None:
        totals = StateTotals(*(np.zeros(len(self._table), np.int64) for _ in range(3)))
        spans = [self._parts.counters.get(name) for name in STATE_COUNTERS]
        read = [span for span in spans if span is not None]
        if len(read) == len(spans):
            frame, values, source = self._points(self._runs, read, None)
            segments = add_states(frame, values, totals)
            self._mark_segments(frame, segments, self._slot[source], self._parts.origin[source])
        self._fill(figures["active_us"], totals.active)
        self._fill(figures["idle_us"], totals.observed - totals.active)
        self._fill(figures["down_us"], totals.down)
        seen = figures["active_us"] + figures["idle_us"] + figures["down_us"]
        np.subtract(owned, seen, out=figures["unobserved_us"])

    def _add_counter(self, name: str, figure: I64) -> None:
        energy = name == ENERGY
        frame, (value,), source = self._points(
            self._epochs if energy else self._runs,
            [self._parts.counters[name]],
            ENERGY_REACH_US if energy else None,
        )
        total = np.zeros(len(self._table), np.int64)
        segments = add_counter(frame, value, total)
        self._mark_segments(frame, segments, self._slot[source], self._parts.origin[source])
        self._fill(figure, total)

    def _fill(self, figure: I64, total: I64) -> None:
        counted = self._table.row != NOWHERE
        np.add.at(figure, self._table.row[counted], total[counted])


def _interleaved(first: NDArray[Any], last: NDArray[Any], part: Index) -> NDArray[Any]:
    points = np.empty(2 * len(part), first.dtype)
    points[0::2] = first[part]
    points[1::2] = last[part]
    return points
