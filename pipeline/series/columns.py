"""Pure work on the port's columns: empty ones, joined ones, chosen rows, merged parts.

Knows arrays only, no store.  A metric that a set of columns lacks is absent
in all its rows, so sets with different metrics join.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import COUNTER_ABSENT
from pipeline.series.port import (
    I32,
    I64,
    CounterSpan,
    GaugeSpan,
    MinuteParts,
    NodeMasks,
    RawSamples,
)

Rows = NDArray[np.bool_] | NDArray[np.intp] | slice
"""Which rows: a mask of all, indices, or a slice."""

_PART_KEYS: Mapping[str, type[np.generic]] = {
    "node": np.int32,
    "slot": np.uint64,
    "minute": np.int64,
    "run": np.uint64,
    "label_epoch": np.uint64,
    "writer": np.uint64,
    "eviction": np.int32,
    "origin": np.uint8,
    "energy_epoch": np.uint64,
}
_MASK_KEYS: Mapping[str, type[np.generic]] = {
    "node": np.int32,
    "minute": np.int64,
    "run": np.uint64,
    "block": np.int64,
    "writer": np.uint64,
    "eviction": np.int32,
    "origin": np.uint8,
    "mask": np.uint64,
}
_RAW_KEYS: Mapping[str, type[np.generic]] = {
    "node": np.int32,
    "slot": np.uint64,
    "time_us": np.int64,
    "origin": np.uint8,
}
_COUNTER = ("first_us", "first", "last_us", "last")
_GAUGE = ("minimum", "maximum", "last", "last_us")
_ABSENT = np.uint64(COUNTER_ABSENT)
_NEVER_FIRST = np.iinfo(np.int64).max
_NEVER_LAST = np.iinfo(np.int64).min


def absent_counter(rows: int) -> CounterSpan:
    """A counter that no part has."""
    return CounterSpan(
        np.zeros(rows, np.int64),
        np.full(rows, _ABSENT, np.uint64),
        np.zeros(rows, np.int64),
        np.full(rows, _ABSENT, np.uint64),
    )


def absent_gauge(rows: int) -> GaugeSpan:
    """A gauge that no part has."""
    nan = np.full(rows, np.nan, np.float32)
    return GaugeSpan(nan, nan.copy(), nan.copy(), np.zeros(rows, np.int64))


def _empty(keys: Mapping[str, type[np.generic]]) -> list[Any]:
    return [np.zeros(0, kind) for kind in keys.values()]


def empty_parts(counters: Iterable[str] = (), gauges: Iterable[str] = ()) -> MinuteParts:
    """No parts, with the metrics named."""
    return MinuteParts(
        (),
        *_empty(_PART_KEYS),
        counters={name: absent_counter(0) for name in counters},
        gauges={name: absent_gauge(0) for name in gauges},
    )


def empty_masks() -> NodeMasks:
    """No masks."""
    return NodeMasks((), *_empty(_MASK_KEYS))


def empty_raw() -> RawSamples:
    """No samples."""
    return RawSamples((), *_empty(_RAW_KEYS), values={})


def recode_nodes(tables: Sequence[tuple[Sequence[str], I32]]) -> tuple[tuple[str, ...], list[I32]]:
    """One table of the names in use, sorted, and each set's indices into it."""
    used = [
        sorted({str(nodes[index]) for index in np.unique(node).tolist()}) for nodes, node in tables
    ]
    names = tuple(sorted({name for one in used for name in one}))
    code = {name: index for index, name in enumerate(names)}
    recoded: list[I32] = []
    for nodes, node in tables:
        lookup = np.array([code.get(name, -1) for name in nodes] or [-1], np.int32)
        recoded.append(lookup[node])
    return names, recoded


def _joined(sets: Sequence[Any], names: Iterable[str]) -> list[Any]:
    return [np.concatenate([getattr(one, name) for one in sets]) for name in names]


def _chosen(columns: Any, names: Iterable[str], rows: Any) -> list[Any]:
    return [getattr(columns, name)[rows] for name in names]


def _without_node(keys: Mapping[str, Any]) -> list[str]:
    return [key for key in keys if key != "node"]


def _union(mappings: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _joined_counter(sets: Sequence[MinuteParts], name: str) -> CounterSpan:
    spans = [one.counters.get(name) or absent_counter(len(one)) for one in sets]
    return CounterSpan(*_joined(spans, _COUNTER))


def _joined_gauge(sets: Sequence[MinuteParts], name: str) -> GaugeSpan:
    spans = [one.gauges.get(name) or absent_gauge(len(one)) for one in sets]
    return GaugeSpan(*_joined(spans, _GAUGE))


def concat_parts(sets: Sequence[MinuteParts]) -> MinuteParts:
    """All rows of all sets, unmerged, over one sorted table of the nodes in use."""
    if not sets:
        return empty_parts()
    nodes, node = recode_nodes([(one.nodes, one.node) for one in sets])
    return MinuteParts(
        nodes,
        np.concatenate(node),
        *_joined(sets, _without_node(_PART_KEYS)),
        counters={k: _joined_counter(sets, k) for k in _union(one.counters for one in sets)},
        gauges={k: _joined_gauge(sets, k) for k in _union(one.gauges for one in sets)},
    )


def concat_masks(sets: Sequence[NodeMasks]) -> NodeMasks:
    """All masks of all sets, unmerged, over one sorted table of the nodes in use."""
    if not sets:
        return empty_masks()
    nodes, node = recode_nodes([(one.nodes, one.node) for one in sets])
    return NodeMasks(nodes, np.concatenate(node), *_joined(sets, _without_node(_MASK_KEYS)))


def _column(samples: RawSamples, name: str, like: Any) -> Any:
    absent = np.nan if like.dtype == np.float32 else _ABSENT
    column = samples.values.get(name)
    return np.full(len(samples), absent, like.dtype) if column is None else column


def concat_raw(sets: Sequence[RawSamples]) -> RawSamples:
    """All samples of all sets in their order; a table of nodes that all share stays as it is."""
    if not sets:
        return empty_raw()
    nodes, node = sets[0].nodes, [one.node for one in sets]
    if any(one.nodes is not nodes for one in sets):
        nodes, node = recode_nodes([(one.nodes, one.node) for one in sets])
    like = {name: column for one in sets for name, column in one.values.items()}
    return RawSamples(
        nodes,
        np.concatenate(node),
        *_joined(sets, _without_node(_RAW_KEYS)),
        values={
            name: np.concatenate([_column(one, name, column) for one in sets])
            for name, column in like.items()
        },
    )


def batched_raw(sets: Sequence[RawSamples], rows: int) -> Iterator[RawSamples]:
    """The sets in their order, joined until each has `rows` samples or more, as stores like them."""
    waiting: list[RawSamples] = []
    for one in sets:
        waiting.append(one)
        if sum(map(len, waiting)) >= rows:
            yield waiting[0] if len(waiting) == 1 else concat_raw(waiting)
            waiting = []
    if any(map(len, waiting)):
        yield concat_raw(waiting)


def select_parts(parts: MinuteParts, rows: Rows) -> MinuteParts:
    """The rows chosen; the table of nodes stays."""
    counters = {k: CounterSpan(*_chosen(v, _COUNTER, rows)) for k, v in parts.counters.items()}
    gauges = {k: GaugeSpan(*_chosen(v, _GAUGE, rows)) for k, v in parts.gauges.items()}
    return MinuteParts(
        parts.nodes, *_chosen(parts, _PART_KEYS, rows), counters=counters, gauges=gauges
    )


def select_masks(masks: NodeMasks, rows: Rows) -> NodeMasks:
    """The rows chosen; the table of nodes stays."""
    return NodeMasks(masks.nodes, *_chosen(masks, _MASK_KEYS, rows))


def select_raw(samples: RawSamples, rows: Rows) -> RawSamples:
    """The rows chosen; the table of nodes stays."""
    values = {name: column[rows] for name, column in samples.values.items()}
    return RawSamples(samples.nodes, *_chosen(samples, _RAW_KEYS, rows), values=values)


def _merged_counter(span: CounterSpan, starts: NDArray[np.intp], group: I64) -> CounterSpan:
    present = span.first != _ABSENT
    time = np.where(present, span.first_us, _NEVER_FIRST)
    first_us = np.minimum.reduceat(time, starts)
    first = np.minimum.reduceat(np.where(time == first_us[group], span.first, _ABSENT), starts)
    time = np.where(present, span.last_us, _NEVER_LAST)
    last_us = np.maximum.reduceat(time, starts)
    last = np.maximum.reduceat(
        np.where(present & (time == last_us[group]), span.last, np.uint64(0)), starts
    )
    none = first == _ABSENT
    return CounterSpan(
        np.where(none, 0, first_us),
        first,
        np.where(none, 0, last_us),
        np.where(none, _ABSENT, last),
    )


def _merged_gauge(span: GaugeSpan, starts: NDArray[np.intp], group: I64) -> GaugeSpan:
    present = ~np.isnan(span.last)
    time = np.where(present, span.last_us, _NEVER_LAST)
    last_us = np.maximum.reduceat(time, starts)
    newest = present & (time == last_us[group])
    last = np.fmax.reduceat(np.where(newest, span.last, np.float32(np.nan)), starts)
    return GaugeSpan(
        np.fmin.reduceat(span.minimum, starts),
        np.fmax.reduceat(span.maximum, starts),
        last,
        np.where(np.isnan(last), 0, last_us),
    )


def group_rows(keys: Sequence[NDArray[Any]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows in order of the keys (first key first), and where each distinct key starts."""
    order = np.lexsort(tuple(reversed(keys)))
    changed = np.ones(len(order), np.bool_)
    if len(order):
        changed[1:] = False
    for key in keys:
        ordered = key[order]
        changed[1:] |= ordered[1:] != ordered[:-1]
    return order, np.flatnonzero(changed)


def _merged(parts: MinuteParts, keys: Sequence[NDArray[Any]]) -> MinuteParts:
    order, starts = group_rows(keys)
    sorted_parts = select_parts(parts, order)
    if len(starts) == len(order):
        return sorted_parts
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    heads = select_parts(sorted_parts, starts)
    return replace(
        heads,
        origin=np.maximum.reduceat(sorted_parts.origin, starts),
        energy_epoch=np.maximum.reduceat(sorted_parts.energy_epoch, starts),
        counters={k: _merged_counter(v, starts, group) for k, v in sorted_parts.counters.items()},
        gauges={k: _merged_gauge(v, starts, group) for k, v in sorted_parts.gauges.items()},
    )


def merge_parts(parts: MinuteParts | Sequence[MinuteParts]) -> MinuteParts:
    """Parts of all writers and evictions as one row per (node, slot, minute, run, label_epoch).

    Per counter the first point is the smallest and the last the largest by
    (time, value); per gauge minimum, maximum, and the largest last by (time,
    value); origin and energy epoch the largest.  Idempotent, commutative and
    associative: rows come in order of the key by node name, `writer` and
    `eviction` are 0.
    """
    joined = concat_parts([parts] if isinstance(parts, MinuteParts) else parts)
    keys = (joined.node, joined.slot, joined.minute, joined.run, joined.label_epoch)
    merged = _merged(joined, keys)
    nobody = np.zeros(len(merged), np.uint64)
    return replace(merged, writer=nobody, eviction=nobody.astype(np.int32))
