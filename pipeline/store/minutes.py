"""GPU-minutes and node masks in memory, until they are flushed and let go.

Knows no store and no bus: records in as columns, parts out as columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT
from pipeline.decode.batch import Group
from pipeline.decode.slots import SlotTable, grown
from pipeline.series.columns import merge_parts
from pipeline.series.port import CounterSpan, GaugeSpan, MinuteParts, NodeMasks
from pipeline.store.reduce import reduce_blocks
from pipeline.store.rows import NEVER_LAST, Points, Rows
from pipeline.store.seen import Seen

MINUTE_US = 60_000_000
_ABSENT = np.uint64(COUNTER_ABSENT)
_STRETCH = 24
"""Blocks one after the other from which a merge of their own pays."""
_BLOCK_COLUMNS = ("start", "count", "node", "run", "label_epoch", "origin")


class OpenMinute:
    """All state of one minute: blocks of rows, and masks of the sequences seen."""

    def __init__(self, minute: int, eviction: int) -> None:
        self.minute = minute
        self.eviction = eviction
        self.rows = Rows.empty(64)
        self.used = 0
        self._blocks: dict[tuple[int, int, int], int] = {}
        self._columns: dict[str, list[int]] = {name: [] for name in _BLOCK_COLUMNS}
        self._gpus: list[NDArray[np.int32]] = []
        self._start = np.zeros(0, np.intp)
        self._place_block = np.zeros(0, np.intp)
        self._keys: tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]] | None = None
        self._dirty: set[int] = set()
        self._node_keys: set[tuple[int, int, int]] = set()
        # A node whose list of slots changed within a label epoch has rows of
        # one key in two blocks; they are then merged before they go out.
        self._split = False
        self.seen = Seen()

    def add(self, group: Group, table: SlotTable) -> None:
        """Merges records, all of this minute."""
        block = self._block_numbers(group, table)
        for starts, points in reduce_blocks(group, self._starts()[block]):
            self._merge(starts, group.slots, points)
        self._dirty.update(block.tolist())

    def _block_numbers(self, group: Group, table: SlotTable) -> NDArray[np.intp]:
        """The block of each record; mostly that which its place filled last."""
        self._place_block = grown(self._place_block, len(table.place_gpus), -1)
        number = self._place_block[group.place]
        run, epoch, origin = self._block_keys()
        known = number >= 0
        if len(run):
            known &= (run[number] == group.run) & (epoch[number] == group.label_epoch)
            known &= origin[number] >= group.origin
        for row in np.flatnonzero(~known).tolist():
            key = (int(group.place[row]), int(group.run[row]), int(group.label_epoch[row]))
            at = self._blocks.get(key)
            if at is None:
                at = self._new_block(key, group, row, table)
            number[row] = at
            self._columns["origin"][at] = max(self._columns["origin"][at], int(group.origin[row]))
        if not known.all():
            self._keys = None
            self._place_block[group.place[~known]] = number[~known]
        return number

    def _block_keys(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]]:
        """Run, label epoch and origin of each block."""
        if self._keys is None:
            self._keys = (
                np.array(self._columns["run"], np.uint64),
                np.array(self._columns["label_epoch"], np.uint64),
                np.array(self._columns["origin"], np.uint8),
            )
        return self._keys

    def _new_block(
        self, key: tuple[int, int, int], group: Group, row: int, table: SlotTable
    ) -> int:
        place, run, label_epoch = key
        number = self._blocks[key] = len(self._gpus)
        node_key = (table.place_node[place], run, label_epoch)
        self._split = self._split or node_key in self._node_keys
        self._node_keys.add(node_key)
        self._gpus.append(group.gpu[row].copy())
        start = self._room(int(self._place_block[place]), group.slots)
        values = (start, group.slots, table.place_node[place], run, label_epoch, 0)
        for name, value in zip(_BLOCK_COLUMNS, values, strict=True):
            self._columns[name].append(value)
        self._start = np.zeros(0, np.intp)
        return number

    def _room(self, before: int, slots: int) -> int:
        """First row of a new block: that of the block its place filled before, which moves.

        So the blocks that are being filled stay one after the other, however
        often jobs begin and end.
        """
        end = self.used
        self.used += slots
        if self.used > self.rows.capacity:
            self.rows = self.rows.grown(max(self.used, 2 * self.rows.capacity))
        if before < 0 or self._columns["count"][before] != slots:
            return end
        start = self._columns["start"][before]
        self.rows.move(start, end, slots)
        self._columns["start"][before] = end
        return start

    def _merge(self, start: NDArray[np.intp], slots: int, points: Points) -> None:
        """Merges the points of whole blocks, by stretches of rows that lie one after the other.

        `start` are the blocks' first rows, in order.  Nearly all nodes report
        in every second, so that there are few stretches and their columns are
        views.
        """
        cuts = np.flatnonzero(np.diff(start) != slots) + 1
        scattered = np.ones(len(start), bool)
        for low, high in pairwise([0, *cuts.tolist(), len(start)]):
            if high - low >= _STRETCH:
                scattered[low:high] = False
                rows = slice(int(start[low]), int(start[high - 1]) + slots)
                self.rows.merge(rows, points.part(slice(low * slots, high * slots)))
        if scattered.any():
            rows = (start[scattered][:, None] + np.arange(slots)).reshape(-1)
            self.rows.merge(rows, points.rows(np.repeat(scattered, slots)))

    def _starts(self) -> NDArray[np.intp]:
        """First row of each block."""
        if not len(self._start):
            self._start = np.array(self._columns["start"], np.intp)
        return self._start

    def take_parts(self, table: SlotTable, writer: int) -> MinuteParts | None:
        """The parts that changed since the last call."""
        numbers = sorted(self._dirty)
        if numbers and self._split:
            numbers = list(range(len(self._gpus)))
        self._dirty.clear()
        if not numbers:
            return None
        c = {name: np.array([v[n] for n in numbers]) for name, v in self._columns.items()}
        gpu = np.concatenate([self._gpus[n] for n in numbers])
        counts = c["count"].astype(np.intp)
        offset = np.arange(len(gpu)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(c["start"].astype(np.intp), counts) + offset
        m = len(rows)
        counters, gauges = self._spans(rows)
        parts = MinuteParts(
            table.nodes,
            np.repeat(c["node"].astype(np.int32), counts),
            table.arrays()[1][gpu],
            np.full(m, self.minute, np.int64),
            np.repeat(c["run"].astype(np.uint64), counts),
            np.repeat(c["label_epoch"].astype(np.uint64), counts),
            np.full(m, writer, np.uint64),
            np.full(m, self.eviction, np.int32),
            np.repeat(c["origin"].astype(np.uint8), counts),
            self.rows.energy_epoch[rows],
            counters,
            gauges,
        )
        if not self._split:
            return parts
        merged = merge_parts(parts)
        merged.writer[:] = writer
        merged.eviction[:] = self.eviction
        return merged

    def _spans(self, rows: NDArray[np.intp]) -> tuple[dict[str, CounterSpan], dict[str, GaugeSpan]]:
        """The spans of the metrics that any of the rows has."""
        state = self.rows
        chosen: NDArray[np.intp] | slice = rows
        if (
            len(rows)
            and int(rows[-1]) - int(rows[0]) == len(rows) - 1
            and (np.diff(rows) == 1).all()
        ):
            chosen = slice(int(rows[0]), int(rows[-1]) + 1)
        held_counters, held_gauges = state.holding(chosen)
        counters: dict[str, CounterSpan] = {}
        for i in held_counters:
            last_us = state.last_us[i, chosen]
            absent = last_us == NEVER_LAST
            counters[CATALOGUE.counters[i].name] = CounterSpan(
                np.where(absent, 0, state.first_us[i, chosen]),
                state.first[i, chosen].copy(),
                np.where(absent, 0, last_us),
                np.where(absent, _ABSENT, state.last[i, chosen]),
            )
        gauges: dict[str, GaugeSpan] = {}
        for i in held_gauges:
            final_us = state.final_us[i, chosen]
            gauges[CATALOGUE.gauges[i].name] = GaugeSpan(
                state.minimum[i, chosen].copy(),
                state.maximum[i, chosen].copy(),
                state.final[i, chosen].copy(),
                np.where(final_us == NEVER_LAST, 0, final_us),
            )
        return counters, gauges


class Minutes:
    """The open minutes of one writer."""

    def __init__(self, table: SlotTable, writer: int) -> None:
        self._table = table
        self.writer = writer
        self.distinct: dict[int, int] = {}
        self.repeats: dict[int, int] = {}
        """Records by node number that were new, and not, as far as the open minutes can tell."""
        self._open: dict[int, OpenMinute] = {}
        self._evictions: dict[int, int] = {}

    @property
    def rows(self) -> int:
        """State rows in memory."""
        return sum(minute.used for minute in self._open.values())

    def add(self, group: Group) -> None:
        """Merges valid records."""
        minute = group.time_us // MINUTE_US
        low, high = int(minute.min(initial=0)), int(minute.max(initial=0))
        for number in range(low, high + 1) if high - low < 8 else np.unique(minute).tolist():
            rows = minute == number
            if rows.any():
                part = group if rows.all() else group.take(rows)
                state = self._minute(number)
                state.add(part, self._table)
                state.seen.add(part, self._table, self.distinct, self.repeats)

    def _minute(self, number: int) -> OpenMinute:
        state = self._open.get(number)
        if state is None:
            state = self._open[number] = OpenMinute(number, self._evictions.get(number, 0))
        return state

    def take(self) -> tuple[list[MinuteParts], NodeMasks | None]:
        """Parts and masks that changed since the last call."""
        parts: list[MinuteParts] = []
        masks: list[tuple[int, ...]] = []
        for state in self._open.values():
            part = state.take_parts(self._table, self.writer)
            if part is not None:
                parts.append(part)
            masks += [(state.minute, state.eviction, *row) for row in state.seen.take()]
        return parts, self._masks(masks)

    def _masks(self, rows: Sequence[tuple[int, ...]]) -> NodeMasks | None:
        if not rows:
            return None
        minute, eviction, node, run, block, mask, origin = zip(*rows, strict=True)
        return NodeMasks(
            self._table.nodes,
            np.array(node, np.int32),
            np.array(minute, np.int64),
            np.array(run, np.uint64),
            np.array(block, np.int64),
            np.full(len(rows), self.writer, np.uint64),
            np.array(eviction, np.int32),
            np.array(origin, np.uint8),
            np.array(mask, np.uint64),
        )

    def let_go(self, before_minute: int) -> None:
        """Forgets the minutes before; what comes for them later begins a new part."""
        for number in [n for n in self._open if n < before_minute]:
            del self._open[number]
            self._evictions[number] = self._evictions.get(number, 0) + 1

    def forget(self, before_minute: int) -> None:
        """Forgets that the minutes before were ever let go: no record of them is taken."""
        self._evictions = {n: k for n, k in self._evictions.items() if n >= before_minute}
