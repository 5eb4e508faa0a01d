"""A minute part's spans as two texts, and back: the database's work goes by the field.

A text is base64 of bytes, all numbers little-endian, padded with zeros to a
multiple of three:

- 1 byte version (1), 1 byte number of time columns T, 2 bytes number of metrics M;
- M × 3 bytes, one number each: metric number · 2¹² + time column · 2⁴ + first width code · 2² + second;
- the head, in `part` only: run, label epoch, writer, energy epoch (8 bytes each), eviction (4), origin (1);
- T time columns: first and last time in µs after the minute's start, 4 bytes each;
- per metric two numbers.  Of a counter its first value (1, 4 or 8 bytes; all
  bits set is absent) and the last less the first, modulo 2⁶⁴ (0, 4 or 8 bytes).  Of a gauge the
  last value (4 bytes, NaN is absent), then minimum and maximum (4 bytes each;
  0 bytes where both equal the last).

Width codes 0, 1, 2, 3 are 0, 1, 4 and 8 bytes.  Metrics read together share a
time column, and all rows packed in one call have one layout, so that they are
one matrix of bytes and no row is by itself.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Metric
from pipeline.series.port import I64, MinuteParts

MINUTE_US = 60_000_000
Bytes = NDArray[np.uint8]

VERSION = 1
WIDTHS = (0, 1, 4, 8)
KINDS = {1: "u1", 4: "<u4", 8: "<u8"}
_ABSENT = np.uint64(COUNTER_ABSENT)
HEAD = (
    ("run", "<u8"),
    ("label_epoch", "<u8"),
    ("writer", "<u8"),
    ("energy_epoch", "<u8"),
    ("eviction", "<i4"),
    ("origin", "u1"),
)


@dataclass(slots=True)
class _Writer:
    """Collects a layout and its columns."""

    rows: int
    times: list[tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=list[Any])
    metrics: list[int] = field(default_factory=list[int])
    columns: list[NDArray[Any]] = field(default_factory=list[Any])

    def time(self, first: NDArray[np.uint32], last: NDArray[np.uint32], present: Any) -> int:
        """The number of a time column that says this of all rows that have the metric."""
        for number, known in enumerate(self.times):
            same = (known[0] == first) & (known[1] == last)
            if present is None:
                if same.all():
                    return number
            elif same[present].all():
                return number
        self.times.append((first, last))
        return len(self.times) - 1

    def metric(self, metric: Metric, time: int, first: int, second: int) -> None:
        codes = WIDTHS.index(first) << 2 | WIDTHS.index(second)
        self.metrics.append(metric.number << 12 | time << 4 | codes)

    def text(self, head: Sequence[NDArray[Any]] = ()) -> Bytes:
        """All rows as characters of base64, uint8[rows, width]."""
        numbers = [number.to_bytes(3, "little") for number in self.metrics]
        start = bytes((VERSION, len(self.times))) + len(numbers).to_bytes(2, "little")
        layout = np.frombuffer(start + b"".join(numbers), np.uint8)
        times = [column.astype("<u4") for pair in self.times for column in pair]
        columns = [*head, *times, *self.columns]
        size = len(layout) + sum(column.itemsize for column in columns)
        matrix = np.zeros((self.rows, size + -size % 3), np.uint8)
        matrix[:, : len(layout)] = layout
        at = len(layout)
        for column in columns:
            strided(matrix, at, column.dtype)[:] = column
            at += column.itemsize
        coded = binascii.b2a_base64(matrix, newline=False)  # type: ignore[arg-type]
        return np.frombuffer(coded, np.uint8).reshape(self.rows, matrix.shape[1] // 3 * 4)


def strided(matrix: Bytes, start: int, kind: Any) -> NDArray[Any]:
    """One number of each row, which need not be aligned."""
    return np.ndarray((len(matrix),), kind, matrix, offset=start, strides=(matrix.shape[1],))


def _offset(name: str, time_us: I64, start_us: I64, present: Any) -> NDArray[np.uint32]:
    offset = time_us - start_us
    if present is not None:
        offset = np.where(present, offset, 0)
    if len(offset) and not (offset.min() >= 0 and offset.max() < MINUTE_US):
        raise ValueError(f"{name}: a part has a point outside its minute")
    return offset.astype(np.uint32)


def pack_counters(parts: MinuteParts) -> Bytes:
    """`part`: the parts' keys and counters, characters uint8[M, width].

    Raises ValueError when a point is outside its minute.
    """
    start_us, writer = parts.minute * MINUTE_US, _Writer(len(parts))
    for metric in CATALOGUE.counters:
        span = parts.counters.get(metric.name)
        present = None if span is None else _present(span.first != _ABSENT)
        if span is None or (present is not None and not present.any()):
            continue
        first, gain = span.first, span.last - span.first
        if present is not None:
            # An absent one's times and gain are the first's, whatever was there.
            gain = np.where(present, gain, np.uint64(0))
        one = _offset(metric.name, span.first_us, start_us, present)
        two = _offset(metric.name, span.last_us, start_us, present)
        most = int((first if present is None else first[present]).max(initial=0))
        widths = _width(most + 1, 1), _width(int(gain.max(initial=0)), 0)
        writer.metric(metric, writer.time(one, two, present), *widths)
        kind = KINDS[widths[0]]
        writer.columns.append(first.astype(kind))  # All bits set stay all bits set.
        if widths[1]:
            writer.columns.append(gain.astype(KINDS[widths[1]]))
    return writer.text([getattr(parts, name).astype(kind) for name, kind in HEAD])


def pack_gauges(parts: MinuteParts) -> Bytes:
    """`gauges`: the parts' gauges, characters uint8[M, width]; raises like `pack_counters`."""
    start_us, writer = parts.minute * MINUTE_US, _Writer(len(parts))
    for metric in CATALOGUE.gauges:
        span = parts.gauges.get(metric.name)
        present = None if span is None else _present(~np.isnan(span.last))
        if span is None or (present is not None and not present.any()):
            continue
        last_us = _offset(metric.name, span.last_us, start_us, present)
        same = (span.minimum == span.last) & (span.maximum == span.last)
        flat = bool((same if present is None else same | ~present).all())
        writer.metric(metric, writer.time(last_us, last_us, present), 4, 0 if flat else 8)
        writer.columns.append(span.last.astype("<f4"))
        if not flat:
            writer.columns += [span.minimum.astype("<f4"), span.maximum.astype("<f4")]
    return writer.text()


def _present(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    return None if mask.all() else mask


def _width(largest: int, least: int) -> int:
    """The narrowest width that is not so narrow that layouts change from minute to minute."""
    return next(
        width
        for width in (least, 4, 8)
        if (largest < 1 << 8 * width if width else largest == 0) or width == 8
    )


def holds_words() -> list[str]:
    """The fields that say which counters a part has, for today's catalogue."""
    return list(dict.fromkeys(word_and_bit(metric)[0] for metric in CATALOGUE.counters))


def word_and_bit(metric: Metric) -> tuple[str, int]:
    """The field that says whether a part has the counter, and its bit there."""
    word, bit = divmod(metric.number, 62)
    return f"holds{word}", bit


def holds(parts: MinuteParts) -> dict[str, NDArray[np.uint64]]:
    """Which counters each part has, as words of bits by field."""
    words = {word: np.zeros(len(parts), np.uint64) for word in holds_words()}
    for name, span in parts.counters.items():
        word, bit = word_and_bit(CATALOGUE.by_name[name])
        words[word] |= (span.first != _ABSENT).astype(np.uint64) << np.uint64(bit)
    return words
