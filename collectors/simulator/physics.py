"""From activity to clocks, power, heat and counters: what a driver would report, as columns of G.

Power and clock are constant over the tick that ends at a record's event time,
so the counters are exact integrals of the gauges beside them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.simulator.hardware import F64, I64, Bool, Hardware
from collectors.simulator.load import Activity

F32 = NDArray[np.float32]
U64 = NDArray[np.uint64]
Column = F32 | U64

_CLOCK_STEP_MHZ = 15.0
_CLOCK_EXPONENT = 2.4
"""Dynamic power goes with f·V², and V nearly with f."""
_SLOW_S = 60.0
_SLOWDOWN_MARGIN_C, _RECOVERED_MARGIN_C = 1.0, 4.0
ACTIVE_UTILIZATION, ACTIVE_SM = 0.05, 0.01
ESTIMATE_K = 0.35
"""FLOP by utilisation and clock where nothing measures tensor activity: an estimate."""
_ABSENT = np.uint64(COUNTER_ABSENT)


class Truth(NamedTuple):
    """What really happened in a tick, as columns of G: FLOP in GFLOP, energy in mJ, active µs."""

    gflop: F64
    energy_mj: F64
    active_us: I64


class Physics:
    """State of G GPUs, stepped tick by tick.

    `columns` holds what a record would carry, by catalogue name: `float32`
    gauges (NaN absent) and `uint64` counters (`COUNTER_ABSENT` absent).
    `slowed` marks GPUs whose clocks heat holds down.  `fixed` names those that never change after the first step, `renewed` the others.
    """

    fixed = frozenset(
        ("power_limit_w", "memory_clock_mhz", "memory_total_bytes", "performance_state",
         "recovery_action", "row_remap_pending", "row_remap_failure", "throttle_power_brake_us",
         "throttle_sync_boost_us", "pcie_replay", "ecc_uncorrected")
    )  # fmt: skip

    renewed = frozenset(
        ("power_w", "power_average_w", "gpu_temperature_c", "memory_temperature_c",
         "thermal_margin_c", "sm_clock_mhz", "gpu_utilization", "memory_utilization",
         "memory_used_bytes", "sm_activity", "tensor_activity", "dram_activity", "energy_mj",
         "gflop", "gflop_lo", "gflop_hi", "gflop_estimated", "active_us", "observed_us", "down_us",
         "throttle_power_cap_us", "throttle_sw_thermal_us", "throttle_hw_thermal_us",
         "ecc_corrected")
    )  # fmt: skip

    def __init__(self, hardware: Hardware, seed: int, first: Activity) -> None:
        self._hw = hardware
        self._rng = np.random.default_rng([seed, 4])
        g = len(hardware.gpm)
        self._readable_us = np.zeros(g, np.int64)
        self._active_us = np.zeros(g, np.int64)
        self._down_us = np.zeros(g, np.int64)
        self._gflop = np.zeros(g)
        self._estimated = np.zeros(g)
        # The counters of a driver have run for up to a month when the agent starts.
        self._energy_mj = self._rng.integers(10**9, 10**12, g)
        self._energy_rest_nj = np.zeros(g, np.int64)
        self._power_cap_us = self._rng.integers(0, 10**10, g)
        self._sw_thermal_us = np.where(hardware.hot, self._rng.integers(0, 10**9, g), 0)
        self._hw_thermal_us = np.zeros(g, np.int64)
        self._ecc_corrected = self._rng.poisson(0.2, g)
        self.slowed = np.zeros(g, np.bool_)
        self._clock, self._capped, self._power_w = self._electric(first)
        self._fast_k = hardware.fast_k_per_w * self._power_w
        self._slow_k = hardware.slow_k_per_w * self._power_w
        self._average_w = self._power_w.copy()
        self.columns: dict[str, Column] = {}
        self._fixed_columns()

    def _fixed_columns(self) -> None:
        hw, g = self._hw, len(self._hw.gpm)
        for name in (
            "performance_state",
            "recovery_action",
            "row_remap_pending",
            "row_remap_failure",
        ):
            self._gauge(name, np.zeros(g))
        self._gauge("power_limit_w", hw.limit_w)
        self._gauge("memory_clock_mhz", hw.memory_clock_mhz)
        self._gauge("memory_total_bytes", hw.memory_bytes)
        for name in ("throttle_power_brake_us", "throttle_sync_boost_us", "ecc_uncorrected"):
            self._counter(name, np.zeros(g, np.int64), lost=True)
        self._counter("pcie_replay", self._rng.poisson(0.5, g), lost=True)

    def _gauge(self, name: str, values: F64 | F32, present: Bool | None = None) -> None:
        column = values.astype(np.float32)
        column[self._hw.down] = np.nan
        if present is not None:
            column[~present] = np.nan
        self.columns[name] = column

    def _counter(
        self, name: str, values: I64, *, lost: bool = False, present: Bool | None = None
    ) -> None:
        """`lost` marks counters that only a GPU on the bus can give."""
        column = values.astype(np.uint64)
        if lost:
            column[self._hw.down] = _ABSENT
        if present is not None:
            column[~present] = _ABSENT
        self.columns[name] = column

    def _electric(self, activity: Activity) -> tuple[F64, Bool, F64]:
        """Clock in MHz, whether the cap holds it down, and power in W to the mW."""
        hw = self._hw
        share = activity.sm * 0.28
        share += activity.tensor * 1.02
        share += activity.dram * 0.25
        dynamic = hw.dynamic_w * share
        base = np.where(activity.loaded, hw.ready_w, hw.sleep_w)
        room = hw.limit_w - base
        capped = dynamic > room
        ratio = np.ones(len(base))
        ratio[capped] = (room[capped] / dynamic[capped]) ** (1 / _CLOCK_EXPONENT)
        ratio[self.slowed] *= 0.8
        clock = np.floor(hw.max_clock_mhz * ratio / _CLOCK_STEP_MHZ) * _CLOCK_STEP_MHZ
        slower = clock != hw.max_clock_mhz
        dynamic[slower] *= (clock[slower] / hw.max_clock_mhz[slower]) ** _CLOCK_EXPONENT
        clock = np.where(activity.loaded, clock, hw.sleep_clock_mhz)
        power = np.round((base + dynamic) * 1000) / 1000
        return clock, capped, power

    def _heat(self, dt_s: F64) -> tuple[F64, F64]:
        """Core temperature and margin in °C, by two first-order lags driven by power."""
        hw, power = self._hw, self._power_w
        self._fast_k += (hw.fast_k_per_w * power - self._fast_k) * -np.expm1(-dt_s / hw.fast_s)
        self._slow_k += (hw.slow_k_per_w * power - self._slow_k) * -np.expm1(-dt_s / _SLOW_S)
        core = hw.inlet_c + self._fast_k + self._slow_k
        return core, hw.limit_c - core

    def step(self, activity: Activity, memory: F64, dt_us: I64) -> Truth:
        """Goes on by `dt_us` per GPU (0 in a run's first record) and renews `columns`."""
        dt_s = dt_us / 1e6
        self._clock, self._capped, self._power_w = self._electric(activity)
        core, margin = self._heat(dt_s)
        slowed = self.slowed
        self.slowed = (margin < _SLOWDOWN_MARGIN_C) | (slowed & (margin < _RECOVERED_MARGIN_C))
        measured = np.minimum(activity.tensor * self._hw.gain, 1.0).astype(np.float32)
        active = self._integrate(activity, measured, slowed, margin, dt_us)
        self._report(activity, measured, core, margin, memory, dt_s)
        works = self._hw.flop_per_mhz_us * self._clock * 1e-9 * dt_us
        truth = np.where(self._hw.down, 0.0, activity.tensor * works)
        return Truth(truth, self._power_w * dt_us / 1000, np.where(active, dt_us, 0))

    def _integrate(
        self, activity: Activity, measured: F32, slowed: Bool, margin: F64, dt_us: I64
    ) -> Bool:
        hw, down = self._hw, self._hw.down
        active = (activity.utilization >= ACTIVE_UTILIZATION) & ~down
        readable_us = np.where(down, 0, dt_us)
        self._readable_us += readable_us
        self._down_us += dt_us - readable_us
        self._active_us += np.where(active, dt_us, 0)
        works = hw.flop_per_mhz_us * self._clock * 1e-9 * readable_us
        self._gflop += measured.astype(np.float64) * works
        self._estimated += np.where(hw.counted, 0.0, activity.utilization * ESTIMATE_K * works)
        self._energy_rest_nj += np.rint(self._power_w * 1000).astype(np.int64) * dt_us
        whole = self._energy_rest_nj // 1_000_000
        self._energy_mj += whole
        self._energy_rest_nj -= whole * 1_000_000
        self._power_cap_us += np.where(self._capped & activity.loaded, dt_us, 0)
        self._sw_thermal_us += np.where(slowed & activity.loaded, dt_us, 0)
        self._hw_thermal_us += np.where(margin < -2.0, dt_us, 0)
        events = int(self._rng.poisson(1.6e-12 * float(dt_us.sum())))
        if events:  # about one corrected error per GPU and week
            self._ecc_corrected[self._rng.integers(0, len(dt_us), events)] += 1
        return active

    def _report(
        self, activity: Activity, measured: F32, core: F64, margin: F64, memory: F64, dt_s: F64
    ) -> None:
        hw = self._hw
        self._average_w += (self._power_w - self._average_w) * np.minimum(dt_s, 1.0)
        self._gauge("power_w", self._power_w)
        self._gauge("power_average_w", self._average_w)
        self._gauge("gpu_temperature_c", np.round(core))
        hotter = core + 3.0 + 8.0 * activity.dram
        self._gauge("memory_temperature_c", np.round(hotter))
        self._gauge("thermal_margin_c", np.floor(margin), hw.gpm)
        self._gauge("sm_clock_mhz", self._clock)
        self._gauge("gpu_utilization", activity.utilization)
        self._gauge("memory_utilization", np.round(activity.dram * 0.9, 2))
        self._gauge("memory_used_bytes", memory * hw.memory_bytes + 0.5e9)
        self._gauge("sm_activity", activity.sm, hw.gpm)
        self._gauge("tensor_activity", measured, hw.counted)
        self._gauge("dram_activity", activity.dram, hw.gpm)
        self._counter("energy_mj", self._energy_mj, lost=True)
        self._counter("observed_us", self._readable_us)
        self._counter("down_us", self._down_us)
        self._counter("active_us", self._active_us)
        self._counter("gflop", self._gflop.astype(np.int64), present=hw.counted)
        low, high = self._gflop * (1 - hw.bound), np.ceil(self._gflop * (1 + hw.bound))
        self._counter("gflop_lo", low.astype(np.int64), present=hw.counted)
        self._counter("gflop_hi", high.astype(np.int64), present=hw.counted)
        self._counter("gflop_estimated", self._estimated.astype(np.int64), present=~hw.counted)
        self._counter("throttle_power_cap_us", self._power_cap_us, lost=True)
        self._counter("throttle_sw_thermal_us", self._sw_thermal_us, lost=True)
        self._counter("throttle_hw_thermal_us", self._hw_thermal_us, lost=True)
        self._counter("ecc_corrected", self._ecc_corrected, lost=True)
