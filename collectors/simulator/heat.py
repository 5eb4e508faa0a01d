"""Heat of G GPUs: core and memory over the inlet, by two first-order lags driven by power.

T = inlet + R·(s·y₁ + (1 − s)·y₂), yᵢ' = (P − yᵢ)/τᵢ: fitted to the power and
temperature of recorded 8-GPU servers (`python -m benchmarks.calibrate`).
"""

from __future__ import annotations

import numpy as np

from collectors.simulator.effects import Effects
from collectors.simulator.hardware import F64, Hardware

FAST_SHARE = 0.6
"""Part of the resistance behind the fast constant (die and cold plate; the rest is the loop)."""
_INLET_S = 600.0
"""Time constant of a rack's own disturbance of its inlet, K of its spread below."""
_INLET_SPREAD_K = 0.5
_DAY_S, _DAY_SWING_K = 86_400.0, 0.8
"""The building's coolant swings with the day."""


class Heat:
    """Lagged temperatures; `inlet_c` is what comes in now, per GPU."""

    def __init__(self, hardware: Hardware, seed: int, power_w: F64) -> None:
        self._hw = hardware
        self._rng = np.random.default_rng([seed, 9])
        self._fast_w, self._slow_w = power_w.copy(), power_w.copy()
        self._rack_k = self._rng.normal(0.0, _INLET_SPREAD_K, int(hardware.rack.max()) + 1)
        self._time_s = 0.0
        self.inlet_c = self._inlet(None)

    def _inlet(self, effects: Effects | None) -> F64:
        swing_k = _DAY_SWING_K * np.sin(2 * np.pi * self._time_s / _DAY_S)
        inlet_c = self._hw.inlet_c + self._rack_k[self._hw.rack] + swing_k
        return inlet_c + effects.inlet_k if effects is not None and effects.any else inlet_c

    def step(self, power_w: F64, dt_s: F64, effects: Effects) -> None:
        """Goes on by `dt_s` per GPU at constant power."""
        hw = self._hw
        self._fast_w += (power_w - self._fast_w) * -np.expm1(-dt_s / hw.fast_s)
        self._slow_w += (power_w - self._slow_w) * -np.expm1(-dt_s / hw.slow_s)
        step_s = float(dt_s.max(initial=0.0))
        if step_s > 0:
            keep = np.exp(-step_s / _INLET_S)
            noise = self._rng.standard_normal(len(self._rack_k))
            self._rack_k = self._rack_k * keep + noise * _INLET_SPREAD_K * np.sqrt(1 - keep**2)
            self._time_s += step_s
        self.inlet_c = self._inlet(effects)

    def rise_w(self) -> F64:
        """The power that the core's temperature stands for now, in W."""
        return FAST_SHARE * self._fast_w + (1 - FAST_SHARE) * self._slow_w

    def core_c(self, effects: Effects) -> F64:
        """Core temperature in °C."""
        rise_k = self._hw.resistance_k_per_w * self.rise_w()
        if effects.any:
            rise_k *= effects.resistance
        return self.inlet_c + rise_k

    def memory_c(self, core_c: F64) -> F64:
        """Memory temperature in °C: it sits higher over the inlet, and follows power less."""
        hw = self._hw
        return hw.memory_share * core_c + (1 - hw.memory_share) * self.inlet_c + hw.memory_rise_k

    def healthy_core_c(self, effects: Effects) -> F64:
        """The core temperature that the same power would give without any fault."""
        inlet_c = self.inlet_c - effects.inlet_k if effects.any else self.inlet_c
        return inlet_c + self._hw.resistance_k_per_w * self.rise_w()
