"""From when to when each series has kept points: what says whether a neighbour lies out of view.

A series is a counter of a slot within one run (energy: within one energy
epoch).  Its span over all time decides which run of two that overlap keeps
the time, and whether an hour's first or last point has a neighbour farther
away than the minutes at hand.  Spans only grow, so merging them is
idempotent, commutative and associative.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Reset
from pipeline.books.rows import I32, I64, STATE_COUNTERS, U64
from pipeline.series.columns import group_rows
from pipeline.series.port import CounterSpan, MinuteParts

ANY = ""
"""The series of all counters of a run together: its hull."""
_STATE = STATE_COUNTERS[0]
_ABSENT = np.uint64(COUNTER_ABSENT)
_LATEST = np.iinfo(np.int64).max
_EARLIEST = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class Spans:
    """Columns of S in order of (node, slot, counter, id), each key once.

    `node` and `counter` index `nodes` and `counters`; `id` is the run or, for
    energy, the energy epoch.  Times of the first and last kept point in µs.
    """

    nodes: Sequence[str]
    counters: Sequence[str]
    node: I32
    slot: U64
    counter: I32
    id: U64
    first_us: I64
    last_us: I64

    def __len__(self) -> int:
        return len(self.node)

    def select(self, rows: NDArray[np.intp]) -> Spans:
        """The rows chosen."""
        columns = {one.name: getattr(self, one.name) for one in fields(self)}
        return Spans(
            **{
                name: column if name in {"nodes", "counters"} else column[rows]
                for name, column in columns.items()
            }
        )


def no_spans() -> Spans:
    """None at all."""
    none = np.zeros(0, np.int64)
    small, large = none.astype(np.int32), none.astype(np.uint64)
    return Spans((), (), small, large, small, large, none, none)


def _lookup(names: Sequence[str], table: Sequence[str]) -> I32:
    index = {name: place for place, name in enumerate(table)}
    return np.array([index[name] for name in names] or [0], np.int32)


def merge_spans(sets: Iterable[Spans]) -> Spans:
    """The union of all series, each from its earliest to its latest point."""
    given = [one for one in sets if len(one)]
    if not given:
        return no_spans()
    nodes = sorted({name for one in given for name in one.nodes})
    counters = sorted({name for one in given for name in one.counters})
    node = np.concatenate([_lookup(one.nodes, nodes)[one.node] for one in given])
    counter = np.concatenate([_lookup(one.counters, counters)[one.counter] for one in given])
    slot = np.concatenate([one.slot for one in given])
    ids = np.concatenate([one.id for one in given])
    order, starts = group_rows((node, slot, counter, ids))
    first = np.concatenate([one.first_us for one in given])[order]
    last = np.concatenate([one.last_us for one in given])[order]
    heads = order[starts]
    return Spans(
        nodes,
        counters,
        node[heads],
        slot[heads],
        counter[heads],
        ids[heads],
        np.minimum.reduceat(first, starts),
        np.maximum.reduceat(last, starts),
    )


def _series_names(parts: MinuteParts) -> list[str]:
    """The counters that have a series of their own; two of the states' share the third's."""
    return [name for name in parts.counters if name == _STATE or name not in STATE_COUNTERS]


def _is_energy(name: str) -> bool:
    metric = CATALOGUE.by_name.get(name)
    return metric is not None and metric.reset is Reset.ENERGY


def spans_of(parts: MinuteParts) -> Spans:
    """The spans of the points in some parts, merged or not."""
    if not len(parts):
        return no_spans()
    by_run = group_rows((parts.node, parts.slot, parts.run))
    by_epoch = group_rows((parts.node, parts.slot, parts.energy_epoch))
    names = _series_names(parts)
    found: list[tuple[NDArray[np.intp], U64, I64, I64]] = []
    earliest, latest = np.full(len(by_run[1]), _LATEST), np.full(len(by_run[1]), _EARLIEST)
    for name in names:
        energy = _is_energy(name)
        order, starts = by_epoch if energy else by_run
        first, last = _extremes(parts.counters[name], order, starts)
        ids = parts.energy_epoch if energy else parts.run
        found.append((order[starts], ids, first, last))
        if energy:
            first, last = _extremes(parts.counters[name], *by_run)
        np.minimum(earliest, first, out=earliest)
        np.maximum(latest, last, out=latest)
    heads = by_run[0][by_run[1]]
    found.append((heads, parts.run, earliest, latest))
    return _table(parts, [*names, ANY], found)


def _extremes(
    span: CounterSpan, order: NDArray[np.intp], starts: NDArray[np.intp]
) -> tuple[I64, I64]:
    present = (span.first != _ABSENT)[order]
    first = np.where(present, span.first_us[order], _LATEST)
    last = np.where(present, span.last_us[order], _EARLIEST)
    return np.minimum.reduceat(first, starts), np.maximum.reduceat(last, starts)


def _table(
    parts: MinuteParts, names: Sequence[str], found: list[tuple[NDArray[np.intp], U64, I64, I64]]
) -> Spans:
    spans = Spans(
        tuple(parts.nodes),
        names,
        np.concatenate([parts.node[heads] for heads, _, _, _ in found]),
        np.concatenate([parts.slot[heads] for heads, _, _, _ in found]),
        np.repeat(np.arange(len(found), dtype=np.int32), [len(heads) for heads, *_ in found]),
        np.concatenate([ids[heads] for heads, ids, _, _ in found]),
        np.concatenate([first for _, _, first, _ in found]),
        np.concatenate([last for _, _, _, last in found]),
    )
    present: NDArray[np.intp] = np.flatnonzero(spans.first_us <= spans.last_us)
    return merge_spans([spans.select(present)])


def by_node(spans: Spans) -> dict[str, Spans]:
    """Each node's rows; what has no node is left out."""
    result: dict[str, Spans] = {}
    for index in np.unique(spans.node).tolist():
        one = spans.select(np.flatnonzero(spans.node == index))
        name = spans.nodes[int(index)]
        result[name] = Spans((name,), one.counters, np.zeros_like(one.node), *_tail(one))
    return result


def _tail(one: Spans) -> tuple[U64, I32, U64, I64, I64]:
    return one.slot, one.counter, one.id, one.first_us, one.last_us


class _Packed(msgspec.Struct, array_like=True):
    counters: list[str]
    columns: list[bytes]


_KINDS = (np.uint64, np.int32, np.uint64, np.int64, np.int64)


def pack(spans: Spans) -> bytes:
    """One node's spans as bytes: MessagePack of little-endian columns, deflated."""
    packed = _Packed(list(spans.counters), [column.tobytes() for column in _tail(spans)])
    return zlib.compress(msgspec.msgpack.encode(packed), 1)


def unpack(node: str, data: bytes) -> Spans:
    """The inverse of `pack`."""
    packed = msgspec.msgpack.decode(zlib.decompress(data), type=_Packed)
    columns: list[Any] = [
        np.frombuffer(column, kind) for column, kind in zip(packed.columns, _KINDS, strict=True)
    ]
    return Spans((node,), packed.counters, np.zeros(len(columns[0]), np.int32), *columns)


def without(spans: Spans, others: Spans) -> Spans:
    """The series of `spans` that are not among `others`."""
    node = _recoded(others.nodes, spans.nodes)[others.node]
    counter = _recoded(others.counters, spans.counters)[others.counter]
    shared = (node >= 0) & (counter >= 0)
    keys = (
        np.concatenate([spans.node, node[shared]]),
        np.concatenate([spans.slot, others.slot[shared]]),
        np.concatenate([spans.counter, counter[shared]]),
        np.concatenate([spans.id, others.id[shared]]),
    )
    order, starts = group_rows(keys)
    if not len(starts):
        return spans
    alone = np.maximum.reduceat(order, starts) < len(spans)
    return spans.select(np.sort(order[starts[alone]]))


def _recoded(names: Sequence[str], table: Sequence[str]) -> I32:
    index = {name: place for place, name in enumerate(table)}
    return np.array([index.get(name, -1) for name in names] or [-1], np.int32)
