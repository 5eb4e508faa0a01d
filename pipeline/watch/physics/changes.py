"""Sudden changes: the residual of the last seconds against that of the last minute.

A place's change is the weighted mean of its GPUs' changes, whole degrees and
noise of each average out; it is measured in units of its own noise, which is
learnt, so that wandering inlets need not be known.  Twice: as an offset common
to all (coolant or air comes in warmer), and as a part of each GPU's rise over
it (less is carried off).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.layout import Level, Places
from pipeline.watch.physics.settings import PhysicsSettings

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
State = dict[str, NDArray[Any]]

_NOISE_S, _NOISE_FIRST_S = 7_200.0, 120.0
_SAMPLES = 3
_FLOOR_C, _FLOOR_GPU_C = 0.06, 0.3
"""Least noise of a place, and of one GPU: whole degrees are 0.29."""
_MISFIT, _MISFIT_WEIGHT = 0.03, 1e5
"""Part of a step of the rise that the lags may get wrong for a while, until it is known
better; the weight of that in °C⁴."""


class Change(NamedTuple):
    """Of the places of a level: °C as an offset, °C as a part of the rise, and how many sigmas the
    larger of the two is."""

    offset_c: Floats
    carried_c: Floats
    sigmas: Floats


class _Noise:
    """Learnt variance of one figure of N places, °C²."""

    def __init__(self, size: int, first_c: float, floor_c: float) -> None:
        self.variance: Floats = np.full(size, first_c**2, np.float32)
        self._floor = np.float32(floor_c**2)
        self.seen: Floats = np.zeros(size, np.float32)

    def note(self, value: Floats, ok: Bools, step_s: float) -> None:
        square = np.minimum(value * value, 9 * self.variance)
        self.seen += ok * np.float32(step_s)
        gain = ok * np.float32(step_s) / np.clip(self.seen, max(_NOISE_FIRST_S, step_s), _NOISE_S)
        self.variance += gain * (square - self.variance)
        np.maximum(self.variance, self._floor, out=self.variance)


class Changes:
    """Of G sorted GPUs and of the levels over them."""

    def __init__(self, places: Places, settings: PhysicsSettings) -> None:
        g = len(places.node.of_gpu)
        self._places, self._settings = places, settings
        self.fast: Floats = np.full(g, np.nan, np.float32)
        self.base: Floats = np.full(g, np.nan, np.float32)
        self.rise_base: Floats = np.full(g, np.nan, np.float32)
        self._misfit: Floats = np.full((2, g), _MISFIT_WEIGHT, np.float32)
        self._misfit[0] *= np.float32(_MISFIT**2)
        self.gpu_noise = _Noise(g, 1.0, _FLOOR_GPU_C)
        self._noise = {
            level.scope: (_Noise(level.size, 0.6, _FLOOR_C), _Noise(level.size, 0.6, _FLOOR_C))
            for level in places.levels
        }
        self._seen_s: Floats = np.zeros(g, np.float32)
        self.above: Floats = np.zeros((2, g), np.float32)
        """s and ticks for which a GPU has been beyond its level."""
        self.change: Floats = np.zeros(g, np.float32)
        self.trusted: Bools = np.zeros(g, np.bool_)
        self.gpu_sigmas: Floats = np.zeros(g, np.float32)

    def follow(
        self, residual_c: Floats, rise_c: Floats, trusted: Bools, dt_s: Floats | float, held: Bools
    ) -> None:
        """Takes a tick in; where `held`, the baseline stays what it was."""
        fresh = trusted & np.isnan(self.base)
        if fresh.any():
            for column, value in ((self.fast, residual_c), (self.base, residual_c), (self.rise_base, rise_c)):  # fmt: skip
                column[fresh] = value[fresh]
        settings = self._settings
        quick = trusted * -np.expm1(-np.float32(1) * dt_s / np.float32(settings.fast_s))
        slow = trusted * -np.expm1(-np.float32(1) * dt_s / np.float32(settings.baseline_s))
        residual = np.where(trusted, residual_c, np.float32(0))
        rise = np.where(trusted, rise_c, np.float32(0))
        self.fast += quick * (residual - self.fast)
        self.rise_base += slow * (rise - self.rise_base)
        slow *= ~held
        self.base += slow * (residual - self.base)
        self.trusted = trusted
        self.change = np.where(trusted, self.fast - self.base, np.float32(0))

    def forget(self, gpus: Bools) -> None:
        """What was known of some GPUs' last minute holds no longer."""
        for column in (self.fast, self.base, self.rise_base):
            column[gpus] = np.nan

    def shift(self, rows: slice, expected_c: Floats) -> None:
        """Some GPUs are expected to be warmer by so much from now on: no change of theirs."""
        self.fast[rows] -= expected_c
        self.base[rows] -= expected_c

    def measure(
        self,
        rise_c: Floats,
        known: Floats,
        gap_c: Floats,
        noise_c2: Floats,
        step_s: float,
        held: Bools,
    ) -> dict[str, Change]:
        """The changes of all levels; `known` is the variance of a GPU's resistance, relative,
        `gap_c` what a lost sample may have hidden."""
        ok = self.trusted
        jump = np.where(ok, rise_c - self.rise_base, np.float32(0))
        jump *= jump
        unknown = np.where(ok, known, 0) + self._misfit[0] / self._misfit[1]
        doubt = np.sqrt(jump * unknown + gap_c * gap_c)
        known_s = self._seen_s >= self._settings.warm_up_s
        self.gpu_sigmas = known_s * self.change / np.sqrt(self.gpu_noise.variance + doubt * doubt)
        self._above(step_s)
        learns = ok & ~held
        self._seen_s += ok * np.float32(step_s)
        self._learn_misfit(jump, learns & (gap_c < 0.1), step_s)
        self.gpu_noise.note(self.change, learns & (jump < 4) & (gap_c < 0.1), step_s)
        weight = np.where(learns, 1 / noise_c2, np.float32(0))
        rise = np.where(ok, rise_c, np.float32(0))
        sums = np.stack([
            weight, weight * self.change, weight * rise * self.change, weight * rise * rise,
            weight * doubt, (ok & held).astype(np.float32),
        ])  # fmt: skip
        out: dict[str, Change] = {}
        for level in self._places.levels:
            sums = level.add(sums)
            out[level.scope] = self._of_level(level, sums, step_s)
        return out

    def _above(self, step_s: float) -> None:
        """Counts for how long each GPU has been beyond its level without a break."""
        settings = self._settings
        beyond = self.gpu_sigmas >= settings.fast_gpu_sigmas
        beyond &= self.change >= settings.fast_gpu_rise_c
        self.above += np.array([[step_s], [1]], np.float32)
        self.above *= beyond | ~self.trusted
        self.above *= ~(np.isnan(self.base))

    def lasting(self) -> Bools:
        """GPUs that have been beyond their level for some seconds and some samples."""
        return (self.above[0] >= self._settings.fast_gpu_lasts_s) & (self.above[1] >= _SAMPLES)

    def _learn_misfit(self, jump: Floats, learns: Bools, step_s: float) -> None:
        """Least squares of change² = noise² + misfit²·jump² (of the squares)."""
        square = np.minimum(self.change * self.change, 9.0) - self.gpu_noise.variance
        part = learns * np.float32(min(step_s, 10.0))
        self._misfit[0] += part * jump * square
        self._misfit[1] += part * jump * jump
        np.maximum(self._misfit[0], self._misfit[1] * np.float32(1e-5), out=self._misfit[0])

    def _of_level(self, level: Level, sums: Floats, step_s: float) -> Change:
        total = np.maximum(sums[0], np.float32(1e-9))
        offset = sums[1] / total
        size = np.sqrt(np.maximum(sums[3], np.float32(1e-9)) / total)
        carried = sums[2] / (total * size)
        doubt = sums[4] / total
        quiet = (sums[0] > 0) & (sums[5] <= 0)
        sigmas: list[Floats] = []
        for figure, noise in zip((offset, carried), self._noise[level.scope], strict=True):
            spread = np.sqrt(noise.variance + doubt * doubt)
            sigmas.append(figure / spread * (noise.seen >= self._settings.warm_up_s))
            noise.note(figure, quiet & (doubt * doubt < 4 * noise.variance), step_s)
        return Change(offset, carried, np.maximum(*sigmas))

    def state(self) -> State:
        """All that was learnt, as arrays."""
        kept: State = {
            "fast": self.fast, "base": self.base, "rise_base": self.rise_base,
            "misfit": self._misfit, "gpu_variance": self.gpu_noise.variance,
            "gpu_seen": self.gpu_noise.seen, "seen_s": self._seen_s,
            "above": self.above,
        }  # fmt: skip
        for scope, pair in self._noise.items():
            for name, noise in zip(("offset", "carried"), pair, strict=True):
                kept[f"{scope}_{name}_variance"] = noise.variance
                kept[f"{scope}_{name}_seen"] = noise.seen
        return kept

    def load(self, state: State) -> None:
        """Takes a state over that `state` gave."""
        for name, column in self.state().items():
            column[...] = state[name]
