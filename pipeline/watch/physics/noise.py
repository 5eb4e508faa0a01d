"""The noise that changes of places are measured in, and what is added up over their GPUs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.layout import Level

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

_NOISE_S, _NOISE_FIRST_S = 7_200.0, 120.0
_LOUDEST = 5.0
_MOST = 4.0
"""Times as loud may be the GPUs of a node of which more than half are beyond that."""
_FLOOR_C, FLOOR_GPU_C, _FLOOR_MEAN_C = 0.06, 0.3, 0.2
"""Least noise of a place, of one GPU (whole degrees are 0.29), and of each in a mean of 2 s."""
_SIBLINGS_S = 600.0
"""So much of what a place showed is worth what the places of its level are like."""


class Noise:
    """Learnt variance of one figure of N places, °C²."""

    def __init__(self, size: int, first_c: float, floor_c: Floats | float) -> None:
        self.variance: Floats = np.full(size, first_c**2, np.float32)
        self._floor = np.square(np.float32(floor_c))
        self.seen: Floats = np.zeros(size, np.float32)

    def note(self, value: Floats, ok: Bools, step_s: float) -> None:
        """Takes in what those showed that are `ok`."""
        square = np.minimum(value * value, 9 * self.variance)
        self.seen += ok * np.float32(step_s)
        # What was seen while the model was still poor soon counts little.
        span_s = np.clip(self.seen / 3, max(_NOISE_FIRST_S, step_s), _NOISE_S)
        gain = ok * np.float32(step_s) / span_s
        self.variance += gain * (square - self.variance)
        np.maximum(self.variance, self._floor, out=self.variance)

    def shrunk(self) -> Floats:
        """The variance with what most of the places have, as far as it is not known well yet."""
        told = self.seen > 0
        if not told.any():
            return self.variance
        usual = np.float32(np.median(self.variance[told]))
        span_s = np.clip(self.seen / 3, _NOISE_FIRST_S, _NOISE_S)
        return (span_s * self.variance + _SIBLINGS_S * usual) / (span_s + _SIBLINGS_S)


def noises(level: Level) -> tuple[Noise, Noise]:
    """Of the offset of a level's places, and of what is in proportion to the rise."""
    floor_c = np.maximum(_FLOOR_C, _FLOOR_MEAN_C / np.sqrt(level.gpus))
    return Noise(level.size, 0.5, floor_c), Noise(level.size, 2.0, 1.0)


class Doubt(NamedTuple):
    """What the expected change of each GPU may be wrong by, °C: with the sign of the step that it
    comes from, and by any step of the last while."""

    signed: Floats
    any: Floats


def sums_of(
    node: Level, change: Floats, weight: Floats, rise: Floats, doubt: Doubt, kept: Floats
) -> Floats:
    """What is added up over the GPUs of a place; weights are of °C⁻²."""
    # One GPU alone cannot speak for its node or rack, however far off it is.
    bound = _LOUDEST / np.sqrt(np.maximum(weight, np.float32(1e-6)))
    loud = node.add(np.stack([change > bound, weight > 0]).astype(np.float32))
    bound *= np.where(2 * loud[0] > loud[1], np.float32(_MOST), np.float32(1))[node.of_gpu]
    change = np.clip(change, -bound, bound)
    carried = weight * rise
    return np.stack([
        weight, weight * change, carried, carried * change, carried * rise,
        weight * doubt.signed, carried * doubt.signed, *kept,
        weight * doubt.any, carried * doubt.any,
    ])  # fmt: skip
