"""From the state of all GPUs to the figures of one moment: pure, on arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.books.claim_index import MAINTENANCE, UNALLOCATED
from pipeline.watch.layout import FleetLayout
from pipeline.watch.state import FleetState

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

_NO_ORIGIN = 255
_PFLOPS_PER_GFLOP_US = 1.0
"""GFLOP per µs is 10^9 / 10^-6 FLOP/s = PFLOP/s."""
_THROTTLED = ("throttle_sw_thermal_us", "throttle_hw_thermal_us", "throttle_power_brake_us")
_LONGEST_GAPS, _LONGEST_GAP_US = 2.5, 60_000_000
"""Gaps between a GPU's records after which it is silent, and the longest that is taken for usual."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Every GPU at one moment; columns of N, NaN where unknown."""

    reporting: Bools
    down: Bools
    allocated: Bools
    active: Bools
    idle: Bools
    """Known not to be active: a GPU that says nothing of its activity is neither."""
    throttled: Bools
    power_capped: Bools
    measured: Bools
    pflops: F64
    pflops_lo: F64
    pflops_hi: F64
    pflops_estimated: F64
    power_w: F64
    temperature_c: F64
    margin_c: F64
    utilization: F64
    owner: NDArray[np.int32]
    nodes_reporting: Bools
    """By index of node."""
    origin: int
    """The one origin of all that reports; 0 where nothing does."""
    gpus_other_origin: int
    """GPUs that report with another origin, and are in no figure."""


def moment_of(
    state: FleetState,
    owner: NDArray[np.int32],
    now_bus_us: int,
    missing_after_us: int,
    *,
    show_estimates: bool = False,
) -> Moment:
    """The moment at a bus time; silent since `missing_after_us`, or for longer than two of
    the gaps that are usual between its records, is not reporting.

    `owner` is int32[N] of `ClaimIndex` codes.  A GPU that its agent cannot
    read is down, and then not reporting.  Estimates count as delivered only
    when `show_estimates` says so.
    """
    fresh = _fresh(state, now_bus_us, missing_after_us)
    # Origins are never added up: what is most real counts, the rest is told of.
    origin = int(state.origin[fresh].min(initial=_NO_ORIGIN))
    others = fresh & (state.origin != origin)
    fresh &= ~others
    rates = state.rates()
    down = fresh & (rates["down_us"] > 0) & ~(rates["observed_us"] > 0)
    reporting = fresh & ~down
    allocated = (owner != UNALLOCATED) & (owner != MAINTENANCE)
    busy = rates["active_us"] >= 0.5 * rates["observed_us"]
    active = reporting & busy & (rates["active_us"] > 0)
    lost = ~reporting
    flops = _delivered(rates, lost, show_estimates=show_estimates)
    slow = np.nansum([rates[name] for name in _THROTTLED], axis=0)
    nodes = np.zeros(len(state.layout.nodes), bool)
    nodes[state.layout.node[fresh]] = True
    gauges = {name: _without(g.astype(np.float64), lost) for name, g in state.gauges.items()}
    return Moment(
        reporting, down, allocated, active, reporting & ~active & (rates["observed_us"] > 0),
        reporting & (slow > 0.01), reporting & (rates["throttle_power_cap_us"] > 0.1),
        *flops,
        gauges["power_w"], gauges["gpu_temperature_c"], gauges["thermal_margin_c"],
        gauges["gpu_utilization"], owner, nodes, origin % _NO_ORIGIN, int(others.sum()),
    )  # fmt: skip


def _fresh(state: FleetState, now_bus_us: int, missing_after_us: int) -> Bools:
    """What is read through an exporter comes every 15 s, say, and is not silent in between."""
    silent_us = now_bus_us - state.bus_us
    fresh = silent_us < missing_after_us
    late = np.flatnonzero(~fresh & (silent_us < _LONGEST_GAPS * _LONGEST_GAP_US))
    if late.size:
        gap_us = np.minimum(state.gap_us(late), _LONGEST_GAP_US)
        fresh[late] = silent_us[late] < _LONGEST_GAPS * gap_us
    return fresh


def _delivered(
    rates: Mapping[str, F64], lost: Bools, *, show_estimates: bool
) -> tuple[Bools, F64, F64, F64, F64]:
    """What is measured, then PFLOPS with their bounds, then the estimates.

    An estimate that stands in for a measurement is still none.  Where no time
    was measured the counters stand still, and that is no zero.
    """
    unmeasured = lost | (rates["gflop_measured_us"] == 0)
    pflops, low, high = (
        _without(rates[name] * _PFLOPS_PER_GFLOP_US, unmeasured)
        for name in ("gflop", "gflop_lo", "gflop_hi")
    )
    estimated = _without(rates["gflop_estimated"] * _PFLOPS_PER_GFLOP_US, lost)
    measured = ~np.isnan(pflops)
    if show_estimates:
        pflops, low, high = (np.where(measured, x, estimated) for x in (pflops, low, high))
    return measured, pflops, low, high, estimated


def _without(values: F64, lost: Bools) -> F64:
    return np.where(lost, np.nan, values)


def _sum(values: F64) -> float | None:
    """The sum of what is known; None where nothing is."""
    known = ~np.isnan(values)
    return float(values[known].sum()) if known.any() else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def totals(moment: Moment, layout: FleetLayout) -> dict[str, Any]:
    """The fleet's figures as the frame's header has them."""
    m, peak = moment, layout.pflops
    allocated = m.reporting & m.allocated
    active = allocated & m.active
    delivered, power_w = _sum(m.pflops), _sum(m.power_w)
    n = len(peak)
    return {
        "gpus_installed": n,
        "gpus_reporting": int(m.reporting.sum()),
        "gpus_down": int(m.down.sum()),
        "gpus_allocated": int(m.allocated.sum()),
        "gpus_active": int(m.active.sum()),
        "gpus_idle": int(m.idle.sum()),
        "gpus_throttled": int(m.throttled.sum()),
        "gpus_other_origin": m.gpus_other_origin,
        "nodes_installed": len(layout.nodes),
        "nodes_reporting": int(m.nodes_reporting.sum()),
        **_capacity(peak, m.reporting, allocated, active),
        "pflops_delivered": _rounded(delivered, 3),
        "pflops_lo": _rounded(_sum(m.pflops_lo), 3),
        "pflops_hi": _rounded(_sum(m.pflops_hi), 3),
        "pflops_estimated": _rounded(_sum(m.pflops_estimated), 3),
        "coverage": round(float(m.measured.sum()) / n, 4) if n else 0.0,
        "power_kw": _rounded(None if power_w is None else power_w / 1e3, 2),
        "power_coverage": round(float((~np.isnan(m.power_w)).sum()) / n, 4) if n else 0.0,
        "efficiency_gflops_w": _rounded(
            delivered * 1e6 / power_w if delivered is not None and power_w else None, 2
        ),
        "temperature_c": _temperatures(m.temperature_c),
    }


def _capacity(peak: F64, *nested: Bools) -> dict[str, float | None]:
    """Nameplate of all GPUs and of the nested sets; absent where no GPU's is known."""
    names = ("pflops_nameplate", "pflops_reporting", "pflops_allocated", "pflops_active")
    if not peak.any():
        return dict.fromkeys(names)
    sums = [peak.sum(), *(peak[some].sum() for some in nested)]
    return {name: round(float(total), 3) for name, total in zip(names, sums, strict=True)}


def _temperatures(values: F64) -> dict[str, float] | None:
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    median, p99 = np.percentile(known, [50, 99])
    return {
        "max": round(float(known.max()), 1),
        "p99": round(float(p99), 1),
        "median": round(float(median), 1),
    }
