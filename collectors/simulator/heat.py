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
_LOOP_S = 60.0
"""How fast a rack's coolant or air follows what warms it, and comes back."""
_DAY_S, _DAY_SWING_K = 86_400.0, 0.8
"""The building's coolant swings with the day."""


class _Rise:
    """Rise of G cores over what comes in, as the sum of two lags, in K."""

    def __init__(self, hardware: Hardware, power_w: F64) -> None:
        self._hw = hardware
        self._fast_k = hardware.resistance_k_per_w * FAST_SHARE * power_w
        self._slow_k = hardware.resistance_k_per_w * (1 - FAST_SHARE) * power_w

    def step(self, power_w: F64, resistance: F64 | float, keep: tuple[F64, F64]) -> None:
        """Goes on at constant power; `keep` is what is left of each lag after the step."""
        steady_k = self._hw.resistance_k_per_w * resistance * power_w
        fast_k, slow_k = FAST_SHARE * steady_k, (1 - FAST_SHARE) * steady_k
        self._fast_k = fast_k + (self._fast_k - fast_k) * keep[0]
        self._slow_k = slow_k + (self._slow_k - slow_k) * keep[1]

    def most_w(self, rise_k: F64, resistance: F64 | float, keep: tuple[F64, F64]) -> F64:
        """The power that lets the rise come to `rise_k` in a step, infinite where it takes none."""
        left_k = self._fast_k * keep[0] + self._slow_k * keep[1]
        part = FAST_SHARE * (1 - keep[0]) + (1 - FAST_SHARE) * (1 - keep[1])
        k_per_w = self._hw.resistance_k_per_w * resistance * part
        return np.divide(
            rise_k - left_k, k_per_w, out=np.full(len(part), np.inf), where=k_per_w > 0
        )

    @property
    def rise_k(self) -> F64:
        """Of the core."""
        return self._fast_k + self._slow_k


class Heat:
    """Temperatures of G GPUs; `inlet_c` is what comes in now, per GPU.

    `faults` says that there may be cooling faults: then a twin without them is
    kept beside, which says how much of a temperature is theirs.
    """

    def __init__(self, hardware: Hardware, seed: int, power_w: F64, *, faults: bool) -> None:
        self._hw = hardware
        self._rng = np.random.default_rng([seed, 9])
        self._rack_k = self._rng.normal(0.0, _INLET_SPREAD_K, int(hardware.rack.max()) + 1)
        self._fault_k: F64 = np.zeros(len(power_w))
        self._time_s = 0.0
        self.inlet_c = self._undisturbed()
        # Nobody starts hotter than throttling would have let it become.
        bearable_w = (hardware.limit_c - self.inlet_c) / hardware.resistance_k_per_w
        power_w = np.minimum(power_w, bearable_w)
        self._rise = _Rise(hardware, power_w)
        self._healthy = _Rise(hardware, power_w) if faults else self._rise

    def _undisturbed(self) -> F64:
        swing_k = _DAY_SWING_K * np.sin(2 * np.pi * self._time_s / _DAY_S)
        return self._hw.inlet_c + self._rack_k[self._hw.rack] + swing_k

    def step(self, power_w: F64, dt_s: F64, effects: Effects) -> None:
        """Goes on by `dt_s` per GPU at constant power."""
        keep = self._keep(dt_s)
        resistance = effects.resistance if effects.any else 1.0
        self._rise.step(power_w, resistance, keep)
        if self._healthy is not self._rise:
            self._healthy.step(power_w, 1.0, keep)
            self._fault_k += (effects.inlet_k - self._fault_k) * -np.expm1(-dt_s / _LOOP_S)
        self._disturb(float(dt_s.max(initial=0.0)))
        self.inlet_c = self._undisturbed() + self._fault_k

    def _keep(self, dt_s: F64) -> tuple[F64, F64]:
        return np.exp(-dt_s / self._hw.fast_s), np.exp(-dt_s / self._hw.slow_s)

    def most_w(self, core_c: F64, dt_s: F64, effects: Effects) -> F64:
        """The power in W that leaves cores at `core_c` after `dt_s`; below 0 where none does."""
        resistance = effects.resistance if effects.any else 1.0
        return self._rise.most_w(core_c - self.inlet_c, resistance, self._keep(dt_s))

    def _disturb(self, step_s: float) -> None:
        if step_s > 0:
            keep = np.exp(-step_s / _INLET_S)
            noise = self._rng.standard_normal(len(self._rack_k))
            self._rack_k = self._rack_k * keep + noise * _INLET_SPREAD_K * np.sqrt(1 - keep**2)
            self._time_s += step_s

    def core_c(self) -> F64:
        """Core temperature in °C."""
        return self.inlet_c + self._rise.rise_k

    def memory_c(self) -> F64:
        """Memory temperature in °C: it sits higher over the inlet, and follows power less."""
        return self.inlet_c + self._hw.memory_share * self._rise.rise_k + self._hw.memory_rise_k

    def warmer_k(self) -> F64:
        """How much warmer cores are than the same power without any fault would make them."""
        return self._fault_k + self._rise.rise_k - self._healthy.rise_k
