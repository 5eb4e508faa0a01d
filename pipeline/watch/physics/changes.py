"""Sudden changes: the residual of the last seconds against that of the last half minute.

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
from pipeline.watch.physics.noise import FLOOR_GPU_C, Doubt, Noise, noises, sums_of
from pipeline.watch.physics.settings import PhysicsSettings
from pipeline.watch.physics.tally import lone, of_gpus, of_level

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
State = dict[str, NDArray[Any]]

_SAMPLES = 3
"""So many in a row say the same of a place, for it to be what explains another's warmth."""
_STILL, _GLITCH_C = 0.6, 2.0
"""Of what a GPU is beyond its level by the last sample has to show so much too, and from so many °C
on as much as that of what its place is told of it: a sensor's single slip does not last."""
_SURE = 0.04
"""Relative variance of a resistance, up to which a GPU has worked before: a node is judged where
half of its GPUs have."""
_OTHERS, _REST = 3, 1.0
"""A node is compared with the rest of its rack where that is so many nodes, and says as much."""
_MISFIT, _LEAST_MISFIT, _MISFIT_WEIGHT, _MISFIT_S = 0.03, 0.02, 2e5, 7_200.0
"""Part of a step of the rise that the lags may get wrong for a while, until it is known better, and
at least; the weight of that in °C⁴·s, and how long what is known better is remembered."""
_USUAL_S, _BEYOND_USUAL, _MOST_C2 = 900.0, 3.0, 400.0
"""Steps so many times as large (in squares) as those of the last while are new: what the lags get
wrong of usual ones is in the learnt noise; steps count up to so many °C²."""
_DOUBTS = {"node": 1.5, "rack": 0.5, "hall": 1.0, "site": 1.0}
"""Part of the doubt's variance that counts: over the nodes of a rack most of it cancels."""
_CALM = 0.1
"""Part of a node's variance that doubt may be, for a node to be judged that never worked."""
_STEADY = 0.02
"""Or of its rise: a node that always works the same says what it is like there alone."""


class Change(NamedTuple):
    """Of the places of a level: °C as an offset, °C as a part of the rise, how many sigmas the
    larger of the two has been at least in the last few samples, and what has added up of them (1
    is enough to be told)."""

    offset_c: Floats
    carried_c: Floats
    sigmas: Floats
    evidence: Floats


class Changes:
    """Of G sorted GPUs and of the levels over them."""

    def __init__(self, places: Places, settings: PhysicsSettings) -> None:
        g = len(places.node.of_gpu)
        self._places, self._settings = places, settings
        self._least_c = lone(places.node, settings.fast_lone_rise_c, settings.fast_gpu_rise_c)
        self._step = lone(places.node, 0.0, settings.fast_gpu_step)
        self.fast: Floats = np.full(g, np.nan, np.float32)
        self.base: Floats = np.full(g, np.nan, np.float32)
        self.rise_base: Floats = np.full(g, np.nan, np.float32)
        self._misfit: Floats = np.zeros((2, g), np.float32)
        self._unrest: Floats = np.zeros((2, g), np.float32)
        """The squares of the largest steps that the mean still remembers, °C²: of those beyond
        usual, and of all."""
        self._usual: Floats = np.zeros(g, np.float32)
        """Mean square of the steps of the last while, °C²."""
        self.gpu_noise = Noise(g, 1.0, FLOOR_GPU_C)
        self._noise = {level.scope: noises(level) for level in places.levels}
        self._watched_s = {level.scope: np.zeros(level.size, np.float32) for level in places.levels}
        self._before = {
            level.scope: np.zeros((_SAMPLES - 1, level.size), np.float32) for level in places.levels
        }
        """Sigmas of the samples before."""
        self._seen_s: Floats = np.zeros(g, np.float32)
        self._tally = {level.scope: of_level(level, settings) for level in places.levels}
        self._gpu_tally = of_gpus(places.node, settings)
        self.change: Floats = np.zeros(g, np.float32)
        """°C over the mean."""
        self._last: Floats = np.zeros(g, np.float32)
        """The same of the last sample alone."""
        self.trusted: Bools = np.zeros(g, np.bool_)
        self.gpu_sigmas: Floats = np.zeros(g, np.float32)

    def follow(
        self, residual_c: Floats, rise_c: Floats, trusted: Bools, dt_s: Floats | float, held: Bools
    ) -> None:
        """Takes a tick in; where `held`, the baseline stays what it was."""
        fresh = trusted & np.isnan(self.fast)
        if fresh.any():
            self.fast[fresh] = self.base[fresh] = residual_c[fresh]
            self.rise_base[fresh] = rise_c[fresh]
        settings = self._settings
        quick = trusted * -np.expm1(-np.float32(1) * dt_s / np.float32(settings.fast_s))
        slow = trusted * -np.expm1(-np.float32(1) * dt_s / np.float32(settings.baseline_s))
        residual = np.where(trusted, residual_c, np.float32(0))
        self.fast += quick * (residual - self.fast)
        self.rise_base += slow * (np.where(trusted, rise_c, np.float32(0)) - self.rise_base)
        slow *= ~held
        self.base += slow * (residual - self.base)
        self.trusted = trusted
        self.change = np.where(trusted, self.fast - self.base, np.float32(0))
        self._last = np.where(trusted, residual - self.base, np.float32(0))

    def forget(self, gpus: Bools) -> None:
        """What was known of some GPUs' last minute holds no longer."""
        for column in (self.fast, self.base, self.rise_base):
            column[gpus] = np.nan

    def begin_anew(self, gpus: Bools) -> None:
        """What was is over for some GPUs: from now on they are compared with what they are now."""
        self.base[gpus] = self.fast[gpus]

    def shift(self, rows: slice, expected_c: Floats) -> None:
        """Some GPUs are expected to be warmer by so much from now on: no change of theirs."""
        self.fast[rows] -= expected_c
        self.base[rows] -= expected_c

    def measure(
        self,
        rise_c: Floats,
        known: Floats,
        gap_c: Floats,
        ok: Bools,
        step_s: float,
        held: Bools,
    ) -> dict[str, Change]:
        """The changes of all levels; `known` is the variance of a GPU's resistance, relative,
        `gap_c` what a lost sample may have hidden; only who is `ok` is judged."""
        ok = ok & self.trusted
        learns = ok & ~held
        jump, doubt, own = self._doubt(rise_c, known, gap_c, ok, step_s)
        known_s = self._seen_s >= self._settings.warm_up_s
        self.gpu_sigmas = known_s * self.change / np.sqrt(self.gpu_noise.variance + own)
        self._add_up(known_s & ok)
        self._seen_s += ok * np.float32(step_s)
        square = jump * jump
        self._learn_misfit(square, learns & (gap_c < 0.1), step_s)
        self.gpu_noise.note(self.change, learns & (square < 4) & (gap_c < 0.1), step_s)
        rise = np.where(ok, np.maximum(rise_c, 0), np.float32(0))
        kept = np.stack([ok & held, learns & (known < _SURE)]).astype(np.float32)
        weight = learns / (self.gpu_noise.variance + doubt.any * doubt.any)
        node = self._places.node
        return self._levels(sums_of(node, self._shown(), weight, rise, doubt, kept), step_s)

    def _doubt(
        self, rise_c: Floats, known: Floats, gap_c: Floats, ok: Bools, step_s: float
    ) -> tuple[Floats, Doubt, Floats]:
        """The rise over that of the mean, °C; what that may have been taken wrong by, beyond what
        it usually is; and its variance for a single GPU, °C²."""
        zero = np.float32(0)
        jump = np.where(ok, rise_c - self.rise_base, zero)
        square = np.minimum(jump * jump, np.float32(_MOST_C2))
        excess = np.maximum(square - np.float32(_BEYOND_USUAL) * self._usual, zero)
        gain = ok * np.float32(-np.expm1(-step_s / _USUAL_S))
        self._usual += gain * (square - self._usual)
        # What a step was taken wrong by is still in the mean when it is over.
        self._unrest *= np.float32(np.exp(-2 * step_s / self._settings.baseline_s))
        np.maximum(self._unrest[0], excess, out=self._unrest[0])
        np.maximum(self._unrest[1], square, out=self._unrest[1])
        prior = np.maximum(np.where(ok, known, zero), 0) + np.float32(_MISFIT**2)
        unknown = prior * np.float32(_MISFIT_WEIGHT) + self._misfit[0]
        unknown /= np.float32(_MISFIT_WEIGHT) + self._misfit[1]
        np.maximum(unknown, np.float32(_LEAST_MISFIT**2), out=unknown)
        hidden = gap_c * gap_c
        signed = np.copysign(np.sqrt(excess * unknown + hidden), jump)
        doubt = Doubt(signed, np.sqrt(self._unrest[0] * unknown + hidden))
        return jump, doubt, self._unrest[1] * unknown + hidden

    def _levels(self, sums: Floats, step_s: float) -> dict[str, Change]:
        out: dict[str, Change] = {}
        node, rack, hall, site = self._places.levels
        of_node = node.add(sums)
        # What lags get wrong has the sign of the step: over nodes it cancels, or adds up at random.
        of_node[-2:] *= of_node[-2:]
        of_rack = rack.add(of_node)
        self._beside(of_node, of_rack)
        out["node"] = self._of_level(node, of_node, step_s)
        out["rack"] = self._of_level(rack, of_rack, step_s)
        of_hall = hall.add(of_rack)
        out["hall"] = self._of_level(hall, of_hall, step_s)
        out["site"] = self._of_level(site, site.add(of_hall), step_s)
        return out

    def _beside(self, of_node: Floats, of_rack: Floats) -> None:
        """Takes from each node what the rest of its rack shows, where there is a rest."""
        rack = self._places.node.parent
        others = of_rack[:2, rack] - of_node[:2]
        enough = (self._places.rack.parts[rack] > _OTHERS) & (others[0] > _REST * of_node[0])
        # What falls back elsewhere does not make a node warmer.
        shared = enough * np.maximum(others[1], 0) / np.maximum(others[0], np.float32(1e-9))
        of_node[1] -= shared * of_node[0]
        of_node[3] -= shared * of_node[2]
        rest = of_rack[5:, rack] - of_node[5:]
        unsure = rest[0] * rest[0] + np.maximum(rest[4], 0)
        unsure *= enough / np.square(np.maximum(others[0], np.float32(1e-9)))
        of_node[9] += unsure * np.square(of_node[0])
        of_node[10] += unsure * np.square(of_node[2])

    def _shown(self) -> Floats:
        """The change of each GPU as its places are told of it."""
        slip = (self.change > _GLITCH_C) & (self._last < _STILL * self.change)
        return np.where(slip, self._last, self.change)

    def _add_up(self, ok: Bools) -> None:
        """Adds up what speaks for each GPU, as long as it is warm enough without a break."""
        least_c = self._least_c + self._step * np.sqrt(self._unrest[1])
        beyond = (self.change >= least_c) & (self._last >= _STILL * least_c)
        self._gpu_tally.add(self.gpu_sigmas, ok & beyond)
        self._gpu_tally.drop((self.trusted & ~beyond) | np.isnan(self.fast))

    @property
    def gpu_evidence(self) -> Floats:
        """Of what is enough for a GPU to be told of."""
        return self._gpu_tally.part

    def _learn_misfit(self, jump: Floats, learns: Bools, step_s: float) -> None:
        """Least squares of change² = noise² + misfit²·jump² (of the squares)."""
        square = np.minimum(self.change * self.change, 9.0) - self.gpu_noise.variance
        self._misfit *= np.float32(np.exp(-step_s / _MISFIT_S))
        part = learns * np.float32(min(step_s, 10.0))
        self._misfit[0] += part * jump * square
        self._misfit[1] += part * jump * jump
        np.maximum(self._misfit[0], self._misfit[1] * np.float32(1e-5), out=self._misfit[0])

    def _of_level(self, level: Level, sums: Floats, step_s: float) -> Change:
        """Generalised least squares of both signatures, with an offset that wanders by itself."""
        weight, cross, carried, cross_carried, square = sums[:5]
        held, sure = sums[7:9]
        any_c2 = sums[9:] + (level.scope != "node") * np.square(sums[5:7])
        doubt, doubt_carried = np.float32(_DOUBTS[level.scope]) * any_c2
        total = np.maximum(weight, np.float32(1e-9))
        wander, scatter = self._noise[level.scope]
        offset = cross / total
        doubt = doubt / (total * total)
        usual = wander.shrunk()
        own = usual + doubt
        part = own / (1 + own * total)
        # What the wandering offset may explain is taken from both sides.
        left = np.maximum(square - part * carried * carried, 1e-3 * square + 1e-6)
        ratio = (cross_carried - part * carried * cross) / left
        doubtful = doubt_carried / np.square(np.maximum(square, np.float32(1e-6)))
        watched = self._watched_s[level.scope]
        watched += (weight > 0) * np.float32(step_s)
        known = (watched >= self._settings.warm_up_s).astype(np.float32)
        if level.scope == "node":
            calm = np.maximum(_CALM * usual, np.square(_STEADY * carried / total))
            known *= (sure >= 0.5 * level.gpus) | (doubt < calm)
        sigmas = np.maximum(
            offset / np.sqrt(own), ratio / np.sqrt(scatter.shrunk() / left + doubtful)
        )
        quiet = (weight > 0) & (held <= 0) & (doubt < 4 * wander.variance)
        wander.note(offset, quiet, step_s)
        scatter.note(ratio * np.sqrt(left), quiet, step_s)
        lasting = self._lasting(level, known * sigmas, weight > 0)
        evidence = self._tally[level.scope].add(known * sigmas, weight > 0)
        return Change(offset, ratio * np.sqrt(square / total), lasting, evidence)

    def _lasting(self, level: Level, sigmas: Floats, told: Bools) -> Floats:
        """The least of the last few samples of those places that say something."""
        before = self._before[level.scope]
        out = np.minimum(sigmas, before.min(axis=0)) * told
        before[:-1] = np.where(told, before[1:], before[:-1])
        before[-1] = np.where(told, sigmas, before[-1])
        return out

    def state(self) -> State:
        """All that was learnt, as arrays."""
        kept: State = {
            "fast": self.fast, "base": self.base, "rise_base": self.rise_base,
            "misfit": self._misfit, "unrest": self._unrest, "usual": self._usual, "gpu_variance": self.gpu_noise.variance,
            "gpu_seen": self.gpu_noise.seen, "seen_s": self._seen_s,
            "tally": self._gpu_tally.sum,
        }  # fmt: skip
        for scope, watched in self._watched_s.items():
            kept[f"{scope}_watched_s"] = watched
            kept[f"{scope}_before"] = self._before[scope]
            kept[f"{scope}_tally"] = self._tally[scope].sum
        for scope, pair in self._noise.items():
            for name, noise in zip(("wander", "scatter"), pair, strict=True):
                kept[f"{scope}_{name}_variance"] = noise.variance
                kept[f"{scope}_{name}_seen"] = noise.seen
        return kept

    def load(self, state: State) -> None:
        """Takes a state over that `state` gave."""
        for name, column in self.state().items():
            column[...] = state[name]
