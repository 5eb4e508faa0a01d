"""The hardware power brake: clocks that fall at the power supply's request, told by its counter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.findings import Finding
from pipeline.watch.physics.layout import Level, ThermalLayout
from pipeline.watch.physics.settings import PhysicsSettings

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

_MOST = 0.5
"""A place is braked as a whole where more than this of its GPUs that say something are."""


class Brake:
    """Which places are braked now; columns of G over the layout."""

    def __init__(self, layout: ThermalLayout, settings: PhysicsSettings) -> None:
        self._layout, self._settings = layout, settings
        g = layout.gpus
        self.since_us = np.zeros(g, np.int64)
        """Of each GPU (sorted); 0 where it is not braked."""

    def follow(self, time_us: int, braked_us_per_s: Floats, fresh: Bools) -> list[Finding]:
        """Takes a tick in; a GPU that says nothing stays what it was."""
        level = np.float32(self._settings.brake_share * 1e6)
        told = fresh & ~np.isnan(braked_us_per_s)
        braked = told & (braked_us_per_s > level)
        if not braked.any() and not self.since_us.any():
            return []
        order = self._layout.order
        told, braked = told[order], braked[order]
        self.since_us[told & ~braked] = 0
        begins = braked & (self.since_us == 0)
        self.since_us[begins] = time_us
        return self._told(braked | (self.since_us > 0) & ~told, self._level(told, braked))

    def _level(self, told: Bools, braked: Bools) -> Level:
        """The widest level of which one place alone is braked, and most of it."""
        places = self._layout.places
        found = places.node
        for level in (places.node, places.rack):
            count = np.bincount(level.of_gpu[braked], minlength=level.size)
            known = np.bincount(level.of_gpu[told], minlength=level.size)
            hit = count > 0
            if (count[hit] > _MOST * known[hit]).all() and (level is places.node or _wide(hit, level)):  # fmt: skip
                found = level
        return found

    def _told(self, braked: Bools, level: Level) -> list[Finding]:
        out: list[Finding] = []
        at = np.flatnonzero(braked)
        for place in np.unique(level.of_gpu[at]).tolist():
            mine = at[level.of_gpu[at] == place]
            count = len(mine)
            out.append(
                Finding(
                    level.scope, int(level.number[place]), "power_brake", 0.99, 1.0,
                    int(self.since_us[mine].min()), np.sort(self._layout.order[mine]),
                    {"gpus": float(count)},
                    f"{count} GPUs of the {level.scope} are held down by the hardware power brake.",
                )
            )  # fmt: skip
        return out


def _wide(hit: NDArray[np.bool_], level: Level) -> bool:
    """Whether places of a level that are hit have more than one part: else the part says it."""
    return bool((level.parts[hit] > 1).all())
