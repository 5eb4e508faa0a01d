"""Evidence that adds up: strong signs are told after two samples, weak ones after more.

Page's cumulative sum (Biometrika 41, 1954): what a sample is beyond a level of
sigmas is added, what it is below is taken away, never to less than nothing; told
is from a sum on that no single sample reaches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.layout import Level
from pipeline.watch.physics.settings import PhysicsSettings

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

_MOST = 3.0
"""Times what is enough, to which evidence adds up: so it is soon gone when its cause is."""
_A_SAMPLE, _AN_AVERAGE = 0.4, 0.8
"""Of what is enough, at most, that one sample says: of a node or GPU, and of many nodes, in which
what the lags get wrong of a step of load is averaged."""
_STRONG, _A_STRONG = 13.0, 0.55
"""From so many sigmas on one sample says so much: two are enough to precede a throttle."""


class Tally:
    """Of N places: sigmas beyond `beyond` add up to `enough`, both one figure or a column."""

    def __init__(
        self, size: int, beyond: Floats | float, enough: Floats | float, sample: float = _A_SAMPLE
    ) -> None:
        self._beyond, self._enough = np.float32(beyond), np.float32(enough)
        self._most = np.float32(sample) * self._enough
        self._strong = np.maximum(self._most, np.float32(_A_STRONG) * self._enough)
        self.sum: Floats = np.zeros(size, np.float32)

    def add(self, sigmas: Floats, told: Bools) -> Floats:
        """Takes a sample of those in that are `told`; returns the evidence of all, 1 is enough."""
        most = np.where(sigmas >= _STRONG, self._strong, self._most)
        more = np.clip(sigmas - self._beyond, -most, most)
        self.sum += np.where(told, more, np.float32(0))
        np.clip(self.sum, 0, _MOST * self._enough, out=self.sum)
        return self.part

    def drop(self, places: Bools) -> None:
        """Of some nothing speaks any longer."""
        self.sum *= ~places

    @property
    def part(self) -> Floats:
        """Of what is enough."""
        return self.sum / self._enough


def of_gpus(node: Level, settings: PhysicsSettings) -> Tally:
    """Of each sorted GPU.  One that is all that its node has speaks for the node: nothing to
    average over, and nothing beside it that would be as loud."""
    beyond = lone(node, settings.fast_lone_sigmas, settings.fast_gpu_sigmas)
    enough = lone(node, settings.fast_lone_enough, settings.fast_gpu_enough)
    return Tally(len(node.of_gpu), beyond, enough)


def of_level(level: Level, settings: PhysicsSettings) -> Tally:
    """Of the places of a level."""
    if level.scope == "node":
        return Tally(level.size, settings.fast_node_sigmas, settings.fast_node_enough)
    return Tally(level.size, settings.fast_sigmas, settings.fast_enough, _AN_AVERAGE)


def lone(node: Level, alone: float, other: float) -> Floats:
    """A column of the sorted GPUs: one figure for those that are all that their node has."""
    return np.where((node.gpus == 1)[node.of_gpu], np.float32(alone), np.float32(other))
