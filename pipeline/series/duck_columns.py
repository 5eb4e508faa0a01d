"""The port's columns as DuckDB's, and back: absent is NULL, times are µs after the minute's start.

Knows names, types and arrays; runs no statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind, Metric
from pipeline.series.columns import absent_counter, absent_gauge, select_raw
from pipeline.series.packed import MINUTE_US
from pipeline.series.port import CounterSpan, GaugeSpan, MinuteParts, NodeMasks, RawSamples

Columns = dict[str, Any]
_ABSENT = np.uint64(COUNTER_ABSENT)

RAW_KEY = {"node": "INTEGER", "slot": "UBIGINT", "time_us": "BIGINT", "origin": "UTINYINT"}
PART_KEY = {
    "node": "INTEGER",
    "slot": "UBIGINT",
    "minute": "BIGINT",
    "run": "UBIGINT",
    "label_epoch": "UBIGINT",
    "writer": "UBIGINT",
    "eviction": "INTEGER",
}
PART_REST = {"origin": "UTINYINT", "energy_epoch": "UBIGINT"}
MASK_KEY = {
    "node": "INTEGER",
    "minute": "BIGINT",
    "run": "UBIGINT",
    "block": "BIGINT",
    "writer": "UBIGINT",
    "eviction": "INTEGER",
}
MASK_REST = {"origin": "UTINYINT", "mask": "UBIGINT"}


def span_columns(metric: Metric) -> dict[str, str]:
    """Column names and types of a metric in a part."""
    name = metric.name
    if metric.kind is Kind.COUNTER:
        kinds = {"t0": "INTEGER", "v0": "UBIGINT", "t1": "INTEGER", "v1": "UBIGINT"}
    else:
        kinds = {"min": "FLOAT", "max": "FLOAT", "last": "FLOAT", "lt": "INTEGER"}
    return {f"{name}_{end}": kind for end, kind in kinds.items()}


def tables() -> dict[str, dict[str, str]]:
    """Every table with its columns and their types, for today's catalogue.

    Minutes and masks have two tables of one form: `…_open` takes the rows
    that are still rewritten, and what is older moves to the other.
    """
    raw = {m.name: "FLOAT" if m.kind is Kind.GAUGE else "UBIGINT" for m in CATALOGUE}
    spans = {name: kind for metric in CATALOGUE for name, kind in span_columns(metric).items()}
    minutes = PART_KEY | PART_REST | spans
    masks = MASK_KEY | MASK_REST
    return {
        "nodes": {"id": "INTEGER", "name": "VARCHAR"},
        "raw": RAW_KEY | raw,
        "minutes": minutes,
        "minutes_open": minutes,
        "masks": masks,
        "masks_open": masks,
    }


def _inside(name: str, offset_us: NDArray[np.int64], present: NDArray[np.bool_]) -> Any:
    """The offsets; raises ValueError when one that is present is outside its minute."""
    inside = (offset_us >= 0) & (offset_us < MINUTE_US)
    if not (inside | ~present).all():
        raise ValueError(f"{name}: a part has a point outside its minute")
    return offset_us


def _nullable(values: NDArray[Any], present: NDArray[np.bool_]) -> Any:
    return values if present.all() else np.ma.masked_array(values, mask=~present)


def raw_columns(samples: RawSamples, node: NDArray[np.int32]) -> Columns:
    """Samples for the table `raw`; `node` are the store's ids."""
    columns: Columns = {"node": node} | {
        key: getattr(samples, key) for key in RAW_KEY if key != "node"
    }
    for name, column in samples.values.items():
        values: Any = column
        present = ~np.isnan(values) if values.dtype == np.float32 else values != _ABSENT
        if present.any():
            columns[name] = _nullable(values, present)
    return columns


def part_columns(parts: MinuteParts, node: NDArray[np.int32]) -> Columns:
    """Parts for the table `minutes`; ValueError when a point is outside its minute."""
    keys = [key for key in PART_KEY | PART_REST if key != "node"]
    columns: Columns = {"node": node} | {key: getattr(parts, key) for key in keys}
    start_us = parts.minute * MINUTE_US
    for name, counter in parts.counters.items():
        present = counter.first != _ABSENT
        if present.any():
            for end, times in (("t0", counter.first_us), ("t1", counter.last_us)):
                offset = _inside(name, times - start_us, present)
                columns[f"{name}_{end}"] = _nullable(offset.astype(np.int32), present)
            columns[f"{name}_v0"] = _nullable(counter.first, present)
            columns[f"{name}_v1"] = _nullable(counter.last, present)
    for name, gauge in parts.gauges.items():
        present = ~np.isnan(gauge.last)
        if present.any():
            offset = _inside(name, gauge.last_us - start_us, present)
            columns[f"{name}_lt"] = _nullable(offset.astype(np.int32), present)
            for end, values in (("min", gauge.minimum), ("max", gauge.maximum)):
                columns[f"{name}_{end}"] = _nullable(values, present)
            columns[f"{name}_last"] = _nullable(gauge.last, present)
    return columns


def mask_columns(masks: NodeMasks, node: NDArray[np.int32]) -> Columns:
    """Masks for the table `masks`."""
    keys = [key for key in MASK_KEY | MASK_REST if key != "node"]
    return {"node": node} | {key: getattr(masks, key) for key in keys}


def _filled(column: Any, absent: Any) -> Any:
    return column.filled(absent) if hasattr(column, "filled") else column


def _plain(columns: Columns, keys: Iterable[str]) -> list[Any]:
    return [_filled(columns[key], 0) for key in keys]


def raw_samples(columns: Columns, nodes: Sequence[str], metrics: Sequence[Metric]) -> RawSamples:
    """Samples from what a query gave; without metrics that none has, samples that have none."""
    values: dict[str, Any] = {}
    valued = np.zeros(len(columns["node"]), np.bool_)
    for metric in metrics:
        if metric.kind is Kind.GAUGE:
            column = _filled(columns[metric.name], np.float32(np.nan))
            present = ~np.isnan(column)
        else:
            column = _filled(columns[metric.name], _ABSENT)
            present = column != _ABSENT
        if present.any():
            values[metric.name] = column
            valued |= present
    samples = RawSamples(nodes, *_plain(columns, RAW_KEY), values=values)
    return samples if valued.all() else select_raw(samples, valued)


def _times(column: Any, minute: Any, present: Any) -> Any:
    offset = _filled(column, 0)
    return np.where(present, minute * MINUTE_US + offset, 0)


def _counter(columns: Columns, name: str) -> CounterSpan:
    first = _filled(columns[f"{name}_v0"], _ABSENT)
    present = first != _ABSENT
    if not present.any():
        return absent_counter(len(first))
    minute = columns["minute"]
    return CounterSpan(
        _times(columns[f"{name}_t0"], minute, present),
        first,
        _times(columns[f"{name}_t1"], minute, present),
        _filled(columns[f"{name}_v1"], _ABSENT),
    )


def _gauge(columns: Columns, name: str) -> GaugeSpan:
    nan = np.float32(np.nan)
    minimum, maximum, last = (
        _filled(columns[f"{name}_{end}"], nan) for end in ("min", "max", "last")
    )
    present = ~np.isnan(last)
    if not present.any():
        return absent_gauge(len(last))
    last_us = _times(columns[f"{name}_lt"], columns["minute"], present)
    return GaugeSpan(minimum, maximum, last, last_us)


def minute_parts(columns: Columns, nodes: Sequence[str], metrics: Sequence[Metric]) -> MinuteParts:
    """Parts from what a query gave."""
    kinds: Mapping[Kind, list[str]] = {
        kind: [metric.name for metric in metrics if metric.kind is kind] for kind in Kind
    }
    columns["minute"] = _filled(columns["minute"], 0)
    return MinuteParts(
        nodes,
        *_plain(columns, PART_KEY | PART_REST),
        counters={name: _counter(columns, name) for name in kinds[Kind.COUNTER]},
        gauges={name: _gauge(columns, name) for name in kinds[Kind.GAUGE]},
    )


def node_masks(columns: Columns, nodes: Sequence[str]) -> NodeMasks:
    """Masks from what a query gave."""
    return NodeMasks(nodes, *_plain(columns, MASK_KEY | MASK_REST))
