"""What counts as waste, on arrays: pure, so that alerts and reports say the same.

A GPU hangs where a program keeps it "busy" without work: utilisation at the
top while tensor cores, NVLink, memory and FP64/FP32 units do nothing and the
board draws what it draws with a context loaded.  Decoding in inference shows
in the memory's activity, HPC in FP64 or FP32, so neither is ever taken for it;
and where one of these signals is absent nobody can tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collectors.contract.models import find_model

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

LOADED_IDLE_TDP = 120 / 700
"""Power with a model loaded and no kernel running, over the board's limit: 120 W of an 8 × H100
server's 700 W, the one board of which it was recorded; other models are taken to be alike."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Where "busy" begins and "about zero" ends; ratios are 0–1."""

    utilization: float = 0.95
    tensor: float = 0.01
    fp: float = 0.01
    """Of FP64 and of FP32, each."""
    dram: float = 0.05
    nvlink_bytes_per_s: float = 10e6
    power: float = 1.35
    """Times the power with a context loaded."""
    hung_minutes: int = 10
    idle_minutes: int = 60
    idle_share: float = 0.95


USUAL = Limits()


def loaded_idle_w(model: str) -> float | None:
    """Watts of a GPU model with a context loaded and nothing running; None where its limit is
    unknown.  See LOADED_IDLE_TDP for the source."""
    found = find_model(model)
    return None if found is None or found.tdp_w is None else found.tdp_w * LOADED_IDLE_TDP


@dataclass(frozen=True, slots=True)
class Signals:
    """Columns of N, NaN where absent: ratios 0–1, W and bytes/s (both directions together).

    Over a time (a minute) give the extreme that speaks against waste: the
    lowest utilisation, the highest of everything else.
    """

    utilization: F64
    tensor: F64
    nvlink: F64
    power_w: F64
    idle_loaded_w: F64
    dram: F64
    fp64: F64
    fp32: F64


def hung(signals: Signals, limits: Limits = USUAL) -> Bools:
    """Whether each row is busy without work (N); an absent signal makes it False."""
    quiet = [low <= most for low, most in _quiet(signals, limits)]
    return (signals.utilization >= limits.utilization) & np.logical_and.reduce(quiet)


def cannot_tell(signals: Signals, limits: Limits = USUAL) -> Bools:
    """Whether each row (N) would hang by what it has, while some signal is absent."""
    pairs = _quiet(signals, limits)
    absent = np.logical_or.reduce([np.isnan(low) | np.isnan(most) for low, most in pairs])
    # NaN compares False either way: what is absent speaks neither for nor against.
    against = np.logical_or.reduce([low > most for low, most in pairs])
    return (signals.utilization >= limits.utilization) & absent & ~against


def _quiet(signals: Signals, limits: Limits) -> list[tuple[F64, F64]]:
    """What must be low, and how low."""
    most = np.full(len(signals.utilization), 1.0)
    return [
        (signals.tensor, most * limits.tensor),
        (signals.nvlink, most * limits.nvlink_bytes_per_s),
        (signals.power_w, signals.idle_loaded_w * limits.power),
        (signals.dram, most * limits.dram),
        (signals.fp64, most * limits.fp),
        (signals.fp32, most * limits.fp),
    ]


def spells(
    group: NDArray[np.int64], minute: NDArray[np.int64], holds: Bools, least: int
) -> NDArray[np.int64]:
    """Times of at least `least` minutes on end in which something holds, as rows (K, 2): the
    first row of each and the one after its last.

    Columns of N in order of (group, minute), one row per group and minute;
    minutes that are missing end a time.
    """
    if not len(group):
        return np.empty((0, 2), np.int64)
    goes_on = np.zeros(len(group), np.bool_)
    goes_on[1:] = (np.diff(group) == 0) & (np.diff(minute) == 1) & (holds[1:] & holds[:-1])
    starts = np.flatnonzero(holds & ~goes_on)
    ends = np.flatnonzero(holds & ~np.append(goes_on[1:], False)) + 1
    long = ends - starts >= least
    return np.stack((starts[long], ends[long]), axis=1)
