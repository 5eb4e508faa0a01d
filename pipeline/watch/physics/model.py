"""The heat model of each GPU, learnt on line: T = b + Σ aₖ·yₖ, yₖ' = (P − yₖ)/τₖ.

A bank of lags with fixed constants stands for whatever constants a cooler has;
its gains are linear, so Bayesian least squares with a memory of days learns
them: A ← A·(1 − dt/M) + w·φφᵀ, c ← c·(1 − dt/M) + w·φ·T, θ = (A/s² + Λ)⁻¹(c/s² + Λθ₀),
w from Huber's weight, Λ and θ₀ from the fleet's GPUs of the same model.  The
inverse says how far θ is known: a GPU that never worked has a wide one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.layout import Ints
from pipeline.watch.physics.settings import PhysicsSettings

Floats = NDArray[np.floating[Any]]

Bools = NDArray[np.bool_]
State = dict[str, NDArray[Any]]

UNIT_W = 100.0
"""Powers are in this unit within, so that all columns of φ are of one size."""
_SAMPLE_S = 150.0
"""So much time counts as one independent sample: inlets wander, and whole degrees stay whole."""
_ROWS, _SOLVED = 4096, 256
"""GPUs that a tick learns from, and GPUs whose parameters it renews: what a tick may cost."""
_HUBER = 2.5
_NOISE_C2 = (0.15, 9.0)
"""Bounds of the learnt variance of a residual, °C²; the lower is that of whole degrees and some."""
_OFFSET_C, _OFFSET_SPREAD_C = 25.0, 10.0
"""What comes in: air at 18 to 27 °C, or coolant that is warmer (ASHRAE's recommended classes)."""
_GAIN_C, _GAIN_SPREAD_C = 1.5, 2.5
"""Of each of the lags, per UNIT_W: nothing is known of a fleet at first."""
_SPREAD_FLOOR = (4.0, 1.2)
_KNOWN = 1.6
"""Independent samples that a GPU has said before others of its model learn from it."""
_PRIOR_EVERY = 64
_WAIT_SHARE, _WAIT_S = 0.5, 43_200.0
"""What is seen waits for so much of what was seen before until it is learnt, and no longer."""
_NEW_C2, NEW_C = 0.1, 0.1
"""Where the expected temperature is known less well, °C², or may be so far from it, °C, the work is new."""
_REACH_S = (150.0, 7_200.0)
_BEYOND, _BEYOND_FROM, _BEYOND_C = 0.3, 1.15, 2.0
_UNUSED = 0.15
"""Of a rise so far beyond, or below, what a GPU has shown for minutes the model may be wrong."""


class HeatModel:
    """Columns of G sorted GPUs; `model` numbers their models."""

    def __init__(self, model: Ints, settings: PhysicsSettings) -> None:
        g, k = len(model), len(settings.bank_s)
        self._settings = settings
        self._model = model
        self._models = int(model.max(initial=-1)) + 1
        self._tau = np.array(settings.bank_s, np.float32)
        self._pairs = [(i, j) for i in range(k + 1) for j in range(i, k + 1)]
        self.lag: Floats = np.full((k, g), np.nan, np.float32)
        """Lags of power, in UNIT_W."""
        self.theta: Floats = np.zeros((k + 1, g), np.float32)
        self.doubt: Floats = np.zeros((3, g), np.float32)
        """Variance of the expected temperature as a polynomial of the rise: °C², °C, 1."""
        self.noise: Floats = np.full(g, 1.0, np.float32)
        """Variance of the residual, °C²."""
        self.reach: Floats = np.full((2, 2, g), np.nan, np.float32)
        """The lowest and the highest rise that each GPU has shown for some minutes, °C, and those
        that it has shown for hours."""
        self._seen: Floats = np.zeros(g, np.float32)
        # Lags of a GPU at steady work say nearly the same for days: what float32 rounds off would
        # add up to more than the prior, and the gains would be of no size at all.
        self._products: Floats = np.zeros((len(self._pairs), g), np.float64)
        self._answers: Floats = np.zeros((k + 1, g), np.float64)
        self._waiting: Floats = np.zeros((len(self._pairs) + k + 1, g), np.float64)
        """Products and answers of a while that is not over: if it turns out to have been the
        beginning of a fault, nothing was learnt from it."""
        self._waited_s: Floats = np.zeros(g, np.float32)
        first = np.array([_OFFSET_C, *[_GAIN_C] * k])
        spread = np.array([_OFFSET_SPREAD_C, *[_GAIN_SPREAD_C] * k])
        self._prior = np.tile(first, (self._models, 1))
        self._spread = np.tile(spread, (self._models, 1))
        self._learning, self._solving, self._turn = 0, 0, 0
        self._since_s = np.zeros(-(-g // _ROWS))
        self._solve(slice(0, g))

    @property
    def resistance(self) -> Floats:
        """Steady rise of the core per watt, °C/W."""
        return self.theta[1:].sum(axis=0) / np.float32(UNIT_W)

    def observe(self, power_w: Floats, dt_s: Floats | float, valid: Bools) -> Bools:
        """Lets the lags follow power that held since each GPU's last sample; returns which GPUs
        were met for the first time, which then count as having been at rest."""
        new = valid & np.isnan(self.lag[0])
        power = np.where(valid, power_w, np.float32(0)) * np.float32(1 / UNIT_W)
        if new.any():
            self.lag[:, new] = power[new]
        for at, tau in enumerate(self._tau):
            step = power - self.lag[at]
            step *= -np.expm1(-np.float32(1) * dt_s / tau)
            step *= valid
            self.lag[at] += step
        return new

    def rise(self) -> Floats:
        """Rise of each core over its offset that its power explains, °C; NaN before a sample."""
        rise = self.theta[1] * self.lag[0]
        for gain, lag in zip(self.theta[2:], self.lag[1:], strict=True):
            rise += gain * lag
        return rise

    def variance(self, rise: Floats) -> Floats:
        """How far the expected temperature is unknown, °C²; noise is not in it."""
        found = self.doubt[0] + rise * (self.doubt[1] + rise * self.doubt[2])
        return np.maximum(found, 0)

    def beyond(self, rise: Floats) -> Floats:
        """What may be wrong because a GPU has not been as hot, or as cool, before, °C."""
        return self._outside(self.reach[0], rise) * _BEYOND

    def unused(self, rise: Floats) -> Floats:
        """What may be wrong because a GPU has not worked, or rested, so for hours, °C: days of
        other work say less of this than their least squares claim."""
        return self._outside(self.reach[1], rise) * _UNUSED

    def _outside(self, reach: Floats, rise: Floats) -> Floats:
        over = rise - (reach[1] * _BEYOND_FROM + _BEYOND_C)
        under = reach[0] / _BEYOND_FROM - _BEYOND_C - rise
        return np.fmax(np.fmax(over, under), 0)

    def _reach_out(self, rise: Floats, trusted: Bools, step_s: float) -> None:
        new = trusted & np.isnan(self.reach[0, 0])
        self.reach[..., new] = rise[new]
        for reach, span_s in zip(self.reach, _REACH_S, strict=True):
            gain = trusted * np.float32(-np.expm1(-step_s / span_s))
            reach[0] += gain * np.fmin(rise - reach[0], 0)
            reach[1] += gain * np.fmax(rise - reach[1], 0)

    def learn(
        self,
        target_c: Floats,
        residual_c: Floats,
        variance_c2: Floats,
        counts: Floats,
        step_s: float,
    ) -> None:
        """Learns from the tick by as much as it counts (0–1), and renews the parameters of `next`."""
        g, parts = len(counts), len(self._since_s)
        self._since_s += step_s
        rise = self.rise()
        self._reach_out(rise, counts > 0, step_s)
        part = self._learning
        self._learning = (part + 1) % parts
        rows = slice(part * _ROWS, min(g, (part + 1) * _ROWS))
        span_s = float(self._since_s[part])
        self._add(rows, target_c[rows], residual_c[rows], variance_c2[rows], counts[rows], span_s)
        self._take_in(rows, variance_c2[rows], self.unused(rise)[rows] > NEW_C)
        self._since_s[part] = 0.0
        at = self.next()
        self._solving = at.stop % g
        self._turn += 1
        if self._turn % _PRIOR_EVERY == 0:
            self._learn_prior()
        self._solve(at)

    def next(self) -> slice:
        """The GPUs whose parameters the next tick renews."""
        return slice(self._solving, min(len(self.noise), self._solving + _SOLVED))

    def expected(self, rows: slice) -> Floats:
        """Of some GPUs, °C; NaN before a sample."""
        return self.theta[0, rows] + np.einsum("kn,kn->n", self.theta[1:, rows], self.lag[:, rows])

    def _add(
        self,
        rows: slice,
        target_c: Floats,
        residual_c: Floats,
        variance_c2: Floats,
        counts: Floats,
        span_s: float,
    ) -> None:
        zero, ok = np.float32(0), counts > 0
        residual = np.where(ok, residual_c, zero)
        sigma = np.sqrt(self.noise[rows] + np.where(ok, variance_c2, zero))
        bound = np.float32(_HUBER) * sigma
        # Who is not known yet says nothing odd: all of it counts.
        bound = np.where(self._products[0, rows] < _KNOWN, np.float32(np.inf), bound)
        share = np.minimum(bound / np.maximum(np.abs(residual), np.float32(0.01)), 1)
        weight = (counts * share).astype(np.float64) * (span_s / _SAMPLE_S)
        lag = np.where(ok, self.lag[:, rows], zero).astype(np.float64)
        target = np.where(ok, target_c, zero)
        weighted = [weight, *(weight * one for one in lag)]
        phi = [np.ones_like(weight), *lag]
        waiting = self._waiting[:, rows]
        for at, (i, j) in enumerate(self._pairs):
            waiting[at] += weighted[i] * phi[j]
        for at, one in enumerate(weighted, len(self._pairs)):
            waiting[at] += one * target
        self._waited_s[rows] += counts * np.float32(span_s)
        known = (counts > 0.5) & (variance_c2 < self.noise[rows])
        self._note_noise(rows, np.minimum(residual * residual, 9 * sigma * sigma), known, span_s)

    def _take_in(self, rows: slice, variance_c2: Floats, new: Bools) -> None:
        """What waited long enough is learnt; where the work is new, at once."""
        known_s = self._products[0, rows] * (_WAIT_SHARE * _SAMPLE_S)
        waited = self._waited_s[rows]
        due = (waited > 0) & (
            (waited >= np.minimum(known_s, _WAIT_S)) | (variance_c2 > _NEW_C2) | new
        )
        some = np.flatnonzero(due) + rows.start
        if not some.size:
            return
        # Only who says something forgets: silence is no news.
        keep = np.exp(-self._waited_s[some].astype(np.float64) / self._settings.memory_s)
        pairs = len(self._pairs)
        self._products[:, some] = self._products[:, some] * keep + self._waiting[:pairs, some]
        self._answers[:, some] = self._answers[:, some] * keep + self._waiting[pairs:, some]
        self._waiting[:, some] = 0.0
        self._waited_s[some] = 0.0

    def drop(self, gpus: Bools) -> None:
        """What was seen of some GPUs lately is not to be learnt."""
        if gpus.any():
            self._waiting[:, gpus] = 0.0
            self._waited_s[gpus] = 0.0

    def _note_noise(self, rows: slice, square: Floats, known: Bools, span_s: float) -> None:
        """A mean over what was seen, at most over two hours."""
        seen = self._seen[rows]
        seen += known * np.float32(span_s)
        gain = known * np.float32(span_s) / np.clip(seen, np.float32(max(120.0, span_s)), 7200)
        noise = self.noise[rows]
        noise += gain * (square - noise)
        np.clip(noise, *_NOISE_C2, out=noise)

    def _solve(self, at: slice) -> None:
        """Renews the parameters of some GPUs, and how far they are known."""
        k = len(self.theta)
        scale = 1.0 / self.noise[at].astype(np.float64)
        table = np.empty((len(scale), k, k))
        for row, (i, j) in enumerate(self._pairs):
            table[:, i, j] = table[:, j, i] = self._products[row, at] * scale
        precision = self._spread[self._model[at]] ** -2.0
        table[:, range(k), range(k)] += precision
        right = self._answers[:, at].T * scale[:, None] + precision * self._prior[self._model[at]]
        invert: Any = np.linalg.inv
        covariance: Floats = invert(table)
        theta: Floats = np.einsum("nij,nj->ni", covariance, right)
        self.theta[:, at] = theta.T
        total = np.maximum(theta[:, 1:].sum(axis=1), 0.5)
        # At rest all lags are the power itself, so what counts is how far their sum is known.
        cross = covariance[:, 0, 1:].sum(axis=1)
        gain = covariance[:, 1:, 1:].sum(axis=(1, 2))
        self.doubt[0, at] = covariance[:, 0, 0]
        self.doubt[1, at] = 2 * cross / total
        self.doubt[2, at] = gain / total**2

    def known(self) -> Bools:
        """GPUs of which enough is known to learn about others, or to compare with others."""
        return self._products[0] >= _KNOWN

    def _learn_prior(self) -> None:
        """What a model's GPUs are like: median and robust spread of those that are known."""
        known = self.known() & (self.doubt[2] < 0.05)
        for model in range(self._models):
            some = self.theta[:, known & (self._model == model)]
            if some.shape[1] < 8:
                continue
            some = some[:, :: max(1, some.shape[1] // 2048)]
            middle = np.median(some, axis=1)
            spread = 1.5 * np.median(np.abs(some - middle[:, None]), axis=1)
            floor = np.array([_SPREAD_FLOOR[0], *[_SPREAD_FLOOR[1]] * len(self._tau)])
            # Heat that flows through a passive cooler has no gain below zero.
            self._prior[model] = np.r_[middle[0], np.maximum(middle[1:], 0.0)]
            self._spread[model] = np.maximum(2 * spread, floor)

    def state(self) -> State:
        """All that was learnt, as arrays."""
        return {
            "lag": self.lag, "theta": self.theta, "doubt": self.doubt, "noise": self.noise,
            "reach": self.reach, "seen": self._seen, "products": self._products, "answers": self._answers,
            "waiting": self._waiting, "waited_s": self._waited_s,
            "prior": self._prior, "spread": self._spread, "since_s": self._since_s,
            "turns": np.array([self._learning, self._solving, self._turn]),
        }  # fmt: skip

    def load(self, state: State) -> None:
        """Takes a state over that `state` gave."""
        for name, column in self.state().items():
            if name != "turns":
                column[...] = state[name]
        self._learning, self._solving, self._turn = state["turns"].tolist()
