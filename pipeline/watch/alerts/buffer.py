"""The reorder buffer: every record to its second of event time, the same whatever the fetches.

A record's second is a function of the record, its bus time and what its node
sent in earlier minutes alone.  Event time is set right by the node's clock
offset, so that one wrong clock makes nobody late; what then comes more than
`LATE_US` after its time goes into history and never pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.batch import Group
from pipeline.decode.slots import SlotTable, grown

LATE_US = 2_000_000
"""How late a record may be (design, law 7)."""
_MINUTE_US = 60_000_000
_RISE_PER_US = 1e-3
"""How fast a node's offset is believed to grow; clocks are slewed at half of that."""
_UNKNOWN = np.iinfo(np.int64).max
I64 = NDArray[np.int64]


@dataclass(slots=True)
class _Columns:
    """Per node, by number of the slot table."""

    offset_us: I64
    """Bus time minus event time at the fastest, of earlier minutes."""
    least_us: I64
    """The same of this minute so far."""
    minute: I64
    run: NDArray[np.uint64]


class Offsets:
    """Clock offsets of nodes: the least (bus time − event time), which falls at once, rises slowly,
    and begins anew with a run.  What a minute teaches holds from the next one on."""

    def __init__(self, table: SlotTable) -> None:
        self._table = table
        empty = np.zeros(0, np.int64)
        self._of = _Columns(empty, empty, empty, np.zeros(0, np.uint64))

    def _grow(self) -> None:
        size, of = len(self._table.nodes), self._of
        of.offset_us = grown(of.offset_us, size, _UNKNOWN)
        of.least_us = grown(of.least_us, size, _UNKNOWN)
        of.minute = grown(of.minute, size, -1)
        of.run = grown(of.run, size, 0)

    def of_records(
        self, node: NDArray[np.int32], run: NDArray[np.uint64], delay_us: I64, bus_us: I64
    ) -> I64:
        """The offset that holds for each record; they are in the order of the log per node."""
        self._grow()
        out = np.empty(len(node), np.int64)
        order = np.argsort(node, kind="stable")
        ordered = node[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        sizes = np.diff(np.r_[starts, len(order)])
        for turn in range(int(sizes.max(initial=0))):
            rows = order[starts[sizes > turn] + turn]
            out[rows] = self._next(node[rows], run[rows], delay_us[rows], bus_us[rows])
        return out

    def _next(
        self, node: NDArray[np.int32], run: NDArray[np.uint64], delay_us: I64, bus_us: I64
    ) -> I64:
        """One record each of different nodes."""
        of, minute = self._of, bus_us // _MINUTE_US
        anew = (run > of.run[node]) | (of.minute[node] < 0)
        later = (minute > of.minute[node]) & ~anew
        at = node[later]
        if len(at):
            passed_us = (minute[later] - of.minute[at]) * _MINUTE_US
            risen = of.offset_us[at] + (passed_us * _RISE_PER_US).astype(np.int64)
            of.offset_us[at] = np.minimum(risen, of.least_us[at])
            of.least_us[at] = _UNKNOWN
            of.minute[at] = minute[later]
        at = node[anew]
        of.offset_us[at], of.least_us[at] = delay_us[anew], _UNKNOWN
        of.minute[at], of.run[at] = minute[anew], run[anew]
        same = run == of.run[node]
        at = node[same]
        of.least_us[at] = np.minimum(of.least_us[at], delay_us[same])
        # A record that is faster than any before it shows at once that the offset was too great.
        return np.minimum(of.offset_us[node], np.where(same, delay_us, _UNKNOWN))

    def by_name(self) -> dict[str, int]:
        """The offsets known, µs."""
        known = np.flatnonzero(self._of.minute >= 0).tolist()
        return {self._table.nodes[at]: int(self._of.offset_us[at]) for at in known}

    def seconds(self, names: Sequence[str]) -> NDArray[np.float32]:
        """The offsets of nodes by name, s; NaN where unknown."""
        known = self.by_name()
        return np.array([known.get(name, np.nan) for name in names], np.float32) * np.float32(1e-6)

    def save(self, minute: int) -> dict[str, tuple[int, int, int]] | None:
        """(offset, minute, run) by node as they were when a minute began.

        None where records of a later minute have come already.
        """
        of = self._of
        if len(of.minute) and int(of.minute.max()) > minute:
            return None
        return {
            self._table.nodes[at]: (
                int(of.offset_us[at]),
                *self._begun(at, minute),
                int(of.run[at]),
            )
            for at in np.flatnonzero(of.minute >= 0).tolist()
        }

    def _begun(self, at: int, minute: int) -> tuple[int]:
        return (min(int(self._of.minute[at]), minute),)

    def restore(self, saved: dict[str, tuple[int, int, int]]) -> None:
        """As they were."""
        for name in saved:
            self._table.node_id(name)
        self._grow()
        for name, (offset_us, minute, run) in saved.items():
            at = self._table.node_id(name)
            self._of.offset_us[at], self._of.minute[at], self._of.run[at] = offset_us, minute, run


class Buffer:
    """Groups of records by second, until the second is evaluated."""

    def __init__(self, table: SlotTable) -> None:
        self._table = table
        self.offsets = Offsets(table)
        self._seconds: dict[int, list[Group]] = {}
        self.late = 0
        self.after = 0
        """Records of a second that had been evaluated: none, unless partitions were out of step."""
        self.done_s = 0

    def put(self, groups: Sequence[Group], bus_us: I64) -> None:
        """Takes groups whose `index` is the place in `bus_us`, in the order of the log."""
        if not groups:
            return
        index = np.concatenate([group.index for group in groups])
        order = np.argsort(index, kind="stable")
        place = np.concatenate([group.place for group in groups])
        node = np.array(self._table.place_node, np.int32)[place]
        time_us = np.concatenate([group.time_us for group in groups])
        run = np.concatenate([group.run for group in groups])
        bus = bus_us[index]
        delay = bus - time_us
        offset = np.empty(len(index), np.int64)
        offset[order] = self.offsets.of_records(node[order], run[order], delay[order], bus[order])
        late = delay - offset > LATE_US
        second = -(-(time_us + offset) // 1_000_000)
        after = ~late & (second <= self.done_s)
        self.late += int(late.sum())
        self.after += int(after.sum())
        second[late | after] = -1
        start = 0
        for group in groups:
            self._split(group, second[start : start + len(group)])
            start += len(group)

    def _split(self, group: Group, second: I64) -> None:
        for value in np.unique(second).tolist():
            if value >= 0:
                rows = second == value
                part = group if rows.all() else group.take(rows)
                self._seconds.setdefault(value, []).append(part)

    @property
    def seconds(self) -> int:
        """Seconds held."""
        return len(self._seconds)

    @property
    def first_s(self) -> int | None:
        """The earliest second held."""
        return min(self._seconds, default=None)

    def take(self, second: int) -> list[Group]:
        """The groups of a second, which is evaluated from now on."""
        self.done_s = max(self.done_s, second)
        return self._seconds.pop(second, [])
