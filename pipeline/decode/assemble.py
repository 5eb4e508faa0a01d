"""Pieces of a fetch, each of one layout, put together as one group per slot count.

A node's seldom readings make layouts of their own that few records have, so
that groups by layout would be small, and what is done per group would cost
more than what is done per sample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import COUNTER_ABSENT, Metric
from collectors.contract.record import NodeRecord
from pipeline.decode.batch import Group, Wanted
from pipeline.decode.layout import Layout
from pipeline.decode.slots import SlotTable

_HEADER = {"origin": 2, "run": 3, "sequence": 4, "time_us": 5, "label_epoch": 6}
_HEADER_KINDS = {"origin": "<u4", "run": "<u8", "sequence": "<u8", "time_us": "<i8"}
_HEADER_COLUMNS = {"origin": np.uint8, "time_us": np.int64}
_EPOCHS = 9
_FEW = 64
"""Records below which the cost is that of calls, not of bytes."""

Rows = slice | NDArray[np.intp]
"""Which records of a group."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The wanted metrics of one kind: their names and numbers, and how absence is said."""

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    dtype: Any
    absent: Any


class Piece(Protocol):
    """Some records of one slot count: their places in the input, and the numbers of their places."""

    @property
    def index(self) -> NDArray[np.intp]:
        """int[n]."""
        ...

    @property
    def place(self) -> NDArray[np.int32]:
        """int32[n]."""
        ...

    @property
    def count(self) -> int:
        """Slots of each record."""
        ...

    def header(self, name: str) -> Any:
        """A header field of each record."""
        ...

    def epochs(self) -> Any:
        """Energy epochs, [n, count]."""
        ...

    def has(self, kind: Kind) -> NDArray[np.intp]:
        """Which of the metrics some of the records may have."""
        ...

    def put(self, kind: Kind, target: NDArray[Any], rows: Rows) -> None:
        """Writes those metrics to target[metric, rows]."""
        ...


@dataclass(frozen=True, slots=True)
class Cut:
    """Records of one layout as a matrix of bytes."""

    layout: Layout
    matrix: NDArray[np.uint8]
    index: NDArray[np.intp]
    place: NDArray[np.int32]

    @property
    def count(self) -> int:
        """Slots of each record."""
        return self.layout.count

    def header(self, name: str) -> NDArray[Any]:
        """A header field of each record."""
        span = self.layout.spans[_HEADER[name]]
        return payload(self.matrix, span, _HEADER_KINDS.get(name, "<u8"))[:, 0]

    def epochs(self) -> NDArray[Any]:
        """Energy epochs, [n, count]."""
        return payload(self.matrix, self.layout.spans[_EPOCHS], "<u8")

    def has(self, kind: Kind) -> NDArray[np.intp]:
        """Which of the metrics the layout has."""
        return self.layout.wanted(kind.numbers).row

    def put(self, kind: Kind, target: NDArray[Any], rows: Rows) -> None:
        """Writes those metrics to target[metric, rows]: few records all at once, many by metric."""
        columns, n = self.layout.wanted(kind.numbers), len(self.index)
        if n < _FEW:
            taken: NDArray[Any] = np.take(self.matrix, columns.at, axis=1).view(kind.dtype)
            values = taken.reshape(n, len(columns.row), self.count)
            target[columns.row[:, None], _numbers(rows)] = values.transpose(1, 0, 2)
            return
        width = self.count * target.itemsize
        for row, start in zip(columns.row.tolist(), columns.start, strict=True):
            target[row, rows] = payload(self.matrix, (start, start + width), kind.dtype)


@dataclass(frozen=True, slots=True)
class Parsed:
    """Records that the ordinary parser has read, all of one slot count."""

    records: Sequence[NodeRecord]
    index: NDArray[np.intp]
    place: NDArray[np.int32]

    @property
    def count(self) -> int:
        """Slots of each record."""
        return len(self.records[0].slots)

    def header(self, name: str) -> list[int]:
        """A header field of each record."""
        return [int(getattr(record, name)) for record in self.records]

    def epochs(self) -> NDArray[Any]:
        """Energy epochs, [n, count]."""
        return np.array([record.energy_epochs for record in self.records], np.uint64)

    def has(self, kind: Kind) -> NDArray[np.intp]:
        """Which of the metrics some record has."""
        there = set[str]().union(*(record.values for record in self.records))
        return np.array([row for row, name in enumerate(kind.names) if name in there], np.intp)

    def put(self, kind: Kind, target: NDArray[Any], rows: Rows) -> None:
        """Writes those metrics to target[metric, rows]."""
        nothing = [kind.absent] * self.count
        for row in self.has(kind).tolist():
            name = kind.names[int(row)]
            values: Any = [record.values.get(name, nothing) for record in self.records]
            target[row, rows] = np.array(values, kind.dtype)


def payload(matrix: NDArray[np.uint8], span: tuple[int, int], kind: Any) -> NDArray[Any]:
    """One field's numbers in all records, [n, numbers], where they lie."""
    kind = np.dtype(kind)
    shape = len(matrix), (span[1] - span[0]) // kind.itemsize
    return np.ndarray(shape, kind, matrix, span[0], (matrix.shape[1], kind.itemsize))


class Assembler:
    """Makes groups of the metrics that a reader wants."""

    def __init__(self, wanted: Wanted, table: SlotTable) -> None:
        self._table = table
        self._gauges = _kind(wanted.gauges, np.float32, np.nan)
        self._counters = _kind(wanted.counters, np.uint64, COUNTER_ABSENT)

    def groups(self, pieces: Sequence[Piece]) -> list[Group]:
        """One group per slot count, its records in order of their place in the input."""
        by_count: dict[int, list[Piece]] = defaultdict(list)
        for piece in pieces:
            by_count[piece.count].append(piece)
        return [self._group(alike, count) for count, alike in by_count.items()]

    def _group(self, pieces: Sequence[Piece], count: int) -> Group:
        index = np.concatenate([piece.index for piece in pieces])
        order = np.argsort(index)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        ends = np.cumsum([len(piece.index) for piece in pieces])
        rows = [_rows(one) for one in np.split(rank, ends[:-1])]
        place, n = np.empty(len(index), np.int32), len(index)
        epochs = np.empty((n, count), np.uint64)
        header: dict[str, Any] = {
            name: np.empty(n, _HEADER_COLUMNS.get(name, np.uint64)) for name in _HEADER
        }
        for at, piece in zip(rows, pieces, strict=True):
            place[at] = piece.place
            epochs[at] = piece.epochs()
            for name, column in header.items():
                column[at] = piece.header(name)
        return Group(
            index[order],
            place,
            **header,
            gpu=self._table.gpus_of(place, count),
            energy_epoch=epochs,
            gauges=_columns(pieces, rows, self._gauges, (n, count)),
            counters=_columns(pieces, rows, self._counters, (n, count)),
        )


def _kind(metrics: Sequence[Metric], dtype: Any, absent: Any) -> Kind:
    names, numbers = (tuple(getattr(m, name) for m in metrics) for name in ("name", "number"))
    return Kind(names, numbers, np.dtype(dtype), absent)


def _rows(rank: NDArray[np.intp]) -> Rows:
    """The rows as a slice where they follow each other."""
    first = int(rank[0])
    whole = int(rank[-1]) - first == len(rank) - 1 and bool((np.diff(rank) == 1).all())
    return slice(first, first + len(rank)) if whole else rank


def _numbers(rows: Rows) -> NDArray[np.intp]:
    if isinstance(rows, slice):
        return np.arange(rows.start, rows.stop, dtype=np.intp)
    return rows


def _columns(
    pieces: Sequence[Piece], rows: Sequence[Rows], kind: Kind, shape: tuple[int, int]
) -> NDArray[Any]:
    """[metrics, n, count], absent where a piece lacks a metric."""
    target = np.empty((len(kind.numbers), *shape), kind.dtype)
    holders = np.zeros(len(target), np.intp)
    for piece in pieces:
        holders[piece.has(kind)] += 1
    target[holders < len(pieces)] = kind.absent
    for at, piece in zip(rows, pieces, strict=True):
        piece.put(kind, target, at)
    return target
