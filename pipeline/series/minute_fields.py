"""How a minute part's spans become few integer and float fields, and back.

The server's CPU goes by the field, so a part says what its metrics have in
common once.  Fields of a part:

`t`: first and last time of the part, µs after the minute's start, as
first × 2^26 + last.
`NAME_v0`, `NAME_v1`: a counter's first and last value.  `NAME_min`,
`NAME_max`, `NAME_last`: a gauge's.
`NAME_t`: a metric's own times, in the form of `t` (a gauge has only the
last), where they differ from the part's.
`form0`, `form1`, …: two bits per metric, bit 2·((number − 16) mod 31) of
word (number − 16) // 31: *own times*, and above it *flat*: `_v1`, `_min`
and `_max` equal `_v0` and `_last` and are not written.

A rewritten part always writes `t` and all words, so a field that an earlier
version wrote and this one does not need is there but no longer meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind, Metric
from pipeline.series.columns import absent_counter, absent_gauge
from pipeline.series.digits import Numbers, floats, integers
from pipeline.series.port import I64, U64, CounterSpan, GaugeSpan, MinuteParts

MINUTE_US = 60_000_000
TIME_BITS = 26
_METRICS_A_WORD = 31
_ABSENT = np.uint64(COUNTER_ABSENT)
_ONE = np.uint64(1)


@dataclass(frozen=True, slots=True)
class _Times:
    """Offsets in the minute of the metrics' first and last points, common ones first."""

    first: I64
    last: I64

    def packed(self) -> U64:
        return (self.first << TIME_BITS | self.last).astype(np.uint64)


def word_and_bit(metric: Metric) -> tuple[str, np.uint64]:
    """The metric's word of form bits and the place of its first bit there."""
    word, place = divmod(metric.number - 16, _METRICS_A_WORD)
    return f"form{word}", np.uint64(2 * place)


def form_words() -> list[str]:
    """All words of form bits that today's catalogue needs."""
    return list(dict.fromkeys(word_and_bit(metric)[0] for metric in CATALOGUE))


def check_inside(name: str, offset_us: I64, present: NDArray[np.bool_]) -> I64:
    """The offsets; raises ValueError when one that is present is outside its minute."""
    inside = (offset_us >= 0) & (offset_us < MINUTE_US)
    if not (inside | ~present).all():
        raise ValueError(f"{name}: a part has a point outside its minute")
    return offset_us


def _offsets(parts: MinuteParts) -> tuple[dict[str, _Times], dict[str, NDArray[np.bool_]]]:
    start_us = parts.minute * MINUTE_US
    times: dict[str, _Times] = {}
    present: dict[str, NDArray[np.bool_]] = {}
    for name, counter in parts.counters.items():
        present[name] = counter.first != _ABSENT
        times[name] = _Times(counter.first_us - start_us, counter.last_us - start_us)
    for name, gauge in parts.gauges.items():
        present[name] = ~np.isnan(gauge.last)
        times[name] = _Times(np.zeros_like(start_us), gauge.last_us - start_us)
    for name, mask in present.items():
        check_inside(name, times[name].first, mask)
        check_inside(name, times[name].last, mask)
    return times, present


def _common(parts: MinuteParts, times: Mapping[str, _Times], present: Mapping[str, Any]) -> _Times:
    """The earliest first point of a counter and the latest last point of any metric."""
    first = np.full(len(parts), MINUTE_US, np.int64)
    last = np.zeros(len(parts), np.int64)
    for name, one in times.items():
        mask = present[name]
        last = np.where(mask, np.maximum(last, one.last), last)
        if name in parts.counters:
            first = np.where(mask, np.minimum(first, one.first), first)
    return _Times(np.where(first == MINUTE_US, 0, first), last)


def minute_numbers(parts: MinuteParts) -> list[Numbers]:
    """The fields of the parts' spans; raises ValueError when a point is outside its minute."""
    times, present = _offsets(parts)
    common = _common(parts, times, present)
    words = {word: np.zeros(len(parts), np.uint64) for word in form_words()}
    fields: list[Numbers | None] = []
    for metric in CATALOGUE:
        mask = present.get(metric.name)
        if mask is None or not mask.any():
            continue
        one = times[metric.name]
        own = mask & (one.last != common.last)
        if metric.kind is Kind.COUNTER:
            own |= mask & (one.first != common.first)
            flat = _counter_fields(metric, parts.counters[metric.name], mask, fields)
        else:
            flat = _gauge_fields(metric, parts.gauges[metric.name], mask, fields)
        word, bit = word_and_bit(metric)
        words[word] |= own.astype(np.uint64) << bit | flat.astype(np.uint64) << bit + _ONE
        fields.append(integers(f"{metric.name}_t".encode(), one.packed(), own))
    fields += [integers(word.encode(), bits) for word, bits in words.items()]
    fields.append(integers(b"t", common.packed()))
    return [field for field in fields if field is not None]


def _counter_fields(
    metric: Metric, span: CounterSpan, present: NDArray[np.bool_], fields: list[Numbers | None]
) -> NDArray[np.bool_]:
    flat = present & (span.first == span.last)
    fields.append(integers(f"{metric.name}_v0".encode(), span.first, present))
    fields.append(integers(f"{metric.name}_v1".encode(), span.last, present & ~flat))
    return flat


def _gauge_fields(
    metric: Metric, span: GaugeSpan, present: NDArray[np.bool_], fields: list[Numbers | None]
) -> NDArray[np.bool_]:
    flat = present & (span.minimum == span.last) & (span.maximum == span.last)
    nan = np.float32(np.nan)
    for part, values in (("min", span.minimum), ("max", span.maximum)):
        shown = values if not flat.any() else np.where(flat, nan, values)
        fields.append(floats(f"{metric.name}_{part}".encode(), shown, metric.decimals))
    fields.append(floats(f"{metric.name}_last".encode(), span.last, metric.decimals))
    return flat


def field_names(metric: Metric) -> list[str]:
    """All fields that a part may have of the metric."""
    ends = ("v0", "v1", "t") if metric.kind is Kind.COUNTER else ("min", "max", "last", "t")
    return [f"{metric.name}_{end}" for end in ends]


def _own_times(
    metric: Metric, minute: I64, columns: Mapping[str, NDArray[Any]], form: U64
) -> tuple[I64, I64, NDArray[np.bool_]]:
    bit = word_and_bit(metric)[1]
    own = (form >> bit & _ONE).astype(np.bool_)
    flat = (form >> bit + _ONE & _ONE).astype(np.bool_)
    packed = np.where(own, columns[f"{metric.name}_t"], columns["t"]).astype(np.int64)
    start_us = minute * MINUTE_US
    return start_us + (packed >> TIME_BITS), start_us + (packed & (1 << TIME_BITS) - 1), flat


def read_counter(metric: Metric, minute: I64, columns: Mapping[str, NDArray[Any]]) -> CounterSpan:
    """The span out of columns: unsigned integers with `COUNTER_ABSENT` where there is no field."""
    first = columns[f"{metric.name}_v0"]
    present = first != _ABSENT
    if not present.any():
        return absent_counter(len(minute))
    form = columns[word_and_bit(metric)[0]]
    first_us, last_us, flat = _own_times(
        metric, minute, columns, np.where(form == _ABSENT, 0, form)
    )
    last = np.where(flat, first, columns[f"{metric.name}_v1"])
    return CounterSpan(
        np.where(present, first_us, 0),
        first,
        np.where(present, last_us, 0),
        np.where(present, last, _ABSENT),
    )


def read_gauge(metric: Metric, minute: I64, columns: Mapping[str, NDArray[Any]]) -> GaugeSpan:
    """The span out of columns: 32-bit floats with NaN where there is no field."""
    last = columns[f"{metric.name}_last"]
    present = ~np.isnan(last)
    if not present.any():
        return absent_gauge(len(minute))
    form = columns[word_and_bit(metric)[0]]
    _, last_us, flat = _own_times(metric, minute, columns, np.where(form == _ABSENT, 0, form))
    lowest = np.where(flat, last, columns[f"{metric.name}_min"])
    highest = np.where(flat, last, columns[f"{metric.name}_max"])
    return GaugeSpan(lowest, highest, last, np.where(present, last_us, 0))
