"""The latest value of every metric of every GPU, from the newest minutes in the series store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT
from collectors.kit.clock import Clock
from pipeline.series.columns import merge_parts
from pipeline.series.port import F32, I32, I64, U8, U64, MinuteParts, SeriesStore

MINUTES = 3
"""How far back a GPU's newest sample may be, in minutes with the one that is open."""
_TOGETHER_US = 60_000_000
_KEEP_US = 5_000_000


@dataclass(frozen=True)
class Latest:
    """Columns over G GPUs in order of (node, slot); one row per origin.

    `gauges` are NaN and `counters` COUNTER_ABSENT where a GPU has no value;
    `time_us` is the event time of its newest value.
    """

    nodes: Sequence[str]
    node: I32
    slot: U64
    origin: U8
    time_us: I64
    gauges: Mapping[str, F32]
    counters: Mapping[str, U64]

    def __len__(self) -> int:
        return len(self.node)

    @cached_property
    def _rows(self) -> dict[tuple[int, int], int]:
        """The row of each (node code, slot); of several origins the one with the newest value."""
        order = np.argsort(self.time_us, kind="stable")
        keys = zip(self.node[order].tolist(), self.slot[order].tolist(), strict=True)
        return dict(zip(keys, order.tolist(), strict=True))

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {name: code for code, name in enumerate(self.nodes)}

    def newest(self, node: str, slot: int) -> int | None:
        """The row of a GPU, None where it has no value."""
        return self._rows.get((self._codes.get(node, -1), slot))

    def row(self, index: int) -> dict[str, float | int]:
        """The values that one GPU has; gauges as they were written, not as doubles."""
        gauges = {
            name: float(str(column[index]))
            for name, column in self.gauges.items()
            if not np.isnan(column[index])
        }
        counters = {
            name: int(column[index])
            for name, column in self.counters.items()
            if int(column[index]) != COUNTER_ABSENT
        }
        return {**gauges, **counters}


def latest_of(parts: MinuteParts) -> Latest:
    """The last value of each metric by (time, value).

    A value counts while it is at most 60 s older than the GPU's newest: a
    metric that can no longer be read becomes absent, not constant.  A GPU whose
    newest record has counters and no gauge could not be read then: it goes on
    counting the time that it is down, and none of its gauges is of now.
    """
    nothing = np.zeros(len(parts), np.uint64)
    merged = merge_parts(
        replace(
            parts,
            minute=nothing.astype(np.int64),
            run=parts.origin.astype(np.uint64),
            label_epoch=nothing,
        )
    )
    times = [span.last_us for span in (*merged.gauges.values(), *merged.counters.values())]
    newest = np.max(times, axis=0) if times else np.zeros(len(merged), np.int64)
    oldest = newest - _TOGETHER_US
    shown = [span.last_us for span in merged.gauges.values()]
    is_read = np.max(shown, axis=0) >= newest if shown else np.zeros(len(merged), np.bool_)
    gauges = {
        name: np.where(is_read & (span.last_us >= oldest), span.last, np.float32(np.nan))
        for name, span in merged.gauges.items()
    }
    counters = {
        name: np.where(span.last_us >= oldest, span.last, np.uint64(COUNTER_ABSENT))
        for name, span in merged.counters.items()
    }
    return Latest(merged.nodes, merged.node, merged.slot, merged.origin, newest, gauges, counters)


class FleetReader:
    """Reads the latest values; those of the whole fleet are kept for 5 s and read once at a time."""

    def __init__(self, series: SeriesStore, clock: Clock) -> None:
        self._series = series
        self._clock = clock
        self._lock = asyncio.Lock()
        self._fleet: Latest | None = None
        self._minute = 0
        self._read_us = 0

    async def fleet(self, now_us: int) -> Latest:
        """All GPUs.  Raises StoreUnavailableError."""
        async with self._lock:
            age_us = self._clock.monotonic_us() - self._read_us
            minute = now_us // 60_000_000
            if self._fleet is None or age_us > _KEEP_US or minute != self._minute:
                self._fleet = await self._read(now_us, None)
                self._minute = minute
                self._read_us = self._clock.monotonic_us()
            return self._fleet

    async def node(self, now_us: int, node: str) -> Latest:
        """The GPUs of one node, read anew.  Raises StoreUnavailableError."""
        return await self._read(now_us, [node])

    async def _read(self, now_us: int, nodes: Sequence[str] | None) -> Latest:
        minute = now_us // 60_000_000
        parts = await self._series.minutes(
            minute + 1 - MINUTES,
            minute + 1,
            nodes=nodes,
            counters=[metric.name for metric in CATALOGUE.counters],
            gauges=[metric.name for metric in CATALOGUE.gauges],
        )
        return await asyncio.to_thread(latest_of, parts)
