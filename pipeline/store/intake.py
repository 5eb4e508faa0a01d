"""What a fetch of GPU records becomes in memory: minutes, masks, raw samples, refusals.

Knows no store; the bus only by its chunks.  One `Intake` lives as long as its
writer: from getting partitions to losing them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from collectors.contract.bus import Chunk, Partition
from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT
from collectors.contract.topics import DeadLetter
from pipeline.decode.batch import Broken, Group
from pipeline.decode.reader import Reader
from pipeline.decode.slots import SlotTable, grown
from pipeline.decode.strips import strips
from pipeline.series.columns import concat_parts
from pipeline.series.port import RawSamples, Refused, WriteBatch
from pipeline.store.balance import Balance
from pipeline.store.minutes import MINUTE_US, Minutes
from pipeline.store.validate import TimeRules, Validator

_HOUR_US = 60 * MINUTE_US
_PAYLOAD_LIMIT = 64 * 1024
MOST_ROWS = 1_000_000
MOST_DEAD_BYTES = 32 * 2**20
"""Minute rows and bytes of refused records in memory above which a flush does not wait."""
OPEN_MINUTES = 2
"""Minutes behind the newest event time that stay in memory; later ones open a new part."""


@dataclass(slots=True)
class Snapshot:
    """What one flush has to write, announce and commit."""

    batch: WriteBatch
    offsets: dict[Partition, int]
    bus_us: dict[Partition, int]
    touched: dict[Partition, set[tuple[str, int]]]
    dead: list[DeadLetter] = field(default_factory=list[DeadLetter])


class Intake:
    """Takes chunks in, gives snapshots out."""

    def __init__(self, writer: int, rules: TimeRules, raw_interval_s: float) -> None:
        self._table = SlotTable()
        self._reader = Reader(self._table)
        self._validator = Validator(rules)
        self._minutes = Minutes(self._table, writer)
        self._rules = rules
        self._raw_interval_us = int(raw_interval_s * 1e6)
        self._raw: list[RawSamples] = []
        self._place_bucket = np.zeros(0, np.int64)
        self._place_hour = np.zeros(0, np.int64)
        self.balance = Balance(self._table)
        self._offsets: dict[Partition, int] = {}
        self._bus_us: dict[Partition, int] = {}
        self._touched: dict[Partition, set[tuple[str, int]]] = defaultdict(set)
        self._dead: list[DeadLetter] = []
        self._dead_bytes = 0
        self._newest_us = 0
        self.raw_rows = 0

    @property
    def rows(self) -> int:
        """Minute rows in memory."""
        return self._minutes.rows

    def repeats_per_node(self) -> dict[str, int]:
        """Records of each node that had been seen before."""
        return {self._table.nodes[node]: n for node, n in self._minutes.repeats.items()}

    @property
    def out_of_range(self) -> int:
        """Values that were out of their range and became absent."""
        return self._validator.out_of_range

    @property
    def full(self) -> bool:
        """Whether memory asks for a flush before its time, as a backlog of broken or old
        records may."""
        return self.rows > MOST_ROWS or self._dead_bytes > MOST_DEAD_BYTES

    def seen_per_node(self) -> dict[str, int]:
        """Distinct records of each node that count."""
        return {self._table.nodes[node]: n for node, n in self._minutes.distinct.items()}

    @property
    def pending(self) -> bool:
        """Whether anything is to be committed."""
        return bool(self._offsets)

    def take_in(self, chunks: Sequence[Chunk]) -> int:
        """Decodes, validates and merges; returns the number of GPU-samples that count."""
        return sum(self._take_in(strip) for strip in strips(chunks))

    def _take_in(self, chunks: Sequence[Chunk]) -> int:
        values = [value for chunk in chunks for value in chunk.values]
        bus_us = np.concatenate([np.asarray(chunk.bus_us, np.int64) for chunk in chunks])
        sizes = [len(chunk.values) for chunk in chunks]
        source = np.repeat(np.arange(len(chunks)), sizes)
        decoded = self._reader.read(values)
        broken = list(decoded.broken)
        samples = 0
        for group in decoded.groups:
            kept, refused = self._validator.validate(group, bus_us[group.index])
            broken += refused
            self.balance.saw(group, bus_us[group.index], refused)
            if len(kept):
                samples += len(kept) * kept.slots
                self._keep(kept, source, chunks)
        self._bury(broken, values, source, chunks)
        for chunk in chunks:
            self._offsets[chunk.partition] = chunk.next_offset
            newest = int(max(chunk.bus_us))
            self._bus_us[chunk.partition] = max(newest, self._bus_us.get(chunk.partition, 0))
        return samples

    def _keep(
        self,
        group: Group,
        source: NDArray[np.intp],
        chunks: Sequence[Chunk],
    ) -> None:
        self._minutes.add(group)
        self._newest_us = max(self._newest_us, int(group.time_us.max()))
        self._touch(group, source[group.index], chunks)
        self._thin(group)

    def _touch(self, group: Group, source: NDArray[np.intp], chunks: Sequence[Chunk]) -> None:
        """Notes the (node, hour) that the records change, per partition."""
        table = self._table
        self._place_hour = grown(self._place_hour, len(table.place_gpus), -1)
        self._place_bucket = grown(self._place_bucket, len(table.place_gpus), -1)
        hour = group.time_us // _HOUR_US
        for row in np.flatnonzero(self._place_hour[group.place] != hour).tolist():
            place = int(group.place[row])
            node = table.nodes[table.place_node[place]]
            self._touched[chunks[int(source[row])].partition].add((node, int(hour[row])))
        self._place_hour[group.place] = hour

    def _thin(self, group: Group) -> None:
        """Keeps the raw samples of the first record in each interval of a place."""
        if self._raw_interval_us > 1_000_000:
            group = group.take(np.sort(self._first_in_interval(group)))
        if not len(group):
            return
        node, slot = self._table.arrays()
        gpu = group.gpu.reshape(-1)
        values: dict[str, NDArray[np.float32] | NDArray[np.uint64]] = {}
        for row, metric in enumerate(CATALOGUE.gauges):
            column = group.gauges[row].reshape(-1)
            if not np.isnan(column).all():
                values[metric.name] = column
        for row, metric in enumerate(CATALOGUE.counters):
            counter = group.counters[row].reshape(-1)
            if not (counter == COUNTER_ABSENT).all():
                values[metric.name] = counter
        time_us = np.repeat(group.time_us, group.slots)
        origin = np.repeat(group.origin, group.slots)
        self._raw.append(
            RawSamples(self._table.nodes, node[gpu], slot[gpu], time_us, origin, values)
        )
        self.raw_rows += len(gpu)

    def _first_in_interval(self, group: Group) -> NDArray[np.intp]:
        bucket = group.time_us // self._raw_interval_us
        order = np.lexsort((group.time_us, group.place))
        place, bucket = group.place[order], bucket[order]
        first = np.r_[True, (place[1:] != place[:-1]) | (bucket[1:] != bucket[:-1])]
        first &= bucket > self._place_bucket[place]
        np.maximum.at(self._place_bucket, place, bucket)
        return order[first]

    def _bury(
        self,
        broken: Sequence[Broken],
        values: Sequence[bytes],
        source: NDArray[np.intp],
        chunks: Sequence[Chunk],
    ) -> None:
        starts = np.cumsum([0, *(len(chunk.values) for chunk in chunks)])
        for one in broken:
            at = int(source[one.index])
            partition = chunks[at].partition
            offset = chunks[at].offsets[one.index - int(starts[at])]
            payload = values[one.index][:_PAYLOAD_LIMIT]
            self._dead_bytes += len(payload)
            self._dead.append(
                DeadLetter(
                    one.reason, one.detail, partition.topic, partition.number, offset, payload
                )
            )

    def take_raw(self) -> list[RawSamples]:
        """The raw samples so far, to be written ahead of the next snapshot.

        They are keyed by their time, so that writing them again after a crash changes nothing.
        """
        raw, self._raw, self.raw_rows = self._raw, [], 0
        return raw

    def refused(self, rows: Sequence[Refused]) -> None:
        """Rows that the store refused when they were written ahead."""
        self._dead += refused_letters(rows)

    def snapshot(self) -> Snapshot:
        """All that came since the last snapshot; the open minutes go on in memory."""
        parts, masks = self._minutes.take()
        snapshot = Snapshot(
            WriteBatch(self.take_raw(), concat_parts(parts) if parts else None, masks),
            self._offsets,
            dict(self._bus_us),
            dict(self._touched),
            self._dead,
        )
        self._offsets, self._dead, self._dead_bytes = {}, [], 0
        self._touched = defaultdict(set)
        self._place_hour[:] = -1
        newest = self._newest_us // MINUTE_US
        self._minutes.let_go(newest - OPEN_MINUTES)
        self._minutes.forget(newest - self._rules.ancient_us // MINUTE_US - 1)
        return snapshot

    def let_go(self) -> None:
        """Forgets all open minutes once they are written, to free memory."""
        self._minutes.let_go(self._newest_us // MINUTE_US + 10_000)


def refused_letters(rows: Sequence[Refused]) -> list[DeadLetter]:
    """Rows that the store refused, as dead letters with its reason."""
    return [DeadLetter("store_refused", row.reason, "", -1, -1, row.row) for row in rows]
