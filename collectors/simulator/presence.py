"""Which nodes send records: installed, powered, and with an agent that runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collectors.contract.inventory import InstalledNode
from collectors.simulator.hardware import Bool
from collectors.simulator.sites import GPUS_PER_NODE


class Return(NamedTuple):
    """Nodes that send again from now on, and those of them that were without power."""

    nodes: NDArray[np.intp]
    booted: NDArray[np.intp]


class Presence:
    """Columns over N nodes; `silent` are those that send nothing in this tick."""

    def __init__(self, entries: Sequence[InstalledNode], interval_us: int) -> None:
        n = len(entries)
        self._interval_us = interval_us
        self._from_us = np.array([entry.from_us for entry in entries])
        self._to_us = np.array([entry.to_us or 1 << 62 for entry in entries])
        self._away_until_us = np.zeros(n, np.int64)
        self._unpowered: Bool = np.zeros(n, np.bool_)
        self.silent: Bool = np.zeros(n, np.bool_)

    def crash(self, node: int, until_us: int) -> None:
        """The node's agent does not run until a time."""
        self._away_until_us[node] = until_us

    def update(self, due_us: int, dead: Bool) -> Return:
        """Brings `silent` up to a tick; `dead` are GPUs without power."""
        unpowered = dead.reshape(-1, GPUS_PER_NODE).all(axis=1)
        silent = (due_us - self._interval_us < self._away_until_us) | unpowered
        silent |= (due_us < self._from_us) | (due_us >= self._to_us)
        back = self.silent & ~silent
        booted = back & self._unpowered
        self.silent = silent
        self._unpowered = (self._unpowered | unpowered) & silent
        return Return(np.flatnonzero(back), np.flatnonzero(booted))
