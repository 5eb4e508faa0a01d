"""Rows for the tests of the series stores: random ones by seed, and plain ones by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, COUNTER_LIMIT, Kind
from collectors.contract.identity import Slot, pack_slot
from pipeline.series.columns import group_rows, select_parts
from pipeline.series.port import (
    F32,
    I64,
    CounterSpan,
    GaugeSpan,
    MinuteParts,
    NodeMasks,
    RawSamples,
)

MINUTE_US = 60_000_000
FIRST_MINUTE = 29_000_000
"""A minute in February 2025; tests on a server with a retention shift it to now."""


def slot_at(index: int) -> int:
    """The packed slot of the index-th GPU of a node."""
    return pack_slot(Slot(0, 0x1B + index, 0, 0))


def random_parts(
    seed: int,
    rows: int,
    *,
    nodes: Sequence[str] = ("node-b", "node-a"),
    slots: int = 2,
    minutes: int = 2,
    first_minute: int = FIRST_MINUTE,
    few: int = 3,
    absent: float = 0.2,
    counters: Sequence[str] | None = None,
    gauges: Sequence[str] | None = None,
) -> MinuteParts:
    """Parts with random keys from a small space, so that keys repeat, and times that tie."""
    random = np.random.default_rng(seed)
    minute = random.integers(first_minute, first_minute + minutes, rows)
    if counters is None:
        counters = [metric.name for metric in CATALOGUE.counters]
    if gauges is None:
        gauges = [metric.name for metric in CATALOGUE.gauges]
    return MinuteParts(
        nodes=tuple(nodes),
        node=random.integers(0, len(nodes), rows).astype(np.int32),
        slot=np.array([slot_at(i) for i in range(slots)], np.uint64)[
            random.integers(0, slots, rows)
        ],
        minute=minute,
        run=random.integers(2**60, 2**60 + 2, rows).astype(np.uint64),
        label_epoch=random.integers(0, 2, rows).astype(np.uint64),
        writer=random.integers(0, few, rows).astype(np.uint64),
        eviction=random.integers(0, few, rows).astype(np.int32),
        origin=np.full(rows, 3, np.uint8),
        energy_epoch=random.integers(2**63 + 5, 2**63 + 7, rows, np.uint64),
        counters={name: _span(random, minute, absent) for name in counters},
        gauges={name: _gauge(random, minute, absent, name) for name in gauges},
    )


def _times(random: np.random.Generator, minute: I64) -> I64:
    ticks = random.choice(np.array([0, 1_000_000, 30_000_000, 59_999_999]), len(minute))
    return minute * MINUTE_US + ticks


def _span(random: np.random.Generator, minute: I64, absent: float) -> CounterSpan:
    first_us, last_us = np.sort([_times(random, minute), _times(random, minute)], axis=0)
    values = random.choice(
        np.array([0, 1, 7, 10**12, COUNTER_LIMIT - 1], np.uint64), (2, len(minute))
    )
    first, last = np.sort(values, axis=0)
    last[first_us == last_us] = first[first_us == last_us]
    gone = random.random(len(minute)) < absent
    for times in (first_us, last_us):
        times[gone] = 0
    for column in (first, last):
        column[gone] = COUNTER_ABSENT
    return CounterSpan(first_us, first, last_us, last)


def gauge_values(random: np.random.Generator, shape: int | tuple[int, int], name: str) -> F32:
    """Values in the metric's range with the digits that the stores keep, as float32."""
    metric = CATALOGUE.by_name[name]
    low, high = metric.valid
    values = random.uniform(low, min(high, 8_000.0), shape)
    return np.round(values, metric.decimals).astype(np.float32)


def _gauge(random: np.random.Generator, minute: I64, absent: float, name: str) -> GaugeSpan:
    values = np.sort(gauge_values(random, (3, len(minute)), name), axis=0)
    flat = random.random(len(minute)) < 0.3
    values[:, flat] = values[0, flat]
    gone = random.random(len(minute)) < absent
    values[:, gone] = np.nan
    last_us = np.where(gone, 0, _times(random, minute))
    return GaugeSpan(values[0], values[2], values[1], last_us)


def unique_parts(seed: int, rows: int, **options: Any) -> MinuteParts:
    """Random parts in which every key stands once."""
    parts = random_parts(seed, rows, **options)
    keys = (parts.node, parts.slot, parts.minute, parts.run, parts.label_epoch)
    order, starts = group_rows((*keys, parts.writer, parts.eviction))
    return select_parts(parts, order[starts])


def random_raw(
    seed: int,
    ticks: int,
    *,
    nodes: Sequence[str] = ("node-b", "node-a"),
    slots: int = 2,
    first_us: int = FIRST_MINUTE * MINUTE_US,
    absent: float = 0.1,
    only: Sequence[str] | None = None,
) -> RawSamples:
    """A sample of every slot at every second, with absent values."""
    random = np.random.default_rng(seed)
    shape = (ticks, len(nodes), slots)
    tick, node, slot = (axis.ravel() for axis in np.indices(shape))
    rows = len(tick)
    values: dict[str, Any] = {}
    for metric in CATALOGUE:
        if only is not None and metric.name not in only:
            continue
        gone = random.random(rows) < absent
        if metric.kind is Kind.GAUGE:
            column = gauge_values(random, rows, metric.name)
            column[gone] = np.nan
        else:
            column = random.integers(0, COUNTER_LIMIT, rows).astype(np.uint64)
            column[gone] = COUNTER_ABSENT
        values[metric.name] = column
    return RawSamples(
        nodes=tuple(nodes),
        node=node.astype(np.int32),
        slot=np.array([slot_at(i) for i in range(slots)], np.uint64)[slot],
        time_us=first_us + tick * 1_000_000,
        origin=np.full(rows, 3, np.uint8),
        values=values,
    )


def random_masks(
    seed: int,
    rows: int,
    *,
    nodes: Sequence[str] = ("node-b", "node-a"),
    first_minute: int = FIRST_MINUTE,
) -> NodeMasks:
    """Masks, each of a key of its own."""
    random = np.random.default_rng(seed)
    return NodeMasks(
        nodes=tuple(nodes),
        node=(np.arange(rows) % len(nodes)).astype(np.int32),
        minute=first_minute + np.arange(rows) // 4,
        run=np.full(rows, 2**61 + 3, np.uint64),
        block=np.arange(rows, dtype=np.int64),
        writer=random.integers(0, 2**62, rows).astype(np.uint64),
        eviction=random.integers(0, 4, rows).astype(np.int32),
        origin=np.full(rows, 3, np.uint8),
        mask=random.integers(1, 2**48, rows).astype(np.uint64),
    )


def part_rows(parts: MinuteParts) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Parts as plain Python, by whole key; absent metrics have no entry."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for i in range(len(parts)):
        key = (
            parts.nodes[parts.node[i]],
            *(
                int(getattr(parts, name)[i])
                for name in ("slot", "minute", "run", "label_epoch", "writer", "eviction")
            ),
        )
        assert key not in rows, f"key twice: {key}"
        row: dict[str, Any] = {
            "origin": int(parts.origin[i]),
            "energy_epoch": int(parts.energy_epoch[i]),
        }
        for name, span in parts.counters.items():
            if int(span.first[i]) != COUNTER_ABSENT:
                columns = (span.first_us, span.first, span.last_us, span.last)
                row[name] = tuple(int(column[i]) for column in columns)
        for name, span in parts.gauges.items():
            if not np.isnan(span.last[i]):
                columns = (span.minimum, span.maximum, span.last)
                row[name] = (*(float(column[i]) for column in columns), int(span.last_us[i]))
        rows[key] = row
    return rows


def raw_rows(samples: RawSamples) -> dict[tuple[str, int, int, int], dict[str, float]]:
    """Samples as plain Python by key; absent values have no entry."""
    rows: dict[tuple[str, int, int, int], dict[str, float]] = {}
    for i in range(len(samples)):
        key = (
            str(samples.nodes[int(samples.node[i])]),
            int(samples.slot[i]),
            int(samples.time_us[i]),
            int(samples.origin[i]),
        )
        assert key not in rows, f"key twice: {key}"
        rows[key] = {
            name: column[i].item()
            for name, column in samples.values.items()
            if not (
                np.isnan(column[i]) if column.dtype == np.float32 else column[i] == COUNTER_ABSENT
            )
        }
    return rows


def mask_rows(masks: NodeMasks) -> dict[tuple[Any, ...], tuple[int, int]]:
    """Masks as plain Python by key."""
    rows: dict[tuple[Any, ...], tuple[int, int]] = {}
    for i in range(len(masks)):
        numbers = (
            int(getattr(masks, k)[i]) for k in ("minute", "run", "block", "writer", "eviction")
        )
        key = (masks.nodes[masks.node[i]], *numbers)
        assert key not in rows, f"key twice: {key}"
        rows[key] = (int(masks.origin[i]), int(masks.mask[i]))
    return rows
