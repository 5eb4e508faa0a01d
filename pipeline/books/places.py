"""Time cut into pieces: per slot, in which time a point counts for which row.

Hours, bounds of claims and of inventory entries cut a slot's time; where runs
(or energy epochs) overlap, the later one has pieces of its own in which the
earlier one's time counts for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from collectors.contract.inventory import InstalledNode, Inventory
from pipeline.books.claims import Claim, Holder, ownership
from pipeline.books.rows import ENERGY, HOUR_US, I64
from pipeline.books.spans import ANY, Spans

NOWHERE = -1
"""The row of a piece in which nothing counts: not installed, not asked for, or another run's."""

Cut = tuple[int, int, int]
"""A piece: start, end (µs) and row."""
Interval = tuple[int, int]


@dataclass(slots=True)
class RowKeys:
    """The rows to be filled: hour, slot (index of `Places.slots`), owner, and the time owned."""

    hour: list[int] = field(default_factory=list[int])
    slot: list[int] = field(default_factory=list[int])
    owner: list[int] = field(default_factory=list[int])
    owned_us: list[int] = field(default_factory=list[int])
    owners: dict[Holder, int] = field(default_factory=dict[Holder, int])
    _rows: dict[tuple[int, int, int], int] = field(default_factory=dict[tuple[int, int, int], int])

    def row(self, hour: int, slot: int, owner: Holder, length_us: int) -> int:
        """The row of a key, made when new; it owns `length_us` more."""
        code = self.owners.setdefault(owner, len(self.owners))
        row = self._rows.setdefault((hour, slot, code), len(self.hour))
        if row == len(self.hour):
            self.hour.append(hour)
            self.slot.append(slot)
            self.owner.append(code)
            self.owned_us.append(0)
        self.owned_us[row] += length_us
        return row


class Places:
    """All slots installed in some hours, each with its pieces in [from_us, to_us).

    `slots` are (node index, slot) in order of node name and slot; `index`
    finds them.
    """

    def __init__(
        self,
        inventory: Inventory,
        claims: Mapping[str, Sequence[Claim]],
        nodes: Sequence[str],
        from_us: int,
        to_us: int,
    ) -> None:
        self.from_us, self.to_us = from_us, to_us
        self.nodes = tuple(sorted(set(nodes)))
        self.rows = RowKeys()
        self.slots: list[tuple[int, int]] = []
        self.index: dict[tuple[str, int], int] = {}
        self._cuts: list[list[Cut]] = []
        entries: dict[str, list[InstalledNode]] = {}
        for entry in inventory.nodes:
            entries.setdefault(entry.name, []).append(entry)
        for number, node in enumerate(self.nodes):
            self._add_node(number, entries.get(node, []), claims.get(node, ()))

    def _add_node(
        self, number: int, entries: Sequence[InstalledNode], claims: Sequence[Claim]
    ) -> None:
        """Slots that the same claims hold at the same time are cut alike, so cut once."""
        stays: dict[int, list[Interval]] = {}
        for entry in sorted(entries, key=lambda one: one.from_us):
            start = max(entry.from_us, self.from_us)
            end = self.to_us if entry.to_us is None else min(entry.to_us, self.to_us)
            for slot in entry.slots if start < end else ():
                stays.setdefault(slot, []).append((start, end))
        pieces: dict[tuple[object, ...], list[tuple[int, int, int, Holder]]] = {}
        for slot in sorted(stays):
            mine = tuple(claim for claim in claims if claim.holds(slot))
            alike = (*stays[slot], *(claim.rank for claim in mine))
            if alike not in pieces:
                pieces[alike] = _by_hour(mine, slot, stays[slot])
            place = len(self.slots)
            self.slots.append((number, slot))
            self.index[self.nodes[number], slot] = place
            self._cuts.append(
                [
                    (start, end, self.rows.row(hour, place, owner, end - start))
                    for start, end, hour, owner in pieces[alike]
                ]
            )

    def table(self, extra: Sequence[list[Cut]] = ()) -> PieceTable:
        """The pieces of all slots, then those of `extra` places, ready to be searched."""
        return PieceTable([*self._cuts, *extra], self.from_us, self.to_us)

    def without(self, place: int, taken: Sequence[Interval]) -> list[Cut]:
        """A slot's pieces for a run that has no say in the intervals taken."""
        cuts = self._cuts[place]
        for start, end in taken:
            cuts = [part for cut in cuts for part in _cut_out(cut, start, end)]
        return cuts


def _by_hour(
    claims: Sequence[Claim], slot: int, stays: Sequence[Interval]
) -> list[tuple[int, int, int, Holder]]:
    result: list[tuple[int, int, int, Holder]] = []
    done_us = 0
    for start, end in stays:
        first = max(start, done_us)
        if first >= end:
            continue
        done_us = end
        for piece in ownership(claims, slot, first, end):
            for hour in range(piece.from_us // HOUR_US, (piece.to_us - 1) // HOUR_US + 1):
                low, high = max(piece.from_us, hour * HOUR_US), (hour + 1) * HOUR_US
                result.append((low, min(piece.to_us, high), hour, piece.owner))
    return result


def _cut_out(cut: Cut, start: int, end: int) -> list[Cut]:
    low, high, row = cut
    if start >= high or end <= low or row == NOWHERE:
        return [cut]
    inner = (max(low, start), min(high, end), NOWHERE)
    return [
        part for part in ((low, inner[0], row), inner, (inner[1], high, row)) if part[0] < part[1]
    ]


class PieceTable:
    """Pieces of all places as columns, without gaps; `find` searches them all at once."""

    def __init__(self, places: Sequence[Sequence[Cut]], from_us: int, to_us: int) -> None:
        self._low, self._high = from_us - 1, to_us
        self._width = to_us - from_us + 2
        columns: list[tuple[int, int, int, int]] = []
        for place, cuts in enumerate(places):
            reached = self._low
            for start, end, row in cuts:
                if start > reached:
                    columns.append((place, reached, start, NOWHERE))
                columns.append((place, start, end, row))
                reached = end
            columns.append((place, reached, to_us + 1, NOWHERE))
        table = np.array(columns, np.int64).reshape(-1, 4)
        self.start: I64 = np.ascontiguousarray(table[:, 1])
        self.end: I64 = np.ascontiguousarray(table[:, 2])
        self.row: I64 = np.ascontiguousarray(table[:, 3])
        self._key = table[:, 0] * self._width + (self.start - self._low)

    def __len__(self) -> int:
        return len(self.row)

    def find(self, place: I64, time_us: I64) -> NDArray[np.intp]:
        """The piece at each (place, time); times outside all pieces find one that counts nowhere."""
        offset = np.clip(time_us, self._low, self._high) - self._low
        return np.searchsorted(self._key, place * self._width + offset, side="right") - 1


def overlaps(
    spans: Spans, places: Places, *, energy: bool
) -> dict[tuple[int, int], list[Interval]]:
    """(place, run or energy epoch) → the times that earlier ones have taken from it.

    Runs come in order of their id; epochs in order of (earliest time, id).
    Only those that lose time between the bounds of `places` are there.
    """
    name = ENERGY if energy else ANY
    wanted = spans.counters.index(name) if name in spans.counters else -1
    near = (spans.first_us < places.to_us) & (spans.last_us > places.from_us)
    rows = np.flatnonzero((spans.counter == wanted) & near)
    if not len(rows):
        return {}
    same = (np.diff(spans.node[rows]) == 0) & (np.diff(spans.slot[rows]) == 0)
    starts = np.flatnonzero(np.append(True, ~same))
    several = np.diff(np.append(starts, len(rows))) > 1
    result: dict[tuple[int, int], list[Interval]] = {}
    for start, group in zip(starts.tolist(), several.tolist(), strict=True):
        place = _place(spans, places, int(rows[start])) if group else None
        if place is not None:
            result.update(_taken(spans, rows, start, place, energy=energy))
    return result


def _place(spans: Spans, places: Places, row: int) -> int | None:
    return places.index.get((spans.nodes[int(spans.node[row])], int(spans.slot[row])))


def _taken(
    spans: Spans, rows: NDArray[np.intp], start: int, place: int, *, energy: bool
) -> dict[tuple[int, int], list[Interval]]:
    head = rows[start]
    group = rows[(spans.node[rows] == spans.node[head]) & (spans.slot[rows] == spans.slot[head])]
    hulls = [
        (first if energy else 0, one, first, last)
        for one, first, last in zip(
            spans.id[group].tolist(),
            spans.first_us[group].tolist(),
            spans.last_us[group].tolist(),
            strict=True,
        )
    ]
    earlier: list[Interval] = []
    result: dict[tuple[int, int], list[Interval]] = {}
    for _, one, first, last in sorted(hulls):
        taken = [(low, high) for low, high in earlier if low < last and high > first]
        if taken:
            result[place, one] = taken
        earlier.append((first, last))
    return result
