"""The two detectors that are compared: ours, and absolute degrees as the peers' rules have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.detector import Readings, ThermalDetector
from pipeline.watch.physics.layout import ThermalLayout

CAUSE = {
    "gpu": ("gpu_interface",), "node": ("node_cooling",), "rack": ("rack_cooling", "rack_inlet"),
    "hall": ("hall_inlet",), "site": ("site_inlet",),
}  # fmt: skip


class Seen(NamedTuple):
    """Something that a detector reported first at a time: where, why, and of which GPUs."""

    time_us: int
    scope: str
    place: int
    cause: str
    gpus: NDArray[np.intp]


class Ours:
    """Findings of the thermal physics but outliers, which are no faults."""

    name = "petawatch"

    def __init__(self, layout: ThermalLayout) -> None:
        self.detector = ThermalDetector(layout)
        self.seen: list[Seen] = []
        self.outliers: list[int] = []
        """Each as often as it was told."""
        self._open: set[tuple[str, int, str]] = set()

    def take(self, time_us: int, said: Readings) -> None:
        """A tick."""
        now: set[tuple[str, int, str]] = set()
        for found in self.detector.update(time_us, said).findings:
            key = (found.scope, found.index, found.cause)
            now.add(key)
            if key in self._open:
                continue
            if found.cause == "outlier":
                self.outliers.append(found.index)
            else:
                self.seen.append(Seen(time_us, *key, found.gpus))
        self._open = now


_RULES = ((85.0, 60.0), (80.0, 300.0))
"""Above so many °C for so many s: the most sensitive that any of them ships (HyperPod)."""


class Absolute:
    """GPU temperature over a fixed level for a time."""

    name = "absolute"

    def __init__(self, layout: ThermalLayout) -> None:
        self._since_us = np.zeros((len(_RULES), layout.gpus), np.int64)
        self._firing = np.zeros(layout.gpus, np.bool_)
        self.seen: list[Seen] = []

    def take(self, time_us: int, said: Readings) -> None:
        """A tick."""
        firing = np.zeros(len(self._firing), np.bool_)
        for since, (level, held_s) in zip(self._since_us, _RULES, strict=True):
            above = said.temperature_c > level
            told = said.fresh & ~np.isnan(said.temperature_c)
            since[told & ~above] = 0
            since[told & above & (since == 0)] = time_us
            firing |= (since > 0) & (time_us - since >= held_s * 1e6)
        for gpu in np.flatnonzero(firing & ~self._firing).tolist():
            self.seen.append(Seen(time_us, "gpu", gpu, "", np.array([gpu], np.intp)))
        self._firing = firing


def incidents(seen: Sequence[Seen]) -> int:
    """Places and causes, each counted once."""
    return len({(one.scope, one.place, one.cause) for one in seen})
