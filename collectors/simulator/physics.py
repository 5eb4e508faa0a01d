"""From activity to clocks, power and heat: what really happens to G GPUs in a tick.

Power and clock are constant over the tick that ends at a record's event time,
so the counters are exact integrals of the gauges beside them.
"""

from __future__ import annotations

import numpy as np

from collectors.simulator.effects import Effects
from collectors.simulator.electric import Electric, board_of, electric
from collectors.simulator.hardware import F64, I64, Bool, Hardware
from collectors.simulator.heat import Heat
from collectors.simulator.load import Activity
from collectors.simulator.meters import Meters
from collectors.simulator.report import Column, Report
from collectors.simulator.state import Now, Throttled, Truth

_SLOWDOWN_MARGIN_C, _RECOVERED_MARGIN_C, _HARDWARE_MARGIN_C = 1.0, 4.0, -2.0
_SLOWED, _HARDWARE_SLOWED = 0.8, 0.5
"""Clocks that software and hardware thermal slowdown leave, relative to the highest."""
_HELD_MARGIN_C = -4.0
"""Hardware answers within milliseconds: clocks fall as far as it takes to stay above this."""


class Physics:
    """State of G GPUs, stepped tick by tick.

    `columns` holds what a record would carry, by catalogue name: see Report.
    `slowed` marks GPUs whose clocks heat holds down.
    """

    def __init__(
        self, hardware: Hardware, seed: int, first: Activity, effects: Effects | None = None
    ) -> None:
        self._hw, self._board = hardware, board_of(hardware)
        g = len(hardware.gpm)
        self._rng = np.random.default_rng([seed, 14])
        self.effects = effects or Effects((), ())
        self.slowed = np.zeros(g, np.bool_)
        self._hardware_slowed = np.zeros(g, np.bool_)
        self._nothing = np.zeros(g, np.bool_)
        _, _, power_w = self._electric(first, None)
        self.heat = Heat(hardware, seed, power_w, faults=self.effects.thermal)
        self.meters = Meters(hardware, seed)
        self.report = Report(hardware, seed, power_w)
        self.throttled = Throttled(self._nothing, self._nothing, self._nothing)
        self.now: Now | None = None

    @property
    def columns(self) -> dict[str, Column]:
        """The records' values after the last step."""
        return self.report.columns

    def _electric(self, activity: Activity, bearable_w: F64 | None) -> Electric:
        """With the limits of now, and the power that heat lets pass; power as a second's mean,
        to the mW."""
        effects = self.effects
        most = np.ones(len(self.slowed))
        most[self.slowed] = _SLOWED
        most[self._hardware_slowed] = _HARDWARE_SLOWED
        board = self._board
        if effects.any:
            np.minimum(most, effects.clock, out=most)
            board = board._replace(limit_w=board.limit_w * effects.limit)
        if bearable_w is not None:
            board = board._replace(limit_w=np.minimum(board.limit_w, bearable_w))
        clock_mhz, capped, power_w = electric(board, activity, most)
        power_w = np.round(power_w * self._swing() * 1000) / 1000
        if effects.any:
            power_w[effects.dead | effects.off_bus] = 0.0
        return Electric(clock_mhz, capped, power_w)

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
        dt_s = dt_us / 1e6
        bearable_w = self.heat.most_w(self._hw.limit_c - _HELD_MARGIN_C, dt_s, self.effects)
        clock, capped, power_w = self._electric(activity, bearable_w)
        # Without faults there are no columns of effects to multiply with.
        limit_w = self._hw.limit_w * (self.effects.limit if self.effects.any else 1.0)
        held = capped & (bearable_w < limit_w)
        self.heat.step(power_w, dt_s, self.effects)
        core_c = self.heat.core_c()
        margin_c = self._hw.limit_c - core_c
        slowed = self.slowed
        self.slowed = (margin_c < _SLOWDOWN_MARGIN_C) | (slowed & (margin_c < _RECOVERED_MARGIN_C))
        hot = self._hardware_slowed
        self._hardware_slowed = (margin_c < _HARDWARE_MARGIN_C) | (
            hot & (margin_c < _SLOWDOWN_MARGIN_C)
        )
        brake = self.effects.brake if self.effects.any else self._nothing
        now = Now(
            activity, clock, power_w, core_c, margin_c, capped & ~held, slowed & activity.loaded,
            (hot | held) & activity.loaded, brake & activity.loaded, unreadable, self.heat.inlet_c,
        )  # fmt: skip
        self.now = now
        self.throttled = Throttled(
            (now.slowed | now.hardware_slowed) & ~stopped, now.brake & ~stopped,
            now.capped & ~stopped,
        )  # fmt: skip
        truth = self.meters.step(now, dt_us, stopped, away if away is not None else self._nothing,
                                 self.effects)  # fmt: skip
        self.report.renew(now, self.meters, memory, self.heat.memory_c(), dt_s)
        return truth

    def reported(self) -> dict[str, F64]:
        """What a cluster's statistics are made of, as columns of G: W, °C and %."""
        now = self.now
        if now is None:
            return {}
        memory_c = self.heat.memory_c()
        return {
            "gpu_power_w": now.power_w,
            "gpu_temp_c": np.round(now.core_c),
            "gpu_memory_temp_c": np.round(memory_c),
            "gpu_util_pct": np.round(now.activity.utilization * 100),
            "sm_active_pct": now.activity.sm * 100,
        }
