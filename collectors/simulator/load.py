"""What the jobs make the GPUs do: activity per tick, as columns of G.

One square wave with noise serves every class: its period, duty, levels and
the chance that a tick is busy differ.  All GPUs of a job share the phase, as
ranks of one training wait for each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collectors.simulator.hardware import F64, Bool
from collectors.simulator.sites import GPUS_PER_NODE
from collectors.simulator.workload import Job


class _Profile(NamedTuple):
    """Ranges to draw a job's behaviour from; `busy` is the chance that a tick in the on-phase works."""

    tensor: tuple[float, float]
    rest: float
    """Activity in the off-phase relative to the on-phase."""
    period_s: tuple[float, float]
    duty: tuple[float, float]
    busy: float
    utilization: tuple[float, float]
    rest_utilization: float
    memory: tuple[float, float]
    fp64: float = 0.0
    """FP64 activity in the on-phase, beside the tensor pipe."""
    link: float = 0.0
    """Part of NVLink's bandwidth that ranks use while they work."""


_PROFILES = {
    "pretrain": _Profile((0.44, 0.64), 0.15, (4, 30), (0.75, 0.92), 1.0, (0.98, 1.0), 0.97, (0.80, 0.95), link=0.35),
    "finetune": _Profile((0.38, 0.62), 0.10, (2, 20), (0.65, 0.90), 1.0, (0.97, 1.0), 0.60, (0.50, 0.92), link=0.20),
    "hpc": _Profile((0.02, 0.15), 0.3, (20, 120), (0.80, 0.95), 1.0, (0.95, 1.0), 0.9, (0.30, 0.80), fp64=0.45, link=0.10),
    "hung": _Profile((0.0, 0.0), 0.0, (60, 60), (1.0, 1.0), 1.0, (0.99, 1.0), 1.0, (0.70, 0.95)),
    "serving": _Profile((0.03, 0.22), 0.0, (300, 1200), (0.60, 1.0), 0.42, (0.08, 0.75), 0.0, (0.60, 0.92)),
    "notebook": _Profile((0.02, 0.20), 0.0, (300, 1800), (0.08, 0.25), 0.9, (0.20, 0.95), 0.0, (0.05, 0.50)),
    "parked": _Profile((0.0, 0.0), 0.0, (60, 60), (0.0, 0.0), 0.0, (0.0, 0.0), 0.0, (0.20, 0.90)),
    "debug": _Profile((0.15, 0.50), 0.05, (5, 60), (0.40, 0.80), 0.9, (0.70, 1.0), 0.0, (0.05, 0.60)),
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
        self._on = np.zeros(gpus)
        self._off = np.zeros(gpus)
        self._period_s = np.ones(gpus)
        self._phase = np.zeros(gpus)
        self._duty = np.zeros(gpus)
        self._busy = np.zeros(gpus)
        self._used_on = np.zeros(gpus)
        self._used_off = np.zeros(gpus)
        self._warp = np.ones(gpus)
        self._fp64 = np.zeros(gpus)
        self._link = np.zeros(gpus)

    def start(self, job: Job) -> NDArray[np.int64]:
        """Gives a job's GPUs to it; returns their indices."""
        gpus = gpu_indices(job)
        self.owner[gpus] = job.number
        profile = _PROFILES.get(job.klass.name)
        if profile is None:
            self._rest(gpus)
            return gpus
        rng, count = self._rng, len(gpus)
        # 1 % between ranks: they do the same work on different data.
        level = rng.uniform(*profile.tensor) * rng.normal(1.0, 0.01, count)
        self._on[gpus] = np.clip(level, 0.0, 0.95)
        self._off[gpus] = self._on[gpus] * profile.rest
        self._period_s[gpus] = rng.uniform(*profile.period_s)
        self._phase[gpus] = rng.random()
        self._duty[gpus] = rng.uniform(*profile.duty)
        self._busy[gpus] = profile.busy
        self._used_on[gpus] = rng.uniform(*profile.utilization)
        self._used_off[gpus] = profile.rest_utilization
        self._warp[gpus] = rng.uniform(1.05, 1.35)
        self._fp64[gpus], self._link[gpus] = profile.fp64, profile.link
        self.memory[gpus] = rng.uniform(*profile.memory)
        return gpus

    def end(self, job: Job) -> NDArray[np.int64]:
        """Takes a job's GPUs from it; returns their indices."""
        gpus = gpu_indices(job)
        self.owner[gpus] = 0
        self._rest(gpus)
        return gpus

    def _rest(self, gpus: NDArray[np.int64]) -> None:
        for column in (
            self._on, self._off, self._duty, self._busy, self._used_on, self._used_off, self.memory,
            self._fp64, self._link,
        ):  # fmt: skip
            column[gpus] = 0.0

    def activity(self, time_s: float) -> Activity:
        """What the GPUs do in the tick that ends at a time in seconds since the site's start."""
        rng, count = self._rng, len(self.owner)
        phase = time_s / self._period_s + self._phase
        phase -= np.floor(phase)
        on = phase < self._duty
        on &= rng.random(count, np.float32) < self._busy
        noise = rng.standard_normal(count, np.float32) * np.float32(0.03) + np.float32(1.0)
        tensor = np.asarray(np.where(on, self._on, self._off) * noise, np.float64)
        np.clip(tensor, 0.0, 0.98, out=tensor)
        # The driver reports whole percents, and what is active is decided on those.
        utilization = np.where(on, self._used_on, self._used_off)
        np.round(utilization, 2, out=utilization)
        sm = tensor * self._warp
        sm += np.where(utilization > 0, 0.06, 0.0) * utilization
        fp64 = np.where(on, self._fp64, 0.0)
        sm += fp64
        np.minimum(sm, 1.0, out=sm)
        dram = sm * 0.62
        loaded = self.memory > 0
        # Ranks exchange gradients in the off-phase of a step, parameters in the on-phase.
        link = np.where(on, 0.6 * self._link, self._link) * (utilization > 0)
        return Activity(tensor, sm, dram, utilization, loaded, fp64, link)


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
