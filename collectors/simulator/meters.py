"""Counters of G GPUs: the device's, and those that an agent integrates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from collectors.simulator.effects import Effects
from collectors.simulator.hardware import F64, I64, Bool, Hardware
from collectors.simulator.state import Now, Truth

ACTIVE_UTILIZATION, ACTIVE_SM = 0.05, 0.01
ESTIMATE_K = 0.35
"""FLOP by utilisation and clock where nothing measures tensor activity: an estimate."""
_LINK_BYTES_S, _PCIE_BYTES_S = 450e9, 4e9
_ECC_PER_US = 1.6e-12
"""About one corrected error per GPU and week."""


class Meters:
    """Cumulative integers (FLOP as floats, in GFLOP); `own` counters begin with a run."""

    def __init__(self, hardware: Hardware, seed: int) -> None:
        self._hw = hardware
        self._rng = rng = np.random.default_rng([seed, 4])
        g = len(hardware.gpm)
        self.observed_us, self.down_us = np.zeros(g, np.int64), np.zeros(g, np.int64)
        self.active_us, self.measured_us = np.zeros(g, np.int64), np.zeros(g, np.int64)
        self.gflop, self.estimated = np.zeros(g), np.zeros(g)
        # The counters of a driver have run for up to a month when the agent starts.
        self.energy_mj = rng.integers(10**9, 10**12, g)
        self._energy_rest_nj = np.zeros(g, np.int64)
        self.power_cap_us = rng.integers(0, 10**10, g)
        self.sw_thermal_us = np.where(hardware.hot, rng.integers(0, 10**9, g), 0)
        self.hw_thermal_us = np.zeros(g, np.int64)
        self.brake_us = np.zeros(g, np.int64)
        self.ecc_corrected = rng.poisson(0.2, g)
        self.ecc_uncorrected = np.zeros(g, np.int64)
        self.pcie_replay = rng.poisson(0.5, g)
        self.remap_failed = np.zeros(g, np.bool_)
        self.link_bytes, self.pcie_bytes = rng.integers(0, 10**14, g), rng.integers(0, 10**13, g)
        self.measured = np.zeros(g, np.float32)
        """The tensor activity that the measurement shows."""

    def restart_agent(self, gpus: NDArray[np.intp]) -> None:
        """A new run: the agent's own counters begin at zero."""
        for counter in (self.observed_us, self.down_us, self.active_us, self.measured_us):
            counter[gpus] = 0
        self.gflop[gpus], self.estimated[gpus] = 0.0, 0.0

    def reload_driver(self, gpus: NDArray[np.intp]) -> None:
        """A new energy epoch: the device's volatile counters begin at zero."""
        for counter in (
            self.energy_mj, self._energy_rest_nj, self.power_cap_us, self.sw_thermal_us,
            self.hw_thermal_us, self.brake_us, self.ecc_corrected, self.ecc_uncorrected,
            self.pcie_replay, self.link_bytes, self.pcie_bytes,
        ):  # fmt: skip
            counter[gpus] = 0

    def wrap_energy(self, gpus: NDArray[np.intp], below: int) -> None:
        """The energy counter falls to less than `below` without a new epoch."""
        self.energy_mj[gpus] %= below

    def step(self, now: Now, dt_us: I64, stopped: Bool, away: Bool, effects: Effects) -> Truth:
        """Adds a tick; returns what really happened in it."""
        hw = self._hw
        truly_active = (now.activity.utilization >= ACTIVE_UTILIZATION) & ~stopped
        works = hw.flop_per_mhz_us * now.clock_mhz * 1e-9 * dt_us
        done = np.where(stopped, 0.0, now.activity.tensor * works)
        energy_mj = now.power_w * dt_us / 1000
        throttled = now.slowed | now.hardware_slowed | now.brake
        self._own(now, dt_us, away, works)
        self._device(now, dt_us)
        self._errors(dt_us, effects)
        return Truth(
            done, energy_mj, np.where(truly_active, dt_us, 0), np.where(now.unreadable, dt_us, 0),
            np.where(throttled & ~stopped, dt_us, 0),
            np.where(hw.counted & ~stopped, self.measured * works, 0.0),
        )  # fmt: skip

    def _own(self, now: Now, dt_us: I64, away: Bool, works: F64) -> None:
        hw = self._hw
        readable = ~now.unreadable & ~away
        readable_us = np.where(readable, dt_us, 0)
        self.observed_us += readable_us
        self.down_us += np.where(now.unreadable & ~away, dt_us, 0)
        active = (now.activity.utilization >= ACTIVE_UTILIZATION) & readable
        self.active_us += np.where(active, dt_us, 0)
        self.measured = np.minimum(now.activity.tensor * hw.gain, 1.0).astype(np.float32)
        measured = np.where(readable, works, 0.0)
        self.gflop += self.measured.astype(np.float64) * measured
        self.measured_us += np.where(hw.counted, readable_us, 0)
        self.estimated += np.where(
            hw.counted, 0.0, now.activity.utilization * ESTIMATE_K * measured
        )

    def _device(self, now: Now, dt_us: I64) -> None:
        self._energy_rest_nj += np.rint(now.power_w * 1000).astype(np.int64) * dt_us
        whole = self._energy_rest_nj // 1_000_000
        self.energy_mj += whole
        self._energy_rest_nj -= whole * 1_000_000
        self.power_cap_us += np.where(now.capped, dt_us, 0)
        self.sw_thermal_us += np.where(now.slowed, dt_us, 0)
        self.hw_thermal_us += np.where(now.hardware_slowed, dt_us, 0)
        self.brake_us += np.where(now.brake, dt_us, 0)
        seconds = dt_us * 1e-6
        self.link_bytes += (now.activity.link * _LINK_BYTES_S * seconds).astype(np.int64)
        self.pcie_bytes += (now.activity.dram * _PCIE_BYTES_S * seconds).astype(np.int64)

    def _errors(self, dt_us: I64, effects: Effects) -> None:
        events = int(self._rng.poisson(_ECC_PER_US * float(dt_us.sum())))
        if events:
            self.ecc_corrected[self._rng.integers(0, len(dt_us), events)] += 1
        if effects.any:
            self.ecc_corrected += self._rng.poisson(effects.ecc_per_s * (dt_us / 1e6))
            self.remap_failed |= effects.remap_failed
