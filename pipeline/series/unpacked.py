"""The texts of `packed` as spans again."""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import COUNTER_ABSENT, Metric
from pipeline.series.columns import absent_counter, absent_gauge
from pipeline.series.packed import HEAD, KINDS, MINUTE_US, VERSION, WIDTHS, Bytes, strided
from pipeline.series.port import I64, CounterSpan, GaugeSpan

_ABSENT = np.uint64(COUNTER_ABSENT)


class UnpackableError(ValueError):
    """A text that this version did not write."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things lie in rows of one layout."""

    times: int
    head_at: int
    metrics: Mapping[int, tuple[int, int, int, int]]
    """By metric number: time column, where the first number is, and both widths."""


def _layout(row: bytes, head: int) -> _Layout:
    count = int.from_bytes(row[2:4], "little")
    start = 4 + 3 * count
    if len(row) < start or row[0] != VERSION:
        raise UnpackableError("a part of another version")
    times = row[1]
    at = start + head + 8 * times
    metrics: dict[int, tuple[int, int, int, int]] = {}
    for index in range(count):
        code = int.from_bytes(row[4 + 3 * index : 7 + 3 * index], "little")
        first, second = WIDTHS[code >> 2 & 3], WIDTHS[code & 3]
        metrics[code >> 12] = (code >> 4 & 0xFF, at, first, second)
        at += first + second
    if len(row) < at:
        raise UnpackableError("a part that was cut off")
    return _Layout(times, start, metrics)


_HEAD_BYTES = sum(np.dtype(kind).itemsize for _, kind in HEAD)


def _matrices(texts: Sequence[str], head: int) -> Iterator[tuple[NDArray[np.intp], Bytes, _Layout]]:
    """Rows that have one layout together: their indices, bytes and layout."""
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    for size in np.unique(sizes).tolist():
        rows = np.flatnonzero(sizes == size)
        if not size:
            continue
        data = binascii.a2b_base64("".join([texts[row] for row in rows.tolist()]))
        matrix = np.frombuffer(data, np.uint8).reshape(len(rows), -1)
        while len(rows):
            end = 4 + 3 * int.from_bytes(matrix[0, 2:4].tobytes(), "little")
            same = (matrix[:, :end] == matrix[0, :end]).all(axis=1)
            one = matrix if same.all() else matrix[same]
            yield rows[same], one, _layout(one[0].tobytes(), head)
            rows, matrix = rows[~same], matrix[~same]


def unpack_counters(
    texts: Sequence[str], minute: I64, metrics: Sequence[Metric]
) -> tuple[dict[str, Any], dict[str, CounterSpan]]:
    """The inverse of `pack_counters`: key columns by name, and the spans asked for.

    Raises UnpackableError for a text of another version.
    """
    total = len(texts)
    keys = {name: np.zeros(total, kind) for name, kind in HEAD}
    spans = {metric.name: absent_counter(total) for metric in metrics}
    for rows, matrix, layout in _matrices(texts, _HEAD_BYTES):
        at = layout.head_at
        for name, kind in HEAD:
            keys[name][rows] = strided(matrix, at, kind)
            at += np.dtype(kind).itemsize
        start_us = minute[rows] * MINUTE_US
        times = [_times(matrix, at + 8 * number, start_us) for number in range(layout.times)]
        for metric in metrics:
            place = layout.metrics.get(metric.number)
            if place is not None:
                _fill_counter(spans[metric.name], rows, matrix, place, times[place[0]])
    return keys, spans


def _times(matrix: Bytes, at: int, start_us: I64) -> tuple[I64, I64]:
    return (
        start_us + strided(matrix, at, "<u4"),
        start_us + strided(matrix, at + 4, "<u4"),
    )


def _fill_counter(
    span: CounterSpan,
    rows: NDArray[np.intp],
    matrix: Bytes,
    place: tuple[int, int, int, int],
    times: tuple[I64, I64],
) -> None:
    _, at, width, gained = place
    first = strided(matrix, at, KINDS[width])
    absent = first == np.iinfo(first.dtype).max
    first = first.astype(np.uint64)
    last = first
    if gained:
        last = first + strided(matrix, at + width, KINDS[gained])
    columns = (times[0], first, times[1], last)
    if absent.any():
        nothing = (0, _ABSENT, 0, _ABSENT)
        columns = tuple(
            np.where(absent, column.dtype.type(none), column)
            for column, none in zip(columns, nothing, strict=True)
        )
    for target, column in zip(
        (span.first_us, span.first, span.last_us, span.last), columns, strict=True
    ):
        target[rows] = column


def unpack_gauges(
    texts: Sequence[str], minute: I64, metrics: Sequence[Metric]
) -> dict[str, GaugeSpan]:
    """The inverse of `pack_gauges` for the gauges asked for; raises UnpackableError likewise."""
    spans = {metric.name: absent_gauge(len(texts)) for metric in metrics}
    for rows, matrix, layout in _matrices(texts, 0):
        start_us = minute[rows] * MINUTE_US
        for metric in metrics:
            place = layout.metrics.get(metric.number)
            if place is None:
                continue
            time, at, _, more = place
            last = strided(matrix, at, "<f4")
            _, last_us = _times(matrix, layout.head_at + 8 * time, start_us)
            span = spans[metric.name]
            span.last[rows] = last
            span.last_us[rows] = np.where(np.isnan(last), 0, last_us)
            span.minimum[rows] = strided(matrix, at + 4, "<f4") if more else last
            span.maximum[rows] = strided(matrix, at + 8, "<f4") if more else last
    return spans
