"""What the jobs make the GPUs do: activity per tick, as columns of G.

One square wave with noise serves every class: its period, duty, levels and
the chance that a tick is busy differ.  All GPUs of a job share the phase, as
ranks of one training wait for each other: a step has a part that computes and
one in which they talk.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collectors.simulator.hardware import F64, Bool
from collectors.simulator.jobs import Job
from collectors.simulator.sites import GPUS_PER_NODE

_UTILIZATION_NOISE = 0.2
"""Of the activity's own noise: utilisation says nearly the same all the time."""


class _Profile(NamedTuple):
    """Ranges to draw a job's behaviour from.

    A job works in an on-phase and waits in an off-phase: for its other ranks
    (the communication stalls of a step), for data, for requests.  `busy` is
    the chance that a tick in the on-phase works.
    """

    tensor: tuple[float, float]
    sm: tuple[float, float]
    rest_sm: tuple[float, float]
    """SM activity in the off-phase: kernels that spin keep SMs active and cost little power."""
    period_s: tuple[float, float]
    duty: tuple[float, float]
    busy: float
    utilization: tuple[float, float]
    rest_utilization: float
    """In the off-phase, relative to the on-phase."""
    memory: tuple[float, float]
    fp64: float = 0.0
    """FP64 activity in the on-phase, beside the tensor pipe."""
    link: float = 0.0
    """Part of NVLink's bandwidth that ranks use while they wait for each other."""
    daily: float = 0.0
    """How far `busy` follows people's working day."""


_PROFILES = {
    "pretrain": _Profile((0.41, 0.86), (0.68, 0.97), (0.30, 0.78), (4, 30), (0.50, 0.92), 1.0, (0.981, 1.001), 1.0, (0.50, 0.98), link=0.35),
    "training": _Profile((0.38, 0.82), (0.66, 0.96), (0.34, 0.82), (4, 30), (0.22, 0.76), 1.0, (0.981, 1.001), 1.0, (0.50, 0.98), link=0.35),
    "finetune": _Profile((0.32, 0.65), (0.50, 0.85), (0.10, 0.50), (2, 20), (0.45, 0.85), 1.0, (0.975, 1.0), 1.0, (0.35, 0.92), link=0.20),
    "hpc": _Profile((0.02, 0.15), (0.50, 0.90), (0.10, 0.40), (20, 120), (0.80, 0.95), 1.0, (0.95, 1.0), 0.9, (0.30, 0.80), fp64=0.45, link=0.10),
    "hung": _Profile((0.0, 0.0), (0.15, 0.50), (0.15, 0.50), (60, 60), (1.0, 1.0), 1.0, (0.99, 1.0), 1.0, (0.70, 0.95)),
    "serving": _Profile((0.03, 0.22), (0.05, 0.40), (0.0, 0.0), (300, 1200), (0.60, 1.0), 0.42, (0.08, 0.75), 0.0, (0.60, 0.92), daily=0.8),
    "notebook": _Profile((0.02, 0.20), (0.05, 0.40), (0.0, 0.0), (300, 1800), (0.08, 0.25), 0.9, (0.20, 0.95), 0.0, (0.05, 0.50)),
    "shared": _Profile((0.02, 0.20), (0.10, 0.50), (0.0, 0.10), (120, 600), (0.30, 0.60), 0.9, (0.30, 0.95), 0.1, (0.30, 0.90)),
    "mig": _Profile((0.03, 0.30), (0.15, 0.60), (0.0, 0.15), (120, 600), (0.40, 0.75), 0.9, (0.30, 0.95), 0.1, (0.20, 0.80)),
    "parked": _Profile((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (60, 60), (0.0, 0.0), 0.0, (0.0, 0.0), 0.0, (0.20, 0.90)),
    "debug": _Profile((0.15, 0.60), (0.30, 0.85), (0.0, 0.20), (5, 60), (0.40, 0.80), 0.9, (0.70, 1.0), 0.0, (0.05, 0.60)),
}  # fmt: skip


class Activity(NamedTuple):
    """Columns of G of one tick, ratios 0–1."""

    tensor: F64
    sm: F64
    dram: F64
    utilization: F64
    loaded: Bool
    """A context is loaded, whether it works or not."""
    fp64: F64
    link: F64


class Load:
    """The state of every GPU's job.  `owner` is the job's number, 0 for none."""

    def __init__(self, gpus: int, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 3])
        self.owner = np.zeros(gpus, np.int64)
        self.memory = np.zeros(gpus)
        self._period_s = np.ones(gpus)
        self._phase = np.zeros(gpus)
        names = ("tensor", "sm", "rest_sm", "duty", "busy", "used", "rest_used", "fp64", "link",
                 "daily")  # fmt: skip
        self._level: dict[str, F64] = {name: np.zeros(gpus) for name in names}

    def start(self, job: Job) -> NDArray[np.int64]:
        """Gives a job's GPUs to it; returns their indices."""
        gpus = gpu_indices(job)
        self.owner[gpus] = job.number
        profile = _PROFILES.get(job.klass.name)
        if profile is None:
            self._rest(gpus)
            return gpus
        rng, level = self._rng, self._level
        # 1 % between ranks: they do the same work on different data.
        ranks = rng.uniform(*profile.tensor) * rng.normal(1.0, 0.01, len(gpus))
        level["tensor"][gpus] = np.clip(ranks, 0.0, 0.95)
        level["sm"][gpus] = np.maximum(rng.uniform(*profile.sm), level["tensor"][gpus])
        level["rest_sm"][gpus] = rng.uniform(*profile.rest_sm)
        self._period_s[gpus] = rng.uniform(*profile.period_s)
        self._phase[gpus] = rng.random()
        level["duty"][gpus] = rng.uniform(*profile.duty)
        level["busy"][gpus], level["daily"][gpus] = profile.busy, profile.daily
        level["used"][gpus] = min(1.0, rng.uniform(*profile.utilization))
        level["rest_used"][gpus] = level["used"][gpus] * profile.rest_utilization
        level["fp64"][gpus], level["link"][gpus] = profile.fp64, profile.link
        self.memory[gpus] = rng.uniform(*profile.memory)
        return gpus

    def end(self, job: Job) -> NDArray[np.int64]:
        """Takes a job's GPUs from it; returns their indices."""
        gpus = gpu_indices(job)
        self.owner[gpus] = 0
        self._rest(gpus)
        return gpus

    def _rest(self, gpus: NDArray[np.int64]) -> None:
        for column in (*self._level.values(), self.memory):
            column[gpus] = 0.0

    def activity(self, time_s: float, people: float = 1.0) -> Activity:
        """What the GPUs do in the tick that ends at a time in seconds since the site's start.

        `people` is the working day's activity relative to its mean.
        """
        level, rng, count = self._level, self._rng, len(self.owner)
        phase = time_s / self._period_s + self._phase
        phase -= np.floor(phase)
        on = phase < level["duty"]
        busy = level["busy"] * (1.0 + level["daily"] * (people - 1.0))
        on &= rng.random(count, np.float32) < busy
        noise = rng.standard_normal(count, np.float32) * np.float32(0.03) + np.float32(1.0)
        return self._working(level, self.memory > 0, on, noise.astype(np.float64))

    def _working(
        self, level: dict[str, F64], loaded: Bool, on: Bool, noise: F64 | float
    ) -> Activity:
        tensor = np.where(on, level["tensor"], 0.0) * noise
        np.clip(tensor, 0.0, 0.98, out=tensor)
        # The driver reports whole percents, and what is active is decided on those.
        utilization = np.where(on, level["used"], level["rest_used"])
        utilization *= 1.0 + (noise - 1.0) * _UTILIZATION_NOISE
        np.minimum(np.round(utilization, 2, out=utilization), 1.0, out=utilization)
        fp64 = np.where(on, level["fp64"], 0.0)
        sm = np.where(on, level["sm"], level["rest_sm"]) * noise
        np.clip(np.maximum(sm, tensor), 0.0, 1.0, out=sm)
        dram = tensor * 0.55 + fp64 * 0.8 + sm * 0.08
        link = np.where(on, 0.6 * level["link"], level["link"]) * (utilization > 0)
        return Activity(tensor, sm, dram, utilization, loaded, fp64, link)

    def phases(self, gpus: NDArray[np.int64]) -> tuple[Activity, F64]:
        """Both phases of K GPUs without noise, the on-phases first (columns of 2K), and the share
        of time in which each works: what a long time comes to."""
        both, on = np.concatenate((gpus, gpus)), np.zeros(2 * len(gpus), np.bool_)
        on[: len(gpus)] = True
        level = {name: column[both] for name, column in self._level.items()}
        share = (level["duty"] * level["busy"])[: len(gpus)]
        return self._working(level, self.memory[both] > 0, on, 1.0), share


def gpu_indices(job: Job) -> NDArray[np.int64]:
    """The site-wide indices of a job's GPUs."""
    return np.array(
        [
            node * GPUS_PER_NODE + bit
            for node, mask in job.holds
            for bit in range(GPUS_PER_NODE)
            if mask >> bit & 1
        ],
        np.int64,
    )
