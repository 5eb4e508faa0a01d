"""From activity to clocks, power and heat: what really happens to G GPUs in a tick.

Power and clock are constant over the tick that ends at a record's event time,
so the counters are exact integrals of the gauges beside them.
"""

from __future__ import annotations

import numpy as np

from collectors.simulator.effects import Effects
from collectors.simulator.hardware import F64, I64, Bool, Hardware
from collectors.simulator.heat import Heat
from collectors.simulator.load import Activity
from collectors.simulator.meters import Meters
from collectors.simulator.report import Column, Report
from collectors.simulator.state import Now, Truth

_CLOCK_STEP_MHZ = 15.0
_CLOCK_EXPONENT = 2.4
"""Dynamic power goes with f·V², and V nearly with f."""
_SLOWDOWN_MARGIN_C, _RECOVERED_MARGIN_C, _HARDWARE_MARGIN_C = 1.0, 4.0, -2.0
_SLOWED, _HARDWARE_SLOWED = 0.8, 0.5
"""Clocks that software and hardware thermal slowdown leave, relative to the highest."""


class Physics:
    """State of G GPUs, stepped tick by tick.

    `columns` holds what a record would carry, by catalogue name: see Report.
    `slowed` marks GPUs whose clocks heat holds down.
    """

    def __init__(
        self, hardware: Hardware, seed: int, first: Activity, effects: Effects | None = None
    ) -> None:
        self._hw = hardware
        g = len(hardware.gpm)
        self._rng = np.random.default_rng([seed, 14])
        self.effects = effects or Effects((), ())
        self.slowed = np.zeros(g, np.bool_)
        self._hardware_slowed = np.zeros(g, np.bool_)
        self._nothing = np.zeros(g, np.bool_)
        _, _, power_w = self._electric(first)
        self.heat = Heat(hardware, seed, power_w)
        self.meters = Meters(hardware, seed)
        self.report = Report(hardware, seed, power_w)
        self.now: Now | None = None

    @property
    def columns(self) -> dict[str, Column]:
        """The records' values after the last step."""
        return self.report.columns

    def _electric(self, activity: Activity) -> tuple[F64, Bool, F64]:
        """Clock in MHz, whether the cap holds it down, and power in W to the mW."""
        hw, effects = self._hw, self.effects
        share = activity.sm * 0.06
        share += activity.tensor * 1.35
        share += activity.dram * 0.25
        share += activity.fp64 * 0.5
        dynamic = hw.dynamic_w * share
        base = np.where(activity.loaded, hw.ready_w, hw.sleep_w)
        limit_w = hw.limit_w * effects.limit if effects.any else hw.limit_w
        room = np.maximum(limit_w - base, 1.0)
        capped = dynamic > room
        ratio = np.ones(len(base))
        ratio[capped] = (room[capped] / dynamic[capped]) ** (1 / _CLOCK_EXPONENT)
        ratio[self.slowed] *= _SLOWED
        ratio[self._hardware_slowed] *= _HARDWARE_SLOWED
        if effects.any:
            np.minimum(ratio, effects.clock, out=ratio)
        clock = np.floor(hw.max_clock_mhz * ratio / _CLOCK_STEP_MHZ) * _CLOCK_STEP_MHZ
        np.maximum(clock, hw.sleep_clock_mhz, out=clock)
        slower = clock != hw.max_clock_mhz
        dynamic[slower] *= (clock[slower] / hw.max_clock_mhz[slower]) ** _CLOCK_EXPONENT
        clock = np.where(activity.loaded, clock, hw.sleep_clock_mhz)
        power = (base + dynamic) * self._swing()
        power = np.round(power * 1000) / 1000
        if effects.any:
            power[effects.dead | effects.off_bus] = 0.0
        return clock, capped & activity.loaded, power

    def _swing(self) -> F64:
        noise = self._rng.standard_normal(len(self.slowed), np.float32)
        return np.exp(noise * self._hw.swing)

    def _stopped(self) -> Bool:
        """GPUs that do nothing: off the bus, or without power."""
        if not self.effects.any:
            return self._hw.down
        return self._hw.down | self.effects.off_bus | self.effects.dead

    def step(self, activity: Activity, memory: F64, dt_us: I64, away: Bool | None = None) -> Truth:
        """Goes on by `dt_us` per GPU and renews `columns`.

        `memory` is the used ratio.  `away` marks GPUs whose agent does not run:
        its own counters stand still.  A step of 0 µs is a run's first record.
        """
        stopped = self._stopped()
        unreadable = stopped | self.effects.hung if self.effects.any else stopped
        clock, capped, power_w = self._electric(activity)
        dt_s = dt_us / 1e6
        self.heat.step(power_w, dt_s, self.effects)
        core_c = self.heat.core_c(self.effects)
        margin_c = self._hw.limit_c - core_c
        slowed = self.slowed
        self.slowed = (margin_c < _SLOWDOWN_MARGIN_C) | (slowed & (margin_c < _RECOVERED_MARGIN_C))
        hot = self._hardware_slowed
        self._hardware_slowed = (margin_c < _HARDWARE_MARGIN_C) | (
            hot & (margin_c < _SLOWDOWN_MARGIN_C)
        )
        brake = self.effects.brake if self.effects.any else self._nothing
        now = Now(
            activity, clock, power_w, core_c, margin_c, capped, slowed & activity.loaded,
            hot & activity.loaded, brake & activity.loaded, unreadable, self.heat.inlet_c,
        )  # fmt: skip
        self.now = now
        truth = self.meters.step(now, dt_us, stopped, away if away is not None else self._nothing,
                                 self.effects)  # fmt: skip
        self.report.renew(now, self.meters, memory, self.heat.memory_c(core_c), dt_s)
        return truth
