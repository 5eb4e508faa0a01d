"""The reorder buffer: every record to its second of event time, the same whatever the fetches.

A record's second is a function of the record, its bus time and what its node
sent before it alone.  Event time is set right by the node's clock offset, so
that one wrong clock makes nobody late; what then comes more than `LATE_US`
after its time goes into history and never pages.  Of one node seconds never go
back, and what comes sooner than is usual for it counts as if it had not: so
nothing of a second can come once a node's next record is due later, and a second
is over for all as soon as that is so of every node that is heard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.batch import Group
from pipeline.decode.slots import SlotTable, grown

LATE_US = 2_000_000
"""How late a record may be (design, law 7), and how long a node that falls silent is waited for."""
SOON_US = 100_000
"""A second is evaluated so long after it at the earliest; what is told of around the GPUs until
then is known in it."""
_SECOND_US = 1_000_000
_MINUTE_US = 60_000_000
_RISE_PER_US = 1e-3
"""How fast a node's offset is believed to grow; clocks are slewed at half of that."""
SILENT_US = 5_000_000
"""After which a run whose clock seems to be of an earlier time takes over."""
_UNKNOWN = np.iinfo(np.int64).max
I64 = NDArray[np.int64]


SavedOffset = tuple[int, ...]
"""Of a node, in the order of `_FIELDS`; snapshots of earlier releases have the first six."""
_FIELDS = {
    "offset_us": _UNKNOWN, "least_us": _UNKNOWN, "minute": -1, "run": 0, "left": 0, "last_us": 0,
    "second": 0, "heard_us": 0, "true_us": 0, "gap_us": 0, "least_gap_us": _UNKNOWN,
}  # fmt: skip
"""With what each is before a node's first record: offset, least of the minute, minute, run, the run
before, last bus time; of what was not late the earliest second for which more can count, the last
bus time and the last event time set right; the least time between two, and that of this minute."""
_GAP = 0.95
"""Of the least time between a node's records in a minute, before which its next one is not due."""


class Offsets:
    """Clock offsets of nodes: the least (bus time − event time), which falls at once, rises slowly,
    and begins anew with a run.  What a minute teaches holds from the next one on.

    A node has one current run.  A run that started later takes over at once;
    one that seems to have started earlier (the clock was set back) does once
    the current one has been silent for `SILENT_US`: what an agent still holds
    of a former life comes beside its fresh records, and is history.

    What a node sends counts for no earlier second than that in which it was due
    (`_GAP`), and after a silence of more than `LATE_US` for the second in which it
    came: so nobody has to wait for what a silent node may still send.
    """

    def __init__(self, table: SlotTable) -> None:
        self._table = table
        self._now: dict[str, I64] = {name: np.zeros(0, np.int64) for name in _FIELDS}
        self._begun: dict[str, I64] = {name: np.zeros(0, np.int64) for name in _FIELDS}
        """As it was when the minute of each node's last record began."""

    def _grow(self) -> None:
        size = len(self._table.nodes)
        for columns in (self._now, self._begun):
            for name, before in _FIELDS.items():
                columns[name] = grown(columns[name], size, before)

    def of_records(
        self, node: NDArray[np.int32], run: I64, time_us: I64, bus_us: I64
    ) -> tuple[I64, I64]:
        """The offset that holds for each record, and its second, −1 where it is late or not of its
        node's current run; they are in the order of the log per node."""
        self._grow()
        offset, second = np.empty(len(node), np.int64), np.empty(len(node), np.int64)
        order = np.argsort(node, kind="stable")
        ordered = node[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])[: len(order)]
        sizes = np.diff(np.r_[starts, len(order)])
        for turn in range(int(sizes.max(initial=0))):
            rows = order[starts[sizes > turn] + turn]
            offset[rows], second[rows] = self._next(
                node[rows], run[rows], time_us[rows], bus_us[rows]
            )
        return offset, second

    def _next(
        self, node: NDArray[np.int32], run: I64, time_us: I64, bus_us: I64
    ) -> tuple[I64, I64]:
        """One record each of different nodes."""
        now, delay_us = self._now, bus_us - time_us
        self._turn_minutes(node, bus_us // _MINUTE_US)
        other = run != now["run"][node]
        later = (run > now["run"][node]) & (run != now["left"][node])
        anew = other & (later | (bus_us - now["last_us"][node] > SILENT_US))
        at = node[anew]
        now["left"][at] = now["run"][at]
        now["offset_us"][at], now["least_us"][at] = delay_us[anew], _UNKNOWN
        now["run"][at] = run[anew]
        now["gap_us"][at], now["least_gap_us"][at], now["true_us"][at] = 0, _UNKNOWN, 0
        current = ~other | anew
        at = node[current]
        now["least_us"][at] = np.minimum(now["least_us"][at], delay_us[current])
        now["last_us"][at] = np.maximum(now["last_us"][at], bus_us[current])
        # A record that is faster than any before it shows at once that the offset was too great.
        offset = np.minimum(now["offset_us"][node], np.where(current, delay_us, _UNKNOWN))
        counts = current & (delay_us - offset <= LATE_US)
        return offset, self._seconds(node, time_us + offset, bus_us, counts)

    def _seconds(
        self, node: NDArray[np.int32], true_us: I64, bus_us: I64, counts: NDArray[np.bool_]
    ) -> I64:
        """The second of each record that counts, −1 of others."""
        now = self._now
        silent = bus_us - now["heard_us"][node] > LATE_US
        second = -(-np.where(silent, bus_us, true_us) // _SECOND_US)
        second = np.where(counts, np.maximum(second, now["second"][node]), -1)
        at, newer_us = node[counts], true_us[counts]
        before_us, newest_us = now["true_us"][at], np.maximum(now["true_us"][at], newer_us)
        gap_us = np.where((before_us > 0) & (newer_us > before_us), newer_us - before_us, _UNKNOWN)
        now["least_gap_us"][at] = np.minimum(now["least_gap_us"][at], gap_us)
        now["true_us"][at] = newest_us
        now["second"][at] = np.maximum(
            second[counts], -(-(newest_us + now["gap_us"][at]) // _SECOND_US)
        )
        now["heard_us"][at] = np.maximum(now["heard_us"][at], bus_us[counts])
        return second

    def awaited(self, second: int, bus_us: int) -> bool:
        """Whether a node that was heard lately may still send something of a second, once all has
        been read up to a bus time that is later than it."""
        live = bus_us - self._now["heard_us"] <= LATE_US
        return bool((live & (self._now["second"] <= second)).any())

    def _turn_minutes(self, node: NDArray[np.int32], minute: I64) -> None:
        now = self._now
        later = minute > now["minute"][node]
        at = node[later]
        if not len(at):
            return
        known = at[now["minute"][at] >= 0]
        passed = minute[later][now["minute"][at] >= 0] - now["minute"][known]
        risen = now["offset_us"][known] + (passed * _MINUTE_US * _RISE_PER_US).astype(np.int64)
        now["offset_us"][known] = np.minimum(risen, now["least_us"][known])
        now["least_us"][known] = _UNKNOWN
        least_us = now["least_gap_us"][known]
        usual_us = np.minimum(_GAP * least_us, LATE_US).astype(np.int64)
        now["gap_us"][known] = np.where(least_us < _UNKNOWN, usual_us, 0)
        now["least_gap_us"][known] = _UNKNOWN
        for name in _FIELDS:
            self._begun[name][at] = now[name][at]
        self._begun["minute"][known] = minute[later][now["minute"][at] >= 0]
        now["minute"][at] = minute[later]

    def by_name(self) -> dict[str, int]:
        """The offsets known, µs."""
        known = np.flatnonzero(self._now["minute"] >= 0).tolist()
        return {self._table.nodes[at]: int(self._now["offset_us"][at]) for at in known}

    def save(self, minute: int) -> dict[str, SavedOffset] | None:
        """What was known when a minute began, by node; None where records of a later minute have
        come already."""
        now, out = self._now, dict[str, SavedOffset]()
        if int(now["minute"].max(initial=-1)) > minute:
            return None
        for at in np.flatnonzero(now["minute"] >= 0).tolist():
            columns = self._begun if int(now["minute"][at]) == minute else now
            if columns["minute"][at] >= 0:
                out[self._table.nodes[at]] = tuple(int(columns[x][at]) for x in _FIELDS)
        return out

    def restore(self, saved: Mapping[str, SavedOffset]) -> None:
        """As they were."""
        numbers = {name: self._table.node_id(name) for name in saved}
        self._grow()
        for node, values in saved.items():
            for name, value in zip(_FIELDS, values, strict=False):
                self._now[name][numbers[node]] = value


class Timed(NamedTuple):
    """A group, and per record the clock offset that was taken off."""

    group: Group
    offset_us: I64


def joined(parts: Sequence[Timed]) -> Timed:
    """Groups of equal slots as one."""
    groups = [one.group for one in parts]
    columns: dict[str, Any] = {
        one.name: np.concatenate(
            [getattr(group, one.name) for group in groups],
            axis=1 if one.name in ("gauges", "counters") else 0,
        )
        for one in fields(Group)
    }
    return Timed(Group(**columns), np.concatenate([one.offset_us for one in parts]))


class Buffer:
    """Groups of records by second, until the second is evaluated."""

    def __init__(self, table: SlotTable) -> None:
        self._table = table
        self.offsets = Offsets(table)
        self._seconds: dict[int, list[Timed]] = {}
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
        run = np.concatenate([group.run for group in groups]).astype(np.int64)
        bus = bus_us[index]
        offset, second = np.empty(len(index), np.int64), np.empty(len(index), np.int64)
        offset[order], second[order] = self.offsets.of_records(
            node[order], run[order], time_us[order], bus[order]
        )
        late = second < 0
        after = ~late & (second <= self.done_s)
        self.late += int(late.sum())
        self.after += int(after.sum())
        second[after] = -1
        start = 0
        for group in groups:
            rows = slice(start, start + len(group))
            self._split(group, second[rows], offset[rows])
            start += len(group)

    def _split(self, group: Group, second: I64, offset_us: I64) -> None:
        for value in np.unique(second).tolist():
            if value >= 0:
                rows = second == value
                part = Timed(group if rows.all() else group.take(rows), offset_us[rows])
                self._seconds.setdefault(value, []).append(part)

    @property
    def seconds(self) -> int:
        """Seconds held."""
        return len(self._seconds)

    @property
    def first_s(self) -> int | None:
        """The earliest second held."""
        return min(self._seconds, default=None)

    def over(self, second: int, watermark_us: int) -> bool:
        """Whether nothing of a second can come any more, once all has been read up to a bus time."""
        past_us = watermark_us - second * _SECOND_US
        return past_us > LATE_US or (
            past_us > SOON_US and not self.offsets.awaited(second, watermark_us)
        )

    def take(self, second: int) -> list[Timed]:
        """The groups of a second, which is evaluated from now on."""
        self.done_s = max(self.done_s, second)
        return self._seconds.pop(second, [])
