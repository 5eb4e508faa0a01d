"""Values for metrics that the physics does not know, so that a new catalogue row shows up at once."""

from __future__ import annotations

import numpy as np

from collectors.contract.catalogue import Kind, Metric, Reset
from collectors.simulator.hardware import F64
from collectors.simulator.physics import Column


class Wander:
    """A gauge near a level of each GPU inside its valid range; a counter that counts ticks."""

    def __init__(self, metric: Metric, gpus: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 5, metric.number])
        low, high = metric.valid
        self._gauge = metric.kind is Kind.GAUGE
        self._level: F64 = low + (high - low) * rng.uniform(0.3, 0.6, gpus)
        self._swing = (high - low) * 0.02
        # Own counters are zero in a run's first record; a device's has run before.
        self._count = np.full(gpus, 0 if metric.reset is Reset.RUN else 1000, np.int64)

    def column(self, tick: int) -> Column:
        """The values of a tick."""
        if not self._gauge:
            return (self._count + tick).astype(np.uint64)
        return (self._level + self._swing * np.sin(tick / 30)).astype(np.float32)
