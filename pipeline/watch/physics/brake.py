"""The hardware power brake: clocks that fall at the power supply's request, told by its counter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.findings import Finding
from pipeline.watch.physics.layout import Ints, Level, ThermalLayout
from pipeline.watch.physics.settings import PhysicsSettings

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
State = dict[str, NDArray[Any]]

_MOST = 0.5
"""A rack is braked as a whole where more than this of its GPUs that say something are."""


class Brake:
    """Which places are braked now; columns of G over the layout.

    A rack that was braked as a whole stays so until none of its GPUs is: GPUs
    whose work ends say nothing of the brake any more.
    """

    def __init__(self, layout: ThermalLayout, settings: PhysicsSettings) -> None:
        self._layout, self._settings = layout, settings
        self._since_us = np.zeros(layout.gpus, np.int64)
        """Of each GPU (sorted); 0 where it is not braked."""
        self._whole_us = np.zeros(layout.places.rack.size, np.int64)
        """Of each rack that is braked as a whole."""

    def follow(self, time_us: int, braked_us_per_s: Floats, fresh: Bools) -> list[Finding]:
        """Takes a tick in; a GPU that says nothing stays what it was."""
        level = np.float32(self._settings.brake_share * 1e6)
        told = fresh & ~np.isnan(braked_us_per_s)
        braked = told & (braked_us_per_s > level)
        if not braked.any() and not self._since_us.any():
            return []
        order = self._layout.order
        told, braked = told[order], braked[order]
        self._since_us[told & ~braked] = 0
        self._since_us[braked & (self._since_us == 0)] = time_us
        at = np.flatnonzero(self._since_us)
        whole = self._whole(at, told)
        places = self._layout.places
        return [*self._told(at[whole], places.rack), *self._told(at[~whole], places.node)]

    def _whole(self, at: Ints, told: Bools) -> Bools:
        """Whose racks are braked as a whole."""
        rack = self._layout.places.rack
        mine = rack.of_gpu[at]
        count = np.bincount(mine, minlength=rack.size)
        known = np.bincount(rack.of_gpu[told], minlength=rack.size)
        first_us = np.full(rack.size, np.iinfo(np.int64).max)
        np.minimum.at(first_us, mine, self._since_us[at])
        # Of a rack that is one node the node says it.
        begins = (self._whole_us == 0) & (count > _MOST * known) & (rack.parts > 1)
        self._whole_us[begins] = first_us[begins]
        self._whole_us[count == 0] = 0
        return self._whole_us[mine] > 0

    def _told(self, at: Ints, level: Level) -> list[Finding]:
        out: list[Finding] = []
        for place in np.unique(level.of_gpu[at]).tolist():
            mine = at[level.of_gpu[at] == place]
            count = len(mine)
            since_us = int(self._since_us[mine].min())
            if level.scope == "rack":
                since_us = int(self._whole_us[place])
            out.append(
                Finding(
                    level.scope, int(level.number[place]), "power_brake", 0.99, 1.0,
                    since_us, np.sort(self._layout.order[mine]), {"gpus": float(count)},
                    f"{count} GPUs of the {level.scope} are held down by the hardware power brake.",
                )
            )  # fmt: skip
        return out

    def state(self) -> State:
        """All that is known, as arrays."""
        return {"since_us": self._since_us, "whole_us": self._whole_us}

    def load(self, state: State) -> None:
        """Takes a state over that `state` gave."""
        for name, column in self.state().items():
            column[...] = state[name]
