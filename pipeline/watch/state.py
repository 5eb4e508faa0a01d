"""What each GPU said lately, as arrays over layout positions.

Rates are differences of counters over the last few records of one run, so a
lost record costs nothing and a restart costs one window.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.identity import unpack_slot
from pipeline.decode.batch import Group
from pipeline.decode.slots import SlotTable
from pipeline.watch.layout import FleetLayout

DEPTH = 6
"""Records kept per GPU: rates are over the last DEPTH − 1 ticks."""
_MOST_UNKNOWN = 10_000
_SILENT_US = 5_000_000
RATES = (
    "gflop", "gflop_lo", "gflop_hi", "gflop_estimated", "active_us", "observed_us", "down_us",
    "throttle_power_cap_us", "throttle_sw_thermal_us", "throttle_hw_thermal_us",
    "throttle_power_brake_us", "gflop_measured_us",
)  # fmt: skip
GAUGES = ("power_w", "gpu_temperature_c", "thermal_margin_c", "gpu_utilization", "sm_activity")

F64 = NDArray[np.float64]


class FleetState:
    """State of N positions; records of GPUs that the inventory lacks are counted and passed over.

    MIG instances are passed over without a word: their GPU says all that is summed.
    """

    def __init__(self, layout: FleetLayout, table: SlotTable) -> None:
        n = len(layout.places)
        self.layout = layout
        self._table = table
        self._positions = np.zeros(0, np.int64)
        self._time_us = np.zeros((DEPTH, n), np.int64)
        self._values = np.full((DEPTH, n, len(RATES)), COUNTER_ABSENT, np.uint64)
        self._count = np.zeros(n, np.int64)
        self._run = np.zeros(n, np.uint64)
        self.newest_us = np.zeros(n, np.int64)
        self.bus_us = np.zeros(n, np.int64)
        self.origin = np.zeros(n, np.uint8)
        self.gauges = {name: np.full(n, np.nan, np.float32) for name in GAUGES}
        self.unknown: set[tuple[str, int]] = set()

    def update(self, group: Group, bus_us: NDArray[np.int64]) -> None:
        """Takes valid records in, cut to GAUGES and RATES; `bus_us` is int64[n]."""
        self._extend()
        for rows in _rounds(group):
            part = group if len(rows) == len(group) else group.take(rows)
            self._round(part, bus_us[rows])

    def _extend(self) -> None:
        """Positions of GPUs that were not met before; −1 where the inventory has none."""
        known, total = len(self._positions), self._table.gpus
        if known == total:
            return
        node, slot = self._table.arrays()
        more: list[int] = []
        for gpu in range(known, total):
            place = (self._table.nodes[int(node[gpu])], int(slot[gpu]))
            at = self.layout.position.get(place, -1)
            whole = unpack_slot(place[1]).gi < 0
            if at < 0 and whole and len(self.unknown) < _MOST_UNKNOWN:
                self.unknown.add(place)
            more.append(at)
        self._positions = np.concatenate([self._positions, np.array(more, np.int64)])

    def _round(self, group: Group, bus_us: NDArray[np.int64]) -> None:
        at = self._positions[group.gpu].reshape(-1)
        time_us = np.repeat(group.time_us, group.slots)
        run = np.repeat(group.run, group.slots)
        bus = np.repeat(bus_us, group.slots)
        # A late or repeated record says nothing of now; history has it.  Only where the run that is
        # shown has fallen silent does another begin that is older by its clock: one set back.
        newer = (time_us > self.newest_us[at]) | (run > self._run[at])
        newer |= (run != self._run[at]) & (bus - self.bus_us[at] > _SILENT_US)
        newer &= at >= 0
        keep = slice(None) if newer.all() else newer
        at, time_us, run, bus = at[keep], time_us[keep], run[keep], bus[keep]
        count = np.where(run == self._run[at], self._count[at], 0)
        ring = count % DEPTH
        self._time_us[ring, at] = time_us
        counters = group.counters.reshape(len(RATES), -1)[:, keep]
        self._values[ring, at] = counters.T
        self._count[at] = count + 1
        self._run[at] = run
        self.newest_us[at] = time_us
        self.bus_us[at] = bus
        self.origin[at] = np.repeat(group.origin, group.slots)[keep]
        for name, column in zip(GAUGES, group.gauges, strict=True):
            self.gauges[name][at] = column.reshape(-1)[keep]

    def gap_us(self, positions: NDArray[np.intp]) -> F64:
        """Mean time between the last few records of GPUs; NaN where there is one alone."""
        count = self._count[positions]
        newest = (count - 1) % DEPTH
        oldest = np.where(count >= DEPTH, count % DEPTH, 0)
        span_us = self._time_us[newest, positions] - self._time_us[oldest, positions]
        gaps = (np.minimum(count, DEPTH) - 1).astype(np.float64)
        gaps[gaps <= 0] = np.nan
        return span_us / gaps

    def usual_gap_us(self, among: NDArray[np.bool_]) -> float | None:
        """The shortest of the gaps of some GPUs: how long nothing new may come without anything
        being wrong; None where none has sent twice."""
        gaps = self.gap_us(np.flatnonzero(among))
        known = gaps[~np.isnan(gaps)]
        return float(known.min()) if known.size else None

    def rates(self) -> dict[str, F64]:
        """Increase of each of RATES per µs of event time, over the window; NaN where unknown."""
        n = np.arange(len(self._count))
        newest = (self._count - 1) % DEPTH
        oldest = np.where(self._count >= DEPTH, self._count % DEPTH, 0)
        elapsed_us = (self._time_us[newest, n] - self._time_us[oldest, n]).astype(np.float64)
        elapsed_us[(self._count < 2) | (elapsed_us <= 0)] = np.nan
        last, first = self._values[newest, n], self._values[oldest, n]
        rise = (last - first).astype(np.float64)
        rise[(last == COUNTER_ABSENT) | (first == COUNTER_ABSENT) | (last < first)] = np.nan
        rise /= elapsed_us[:, None]
        return dict(zip(RATES, np.ascontiguousarray(rise.T), strict=True))


def _rounds(group: Group) -> Iterator[NDArray[np.intp]]:
    """Rows such that each round has a place once, in order of time; only the last DEPTH rounds.

    What a backlog held before that cannot matter to what is delivered now.
    """
    order = np.lexsort((group.time_us, group.place))
    place = group.place[order]
    starts = np.flatnonzero(np.r_[True, place[1:] != place[:-1]])
    if len(starts) == len(place):
        yield order
        return
    sizes = np.diff(np.r_[starts, len(place)])
    from_end = np.repeat(starts + sizes, sizes) - np.arange(len(place)) - 1
    for turn in range(min(DEPTH, int(sizes.max())) - 1, -1, -1):
        yield order[from_end == turn]
