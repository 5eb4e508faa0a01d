"""Series of a node's GPUs out of stored samples and minutes: pure work on columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind, Reset
from collectors.contract.identity import slot_text
from collectors.contract.record import Origin
from pipeline.api.problems import ProblemError, unknown
from pipeline.api.ranges import MAX_POINTS, MINUTE_US, Range
from pipeline.series.port import F32, I64, U64, CounterSpan, GaugeSpan, MinuteParts, RawSamples

DERIVED = {"pflops": "gflop"}
"""Metrics that are the rate of a counter: PFLOP/s out of `gflop`."""
_RATES = {"µs": ("ratio", 1e-6), "mJ": ("W", 1e-3), "GFLOP": ("TFLOP/s", 1e-3)}
_GAP_US = 5 * MINUTE_US
"""Counters are not joined over a longer silence: its mean would pass for a reading."""
_ABSENT = np.uint64(COUNTER_ABSENT)
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The metrics asked for, and the catalogue rows that must be read for them."""

    names: tuple[str, ...]
    gauges: tuple[str, ...]
    counters: tuple[str, ...]


def wanted(names: Sequence[str], *, derived: bool) -> Wanted:
    """Sorts out what was asked for.  Raises ProblemError (422) for what is unknown.

    `derived` allows the metrics that are computed.
    """
    known = [*CATALOGUE.by_name, *(DERIVED if derived else ())]
    for name in names:
        if name not in known:
            if name in DERIVED:
                raise ProblemError(
                    422,
                    f"{name} is computed, not stored: write {DERIVED[name]}, or resolution=auto.",
                )
            raise unknown("metric", name, known, 422)
    unique = tuple(dict.fromkeys(names))
    stored = dict.fromkeys(DERIVED.get(name, name) for name in unique)
    rows = [CATALOGUE.by_name[name] for name in stored]
    return Wanted(
        unique,
        tuple(metric.name for metric in rows if metric.kind is Kind.GAUGE),
        tuple(metric.name for metric in rows if metric.kind is Kind.COUNTER),
    )


def _series(slot: int, origin: int, name: str, **columns: Any) -> dict[str, Any]:
    unit = "PFLOP/s" if name in DERIVED else CATALOGUE.by_name[name].unit
    head = {"slot": slot_text(slot), "metric": name, "unit": unit}
    return {**head, "origin": Origin(origin).name.lower(), **columns}


def _groups(slot: U64, origin: NDArray[np.uint8]) -> list[tuple[int, int, NDArray[np.intp]]]:
    """(slot, origin, rows) of each pair; rows keep their order."""
    found: list[tuple[int, int, NDArray[np.intp]]] = []
    for one in np.unique(slot).tolist():
        for which in np.unique(origin[slot == np.uint64(one)]).tolist():
            rows = np.flatnonzero((slot == np.uint64(one)) & (origin == np.uint8(which)))
            found.append((one, which, rows))
    return found


def raw_series(samples: RawSamples, want: Wanted, *, exact: bool) -> list[dict[str, Any]]:
    """One series per (slot, origin, metric) that has a value.

    `exact` gives each stored value as it is.  Else counters have `rate`
    beside them, and more than 1,500 points are thinned such that gauges keep
    each stretch's lowest and highest (`thinned` is then true).
    """
    found: list[dict[str, Any]] = []
    for slot, origin, rows in _groups(samples.slot, samples.origin):
        time_us = samples.time_us[rows]
        for name in want.names:
            column = samples.values.get(DERIVED.get(name, name))
            if column is not None:
                columns = _raw_columns(name, time_us, column[rows], exact=exact)
                if len(columns["time_us"]):
                    found.append(_series(slot, origin, name, **columns))
    return found


def _raw_columns(name: str, time_us: I64, column: Any, *, exact: bool) -> dict[str, Any]:
    raw = _raw_gauge if column.dtype == np.float32 else _raw_counter
    return raw(name, time_us, column, exact=exact)


def _raw_gauge(_: str, time_us: I64, column: F32, *, exact: bool) -> dict[str, Any]:
    kept = ~np.isnan(column)
    time_us, values = time_us[kept], column[kept]
    if exact or len(values) <= MAX_POINTS:
        return {"time_us": time_us, "value": values}
    chosen = _extremes(values)
    return {"time_us": time_us[chosen], "value": values[chosen], "thinned": True}


def _raw_counter(name: str, time_us: I64, column: U64, *, exact: bool) -> dict[str, Any]:
    kept = column != _ABSENT
    time_us, values = time_us[kept], column[kept]
    if exact:
        return {"time_us": time_us, "value": values}
    thinned = len(values) > MAX_POINTS
    if thinned:
        chosen = np.linspace(0, len(values) - 1, MAX_POINTS).astype(np.intp)
        time_us, values = time_us[chosen], values[chosen]
    rate = np.full(len(values), np.nan)
    if len(values) > 1:
        fell = values[1:] < values[:-1]
        steps = np.diff(time_us)
        deltas = (values[1:] - values[:-1]).astype(np.float64)
        usable = ~fell & (steps > 0) & (steps <= _GAP_US)
        rate[1:][usable] = deltas[usable] / (steps[usable] / 1e6)
    return _counter_columns(name, time_us, values, rate) | ({"thinned": True} if thinned else {})


def _counter_columns(name: str, time_us: I64, values: U64, rate: F64) -> dict[str, Any]:
    if name in DERIVED:
        usable = ~np.isnan(rate)
        return {"time_us": time_us[usable], "value": rate[usable] * 1e-6}
    unit = CATALOGUE.by_name[name].unit
    rate_unit, scale = _RATES.get(unit, (f"{unit}/s".lstrip("/") if unit else "1/s", 1.0))
    return {"time_us": time_us, "value": values, "rate": rate * scale, "rate_unit": rate_unit}


def _extremes(values: F32) -> NDArray[np.intp]:
    """Indices of the lowest and highest of each of MAX_POINTS / 2 stretches."""
    edges = np.linspace(0, len(values), MAX_POINTS // 2 + 1).astype(np.intp)
    stretches = list(pairwise(edges.tolist()))
    lowest = [a + int(np.argmin(values[a:b])) for a, b in stretches]
    highest = [a + int(np.argmax(values[a:b])) for a, b in stretches]
    return np.unique(np.array([*lowest, *highest], np.intp))


def minute_series(parts: MinuteParts, want: Wanted, span: Range) -> list[dict[str, Any]]:
    """One series per (slot, origin, metric), a point per step of minutes that has a value.

    `parts` are merged over writers.  Gauges have `value` (the last), `min` and
    `max`; counters `value` (the last, exact) and `rate` (from kept point to
    kept point, so that nothing between minutes is lost).  `time_us` is when
    the step begins.
    """
    found: list[dict[str, Any]] = []
    step = (parts.minute - span.from_minute) // span.step
    for slot, origin, rows in _groups(parts.slot, parts.origin):
        for name in want.names:
            stored = DERIVED.get(name, name)
            if stored in parts.gauges:
                columns = _gauge_steps(parts.gauges[stored], rows, step[rows], span)
            elif stored in parts.counters:
                columns = _counter_steps(parts, stored, rows, step[rows], span, name)
            else:
                continue
            if len(columns["time_us"]):
                found.append(_series(slot, origin, name, **columns))
    return found


def _starts(steps: I64, span: Range) -> I64:
    return (span.from_minute + steps * span.step) * MINUTE_US


def _gauge_steps(
    gauge: GaugeSpan, rows: NDArray[np.intp], step: I64, span: Range
) -> dict[str, Any]:
    kept = ~np.isnan(gauge.last[rows])
    rows, step = rows[kept], step[kept]
    order = np.lexsort((gauge.last[rows], gauge.last_us[rows], step))
    rows, step = rows[order], step[order]
    steps, heads = np.unique(step, return_index=True)
    if not len(steps):
        return {"time_us": steps}
    ends = np.append(heads[1:], len(step)) - 1
    return {
        "time_us": _starts(steps, span),
        "value": gauge.last[rows][ends],
        "min": np.fmin.reduceat(gauge.minimum[rows], heads),
        "max": np.fmax.reduceat(gauge.maximum[rows], heads),
    }


def _counter_steps(
    parts: MinuteParts, stored: str, rows: NDArray[np.intp], step: I64, span: Range, name: str
) -> dict[str, Any]:
    counter = parts.counters[stored]
    kept = counter.last[rows] != _ABSENT
    rows, step = rows[kept], step[kept]
    order = np.lexsort((counter.last[rows], counter.last_us[rows], step))
    rows, step = rows[order], step[order]
    steps, heads = np.unique(step, return_index=True)
    if not len(steps):
        return {"time_us": steps}
    ends = np.append(heads[1:], len(step)) - 1
    rate = _rates(counter, _continuity(parts, stored)[rows], rows, step, steps)
    return _counter_columns(name, _starts(steps, span), counter.last[rows][ends], rate)


def _continuity(parts: MinuteParts, stored: str) -> U64:
    """What must be equal for two points to be of one count."""
    if CATALOGUE.by_name[stored].reset is Reset.ENERGY:
        return parts.energy_epoch
    return parts.run


def _rates(counter: CounterSpan, epoch: U64, rows: NDArray[np.intp], step: I64, steps: I64) -> F64:
    """Per step the rise over the time it took, per second; NaN where there is neither."""
    time_us = np.concatenate([counter.first_us[rows], counter.last_us[rows]])
    values = np.concatenate([counter.first[rows], counter.last[rows]])
    epochs, at = np.concatenate([epoch, epoch]), np.concatenate([step, step])
    order = np.lexsort((values, time_us, epochs))
    time_us, values, epochs, at = time_us[order], values[order], epochs[order], at[order]
    took = np.diff(time_us)
    usable = (epochs[1:] == epochs[:-1]) & (values[1:] >= values[:-1]) & (took > 0)
    usable &= took <= _GAP_US
    rise = (values[1:] - values[:-1])[usable].astype(np.float64)
    bins = np.searchsorted(steps, at[1:][usable])
    seconds = np.bincount(bins, took[usable] / 1e6, len(steps))
    rises = np.bincount(bins, rise, len(steps))
    return np.divide(rises, seconds, out=np.full(len(steps), np.nan), where=seconds > 0)
