"""Minutes made anew from the records that the bus still has.

By law 4 the parts of another writer merge to the same rows, so this may run
beside the `store` workers, be repeated, and be broken off: how far it came is
a consumer group's committed offsets, and the next one goes on from there.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from collectors.contract.bus import Bus, Chunk, Consumer, Message, Partition
from collectors.contract.identity import new_run
from collectors.contract.topics import FLUSHED, GPU, Flushed, dumps
from collectors.kit.clock import Clock
from pipeline.decode.batch import Group
from pipeline.decode.reader import Reader
from pipeline.decode.slots import SlotTable
from pipeline.decode.strips import strips
from pipeline.series.columns import concat_parts
from pipeline.series.port import SeriesStore, WriteBatch
from pipeline.store.minutes import MINUTE_US, Minutes
from pipeline.store.validate import TimeRules, Validator

_HOUR_MINUTES = 60
_MOST_ROWS = 500_000
"""Minute rows in memory above which they are written."""
_MOST_RECORDS = 200_000
"""Records read between two writes: what is read again at most after a break."""

Say = Callable[[int, int], None]
"""Is told how many records are read, of how many."""


@dataclass(slots=True)
class _Reach:
    """Of a partition: where reading began, where it is, and where it ends."""

    start: int
    at: int
    end: int
    bus_us: int = 0


class MinutesRebuild:
    """Reads a stretch of `telemetry.gpu` again and writes its minutes and masks."""

    def __init__(
        self,
        bus: Bus,
        series: SeriesStore,
        rules: TimeRules,
        clock: Clock,
        *,
        prefix: str = "",
    ) -> None:
        self._bus, self._series, self._rules, self._clock = bus, series, rules, clock
        self._prefix = prefix
        self._table = SlotTable()
        self._reader = Reader(self._table)
        self._validator = Validator(rules)
        self._minutes = Minutes(self._table, new_run(clock.wall_us(), secrets.randbits(20)))
        self._reach: dict[Partition, _Reach] = {}
        self._touched: dict[Partition, set[tuple[str, int]]] = defaultdict(set)
        self._unwritten = 0
        self.parts = 0
        """Parts written."""
        self.refused = 0
        """Rows that the store would not have."""
        self.first_us: int | None = None
        """Bus time of the first record read: what is older, the bus no longer has."""

    async def run(self, minutes: range, say: Say) -> None:
        """Writes the minutes of all records that the bus has of them now.

        Raises BusUnavailableError and StoreUnavailableError; run again, it goes on.
        """
        name = f"{self._prefix}rebuild-{minutes.start}-{minutes.stop}"
        consumer = self._bus.consumer([self._prefix + GPU], name)
        await consumer.start()
        try:
            await self._begin(consumer, minutes)
            while any(one.at < one.end for one in self._reach.values()):
                chunks = self._before_end(await consumer.fetch(1.0))
                for strip in strips(chunks):
                    self._take_in(strip, minutes)
                if self._minutes.rows > _MOST_ROWS or self._unwritten > _MOST_RECORDS:
                    await self._flush(consumer)
                say(*self._progress())
            await self._flush(consumer)
        finally:
            await consumer.stop()

    async def _begin(self, consumer: Consumer, minutes: range) -> None:
        """From the first record that may be of these minutes, or where an earlier one stopped,
        to the end as it is now: a spool may bring records days later."""
        while not consumer.assigned:
            await consumer.fetch(0.2, 1)
        from_us = minutes.start * MINUTE_US - self._rules.future_us
        for partition, end in (await consumer.end_offsets()).items():
            at = await consumer.committed(partition)
            if at is None:
                at = await consumer.seek_time(partition, from_us)
            else:
                await consumer.seek(partition, at)
            self._reach[partition] = _Reach(at, at, end)

    def _before_end(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        kept: list[Chunk] = []
        for chunk in chunks:
            reach = self._reach.get(chunk.partition)
            if reach is None:
                continue
            if self.first_us is None:
                self.first_us = int(chunk.bus_us[0])
            reach.at = max(reach.at, chunk.next_offset)
            reach.bus_us = max(reach.bus_us, int(chunk.bus_us[-1]))
            self._unwritten += len(chunk.values)
            kept.append(chunk)
        return kept

    def _take_in(self, chunks: Sequence[Chunk], minutes: range) -> None:
        values = [value for chunk in chunks for value in chunk.values]
        bus_us = np.concatenate([np.asarray(chunk.bus_us, np.int64) for chunk in chunks])
        source = np.repeat(np.arange(len(chunks)), [len(chunk.values) for chunk in chunks])
        for group in self._reader.read(values).groups:
            kept, _ = self._validator.validate(group, bus_us[group.index])
            minute = kept.time_us // MINUTE_US
            wanted = (minute >= minutes.start) & (minute < minutes.stop)
            if wanted.any():
                kept = kept.take(wanted)
                self._minutes.add(kept)
                self._touch(kept, source[kept.index].tolist(), chunks)

    def _touch(self, group: Group, source: Sequence[int], chunks: Sequence[Chunk]) -> None:
        hours = (group.time_us // MINUTE_US // _HOUR_MINUTES).tolist()
        for place, hour, at in zip(group.place.tolist(), hours, source, strict=True):
            node = self._table.nodes[self._table.place_node[int(place)]]
            self._touched[chunks[at].partition].add((node, int(hour)))

    async def _flush(self, consumer: Consumer) -> None:
        """Writes, then says so, then commits, as a `store` does."""
        if not self._unwritten:
            return
        parts, masks = self._minutes.take()
        joined = concat_parts(parts) if parts else None
        result = await self._series.write(WriteBatch((), joined, masks))
        self.parts += 0 if joined is None else len(joined)
        self.refused += len(result.refused)
        producer = self._bus.producer()
        await producer.start()
        try:
            await producer.send(list(self._messages()))
        finally:
            await producer.stop()
        await consumer.commit({partition: one.at for partition, one in self._reach.items()})
        self._minutes.let_go(1 << 62)
        self._touched.clear()
        self._unwritten = 0

    def _messages(self) -> Iterator[Message]:
        for partition, touched in self._touched.items():
            reach = self._reach[partition]
            told = Flushed(partition.number, reach.at, reach.bus_us, tuple(sorted(touched)))
            yield Message(self._prefix + FLUSHED, str(partition.number).encode(), dumps(told))

    def _progress(self) -> tuple[int, int]:
        whole = sum(one.end - one.start for one in self._reach.values())
        return sum(min(one.at, one.end) - one.start for one in self._reach.values()), whole
