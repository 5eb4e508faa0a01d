"""What the records of G GPUs carry, by catalogue name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.flop import FlopMethod
from collectors.simulator.hardware import F64, I64, Bool, Hardware
from collectors.simulator.meters import Meters
from collectors.simulator.state import Now

F32 = NDArray[np.float32]
U64 = NDArray[np.uint64]
Column = F32 | U64
_ABSENT = np.uint64(COUNTER_ABSENT)
_REASONS = {"capped": 4, "slowed": 0x20, "hardware_slowed": 0x48, "brake": 0x88}
"""Bits of the driver's clock event reasons."""


class Report:
    """`columns`: `float32` gauges (NaN absent) and `uint64` counters (`COUNTER_ABSENT` absent).

    `fixed` names those that never change after the first step, `seldom` those that
    an agent reads every half minute, `renewed` the rest.
    """

    fixed = frozenset(
        ("power_limit_w", "memory_clock_mhz", "memory_total_bytes", "performance_state",
         "recovery_action", "throttle_sync_boost_us", "row_remap_corrected", "flop_method",
         "flop_flags", "pcie_link_generation", "pcie_link_width", "nvlink_errors")
    )  # fmt: skip
    renewed = frozenset(
        ("power_w", "power_average_w", "gpu_temperature_c", "memory_temperature_c",
         "thermal_margin_c", "sm_clock_mhz", "sm_clock_mean_mhz", "gpu_utilization",
         "memory_utilization", "memory_used_bytes", "sm_activity", "tensor_activity",
         "dram_activity", "fp64_activity", "energy_mj", "gflop", "gflop_lo", "gflop_hi",
         "gflop_estimated", "gflop_measured_us", "active_us", "observed_us", "down_us",
         "throttle_power_cap_us", "throttle_sw_thermal_us", "throttle_hw_thermal_us",
         "throttle_power_brake_us", "clocks_event_reasons", "nvlink_tx_bytes", "nvlink_rx_bytes",
         "pcie_tx_bytes", "pcie_rx_bytes", "ecc_corrected", "ecc_uncorrected", "pcie_replay",
         "row_remap_uncorrected", "row_remap_pending", "row_remap_failure")
    )  # fmt: skip

    def __init__(self, hardware: Hardware, seed: int, power_w: F64) -> None:
        self._hw = hardware
        self._average_w = power_w.copy()
        self.columns: dict[str, Column] = {}
        self._unreadable = hardware.down
        rng = np.random.default_rng([seed, 10])
        self._remapped, self._link_errors = (
            rng.poisson(0.02, len(power_w)),
            rng.poisson(0.05, len(power_w)),
        )
        self.fixed_changed = True
        """Whether the last step has renewed the fixed columns too."""
        self._fix()

    def _fix(self) -> None:
        """The columns that change only with which GPUs can be read."""
        hw, g = self._hw, len(self._hw.gpm)
        nothing = np.zeros(g)
        for name in ("performance_state", "recovery_action", "flop_flags"):
            self._gauge(name, nothing)
        self._gauge("power_limit_w", hw.limit_w)
        self._gauge("memory_clock_mhz", hw.memory_clock_mhz)
        self._gauge("memory_total_bytes", hw.memory_bytes)
        self._gauge("pcie_link_generation", np.where(hw.gpm, 5.0, 4.0))
        self._gauge("pcie_link_width", np.full(g, 16.0))
        method = np.where(hw.gpm, FlopMethod.PIPE, FlopMethod.EXPORTER)
        self._gauge("flop_method", np.where(hw.counted, method, FlopMethod.ESTIMATE).astype(float))
        self._counter("throttle_sync_boost_us", np.zeros(g, np.int64), lost=True)
        self._counter("row_remap_corrected", self._remapped, lost=True)
        self._counter("nvlink_errors", self._link_errors, lost=True)

    def _gauge(self, name: str, values: F64 | F32, present: Bool | None = None) -> None:
        column = values.astype(np.float32)
        column[self._unreadable] = np.nan
        if present is not None:
            column[~present] = np.nan
        self.columns[name] = column

    def _counter(
        self, name: str, values: I64, *, lost: bool = False, present: Bool | None = None
    ) -> None:
        """`lost` marks counters that only a GPU that can be read gives."""
        column = values.astype(np.uint64)
        if lost:
            column[self._unreadable] = _ABSENT
        if present is not None:
            column[~present] = _ABSENT
        self.columns[name] = column

    def renew(self, now: Now, meters: Meters, memory: F64, memory_c: F64, dt_s: F64) -> None:
        """Makes the columns of the end of a tick."""
        self.fixed_changed = not np.array_equal(self._unreadable, now.unreadable)
        self._unreadable = now.unreadable
        if self.fixed_changed:
            self._fix()
        self._average_w += (now.power_w - self._average_w) * np.minimum(dt_s, 1.0)
        self._gauges(now, meters, memory, memory_c)
        self._own_counters(meters)
        self._device_counters(meters)

    def _gauges(self, now: Now, meters: Meters, memory: F64, memory_c: F64) -> None:
        hw, activity = self._hw, now.activity
        self._gauge("power_w", now.power_w)
        self._gauge("power_average_w", self._average_w)
        self._gauge("gpu_temperature_c", np.round(now.core_c))
        self._gauge("memory_temperature_c", np.round(memory_c))
        self._gauge("thermal_margin_c", np.floor(now.margin_c), hw.gpm)
        self._gauge("sm_clock_mhz", now.clock_mhz)
        self._gauge("sm_clock_mean_mhz", now.clock_mhz, hw.counted)
        self._gauge("gpu_utilization", activity.utilization)
        self._gauge("memory_utilization", np.round(activity.dram * 0.9, 2))
        self._gauge("memory_used_bytes", memory * hw.memory_bytes + 0.5e9)
        self._gauge("sm_activity", activity.sm, hw.gpm)
        self._gauge("tensor_activity", meters.measured, hw.counted)
        self._gauge("dram_activity", activity.dram, hw.gpm)
        self._gauge("fp64_activity", activity.fp64, hw.gpm)
        reasons = np.zeros(len(hw.gpm))
        for name, bit in _REASONS.items():
            reasons += np.where(getattr(now, name), bit, 0)
        self._gauge("clocks_event_reasons", reasons)
        failed = meters.remap_failed.astype(np.float64)
        self._gauge("row_remap_failure", failed)
        self._gauge("row_remap_pending", failed)

    def _own_counters(self, meters: Meters) -> None:
        hw, done = self._hw, meters.gflop
        self._counter("observed_us", meters.observed_us)
        self._counter("down_us", meters.down_us)
        self._counter("active_us", meters.active_us)
        self._counter("gflop_measured_us", meters.measured_us, present=hw.counted)
        self._counter("gflop", done.astype(np.int64), present=hw.counted)
        self._counter("gflop_lo", (done * (1 - hw.bound)).astype(np.int64), present=hw.counted)
        high = np.ceil(done * (1 + hw.bound)).astype(np.int64)
        self._counter("gflop_hi", high, present=hw.counted)
        self._counter("gflop_estimated", meters.estimated.astype(np.int64), present=~hw.counted)

    def _device_counters(self, meters: Meters) -> None:
        for name, values in (
            ("energy_mj", meters.energy_mj), ("throttle_power_cap_us", meters.power_cap_us),
            ("throttle_sw_thermal_us", meters.sw_thermal_us),
            ("throttle_hw_thermal_us", meters.hw_thermal_us),
            ("throttle_power_brake_us", meters.brake_us),
            ("nvlink_tx_bytes", meters.link_bytes), ("nvlink_rx_bytes", meters.link_bytes),
            ("pcie_tx_bytes", meters.pcie_bytes), ("pcie_rx_bytes", meters.pcie_bytes),
            ("ecc_corrected", meters.ecc_corrected), ("ecc_uncorrected", meters.ecc_uncorrected),
            ("pcie_replay", meters.pcie_replay),
            ("row_remap_uncorrected", meters.remap_failed.astype(np.int64) * 8),
        ):  # fmt: skip
            self._counter(name, values, lost=True)
