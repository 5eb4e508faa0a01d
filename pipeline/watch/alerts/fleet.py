"""What all GPUs said, second by second of event time: last values, rates and steps of counters.

Everything here is made anew by reading the last `WARM_S` of the log, so that it
need not be saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.identity import unpack_slot
from pipeline.decode.batch import Group, Wanted
from pipeline.decode.slots import SlotTable
from pipeline.watch.alerts.buffer import Timed, joined
from pipeline.watch.alerts.expressions import NEEDS, REASONS
from pipeline.watch.alerts.rules import Rule, expressions_of
from pipeline.watch.layout import FleetLayout

HOLD_S = 60
"""A value older than this says nothing of now."""
WARM_S = 120
"""Of the log, from which everything here is made; a seldom counter's last two readings fit."""
DEPTH = 6
GAUGES = (
    "power_w", "gpu_temperature_c", "memory_temperature_c", "thermal_margin_c", "sm_clock_mhz",
    "gpu_utilization", "sm_activity", "tensor_activity", "power_limit_w",
)  # fmt: skip
"""What the physics and the evidence need whatever the rules."""
RATES = ("active_us", "observed_us", "down_us", *(f"throttle_{one}_us" for one in REASONS))
_NEVER = -(2**40)

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


def metrics_of(rules: Sequence[Rule]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Gauges, counters as rates and counters as steps that rules look at."""
    gauges, rates, steps = list[str](GAUGES), list[str](RATES), list[str]()
    for one in (one for rule in rules for one in expressions_of(rule)):
        metric = one.metric
        more_gauges, more_rates = NEEDS.get(one.name, ((), ()))
        gauges += more_gauges
        rates += more_rates
        if one.name == "rate":
            rates.append(metric)
        elif one.name == "increase":
            steps.append(metric)
        elif metric and one.name != "throttle_fraction":
            gauges.append(metric)
    return tuple(dict.fromkeys(gauges)), tuple(dict.fromkeys(rates)), tuple(dict.fromkeys(steps))


class Fleet:
    """Columns over the positions of a layout."""

    def __init__(self, layout: FleetLayout, table: SlotTable, rules: Sequence[Rule]) -> None:
        self.layout, self._table = layout, table
        self.gauge_names, self.rate_names, self.step_names = metrics_of(rules)
        n = len(layout.places)
        self._positions = np.zeros(0, np.int64)
        self._value: dict[str, F32] = {x: np.full(n, np.nan, np.float32) for x in self.gauge_names}
        self._value_s: dict[str, I64] = {x: np.full(n, _NEVER, np.int64) for x in self.gauge_names}
        self._time_us = np.zeros((DEPTH, n), np.int64)
        self._ring = np.full((DEPTH, len(self.rate_names), n), COUNTER_ABSENT, np.uint64)
        self._count = np.zeros(n, np.int64)
        self._run = np.zeros(n, np.uint64)
        self._newest_us = np.zeros(n, np.int64)
        self._last = {x: np.full(n, COUNTER_ABSENT, np.uint64) for x in self.step_names}
        self._last_s = {x: np.full(n, _NEVER, np.int64) for x in self.step_names}
        self.steps: dict[str, F32] = {x: np.full(n, np.nan, np.float32) for x in self.step_names}
        self.seen_s: I64 = np.full(n, _NEVER, np.int64)
        """Second of the last sample."""
        self.clock_offset_s: F32 = np.full(n, np.nan, np.float32)
        self.fresh = np.zeros(n, np.bool_)
        self.origin = np.zeros(n, np.uint8)

    def wanted(self) -> Wanted:
        """What to cut out of records, in the order that `absorb` takes."""
        return Wanted.of(self.gauge_names, (*self.rate_names, *self.step_names))

    def absorb(self, timed: Iterable[Timed], time_s: int) -> None:
        """Takes the records of one second in."""
        self.fresh[:] = False
        for column in self.steps.values():
            column[:] = np.nan
        self._extend()
        for group, offset_us in _apart(timed):
            order = np.lexsort((group.sequence, group.run, group.time_us, group.place))
            for rows in _rounds(group.place[order]):
                self._round(group.take(order[rows]), offset_us[order[rows]], time_s)

    def _extend(self) -> None:
        known, total = len(self._positions), self._table.gpus
        if known == total:
            return
        node, slot = self._table.arrays()
        more = [
            self.layout.position.get((self._table.nodes[int(node[gpu])], int(slot[gpu])), -1)
            if unpack_slot(int(slot[gpu])).gi < 0
            else -1
            for gpu in range(known, total)
        ]
        self._positions = np.concatenate([self._positions, np.array(more, np.int64)])

    def _round(self, group: Group, offset_us: I64, time_s: int) -> None:
        at = self._positions[group.gpu].reshape(-1)
        time_us, run = np.repeat(group.time_us, group.slots), np.repeat(group.run, group.slots)
        keep = (at >= 0) & ((time_us > self._newest_us[at]) | (run != self._run[at]))
        rows = slice(None) if keep.all() else np.flatnonzero(keep)
        at, time_us, run = at[rows], time_us[rows], run[rows]
        self._newest_us[at] = time_us
        self.seen_s[at] = time_s
        self.clock_offset_s[at] = np.repeat(offset_us * 1e-6, group.slots)[rows]
        self.fresh[at] = True
        self.origin[at] = np.repeat(group.origin, group.slots)[rows]
        for name, values in zip(self.gauge_names, group.gauges, strict=True):
            self._gauge(name, at, values.reshape(-1)[rows], time_s)
        counters = group.counters.reshape(len(group.counters), -1)[:, rows]
        self._turn(at, run, time_us, counters[: len(self.rate_names)])
        for name, values in zip(self.step_names, counters[len(self.rate_names) :], strict=True):
            self._step(name, at, values, time_s)

    def _gauge(self, name: str, at: I64, values: F32, time_s: int) -> None:
        known = ~np.isnan(values)
        if not known.all():
            at, values = at[known], values[known]
        self._value[name][at] = values
        self._value_s[name][at] = time_s

    def _turn(
        self, at: I64, run: NDArray[np.uint64], time_us: I64, counters: NDArray[np.uint64]
    ) -> None:
        count = np.where(run == self._run[at], self._count[at], 0)
        turn = count % DEPTH
        self._time_us[turn, at] = time_us
        for row, values in enumerate(counters):
            self._ring[turn, row, at] = values
        self._count[at] = count + 1
        self._run[at] = run

    def _step(self, name: str, at: I64, values: NDArray[np.uint64], time_s: int) -> None:
        known = values != COUNTER_ABSENT
        if not known.any():
            return
        at, values = at[known], values[known]
        before = self._last[name][at]
        rose = (before != COUNTER_ABSENT) & (values >= before)
        rose &= time_s - self._last_s[name][at] <= WARM_S - HOLD_S
        self.steps[name][at] = np.where(rose, (values - before).astype(np.float32), 0.0)
        self._last[name][at], self._last_s[name][at] = values, time_s

    def gauges(self, time_s: int) -> Mapping[str, F32]:
        """The last value of each, NaN where it is older than HOLD_S."""
        out: dict[str, F32] = {}
        for name, values in self._value.items():
            old = time_s - self._value_s[name] > HOLD_S
            out[name] = np.where(old, np.float32(np.nan), values) if old.any() else values
        return out

    def rates(self, time_s: int) -> tuple[Mapping[str, F32], F32]:
        """Increase of each per second over the last few samples, and the usual interval, s."""
        n = len(self._count)
        newest, oldest = self._span()
        column = np.arange(n)
        elapsed_us = (self._time_us[newest, column] - self._time_us[oldest, column]).astype(float)
        none = (self._count < 2) | (elapsed_us <= 0) | (elapsed_us > HOLD_S * 1e6)
        none |= time_s - self.seen_s > HOLD_S
        elapsed_us[none] = np.nan
        gaps = (newest - oldest) % DEPTH
        with np.errstate(divide="ignore", invalid="ignore"):
            interval = (elapsed_us * 1e-6 / gaps).astype(np.float32)
        stride = len(self.rate_names) * n
        flat = self._ring.reshape(-1)
        last_at, first_at = newest * stride + column, oldest * stride + column
        out: dict[str, F32] = {}
        for row, name in enumerate(self.rate_names):
            last, first = flat[last_at + row * n], flat[first_at + row * n]
            rise = (last - first).astype(np.float64) * (1e6 / elapsed_us)
            rise[(last == COUNTER_ABSENT) | (first == COUNTER_ABSENT) | (last < first)] = np.nan
            out[name] = rise.astype(np.float32)
        return out, interval

    def _span(self) -> tuple[I64, I64]:
        """Turns of the newest and of the oldest sample, none of them older than HOLD_S before."""
        newest = (self._count - 1) % DEPTH
        oldest = np.where(self._count >= DEPTH, self._count % DEPTH, 0)
        column = np.arange(len(self._count))
        long = self._time_us[newest, column] - self._time_us[oldest, column] > HOLD_S * 1_000_000
        for _ in range(DEPTH - 2):
            if not long.any():
                break
            oldest = np.where(long, (oldest + 1) % DEPTH, oldest)
            age_us = self._time_us[newest, column] - self._time_us[oldest, column]
            long &= age_us > HOLD_S * 1_000_000
        return newest, oldest


def _apart(timed: Iterable[Timed]) -> Iterable[Timed]:
    """Groups by number of slots; where some of them hold records of one place they are joined, so
    that it does not matter which fetch brought which."""
    by_slots: dict[int, list[Timed]] = {}
    for one in timed:
        by_slots.setdefault(one.group.slots, []).append(one)
    for _, some in sorted(by_slots.items()):
        places = np.concatenate([one.group.place for one in some])
        alone = len(some) == 1 or len(np.unique(places)) == len(places)
        yield from some if alone else [joined(some)]


def _rounds(place: NDArray[np.int32]) -> Iterable[NDArray[np.intp]]:
    """Rows such that each round has a place once; `place` is sorted."""
    starts = np.flatnonzero(np.r_[True, place[1:] != place[:-1]])
    if len(starts) == len(place):
        yield np.arange(len(place))
        return
    sizes = np.diff(np.r_[starts, len(place)])
    turn = np.arange(len(place)) - np.repeat(starts, sizes)
    for number in range(int(sizes.max())):
        yield np.flatnonzero(turn == number)
