"""Which GPUs share a node, a rack, a hall: sums over them as one pass over sorted columns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.layout import FleetLayout

Ints = NDArray[np.intp]
SCOPES = ("gpu", "node", "rack", "hall", "site")
"""The narrowest first."""


@dataclass(frozen=True)
class ThermalLayout:
    """Columns of G: numbers of each GPU's node, rack and hall, each node in one rack and each rack
    in one hall, and of its model."""

    node: Ints
    rack: Ints
    hall: Ints
    model: Ints

    @classmethod
    def of(cls, floor: FleetLayout) -> ThermalLayout:
        """Of a fleet's layout, with its numbers."""
        node = floor.node.astype(np.intp)
        rack = floor.rack_of_node.astype(np.intp)[node]
        hall = floor.hall_of_rack.astype(np.intp)[rack]
        keys = list(dict.fromkeys(one.model for one in floor.nodes))
        model = np.array([keys.index(one.model) for one in floor.nodes], np.intp)[node]
        return cls(node, rack, hall, model)

    @cached_property
    def order(self) -> Ints:
        """GPUs such that every place's are neighbours."""
        return np.lexsort((self.node, self.rack, self.hall))

    @cached_property
    def places(self) -> Places:
        """The levels over GPUs in `order`."""
        node, rack, hall = (column[self.order] for column in (self.node, self.rack, self.hall))
        return Places(node, rack, hall)

    @cached_property
    def name(self) -> str:
        """The same for the same places alone."""
        digest = hashlib.sha256()
        for column in (self.node, self.rack, self.hall, self.model):
            digest.update(column.astype(np.int64).tobytes())
        return digest.hexdigest()[:16]

    @property
    def gpus(self) -> int:
        """How many there are."""
        return len(self.node)


class Level:
    """One level: places whose parts are neighbours in the level below.

    `number` is each place's number in the fleet's layout, `of_gpu` the place of
    each sorted GPU, `first` the first GPU of each place (one more at the end).
    """

    def __init__(self, scope: str, numbers: Ints, below: Level | None) -> None:
        self.scope = scope
        starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])[: len(numbers)]
        self.number: Ints = numbers[starts]
        self.size = len(starts)
        self.of_gpu: Ints = np.repeat(np.arange(self.size), np.diff(np.r_[starts, len(numbers)]))
        self.first: Ints = np.r_[starts, len(numbers)]
        self.gpus: Ints = np.diff(self.first)
        self._starts: Ints = starts if below is None else np.searchsorted(below.first[:-1], starts)
        self.parent: Ints = np.zeros(self.size, np.intp)
        """The place of each of these in the level above."""
        self.parts: Ints = self.gpus
        """How many places of the level below each has."""
        if below is not None:
            below.parent = self.of_gpu[below.first[:-1]]
            self.parts = np.bincount(below.parent, minlength=self.size)

    def add(self, of_below: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Sums per place over columns of the level below (the last axis)."""
        return np.add.reduceat(of_below, self._starts, axis=-1)

    def members(self, place: int) -> slice:
        """The sorted GPUs of a place."""
        return slice(int(self.first[place]), int(self.first[place + 1]))


class Places:
    """Nodes, racks, halls and the site over sorted GPUs."""

    def __init__(self, node: Ints, rack: Ints, hall: Ints) -> None:
        self.node = Level("node", node, None)
        self.rack = Level("rack", rack, self.node)
        self.hall = Level("hall", hall, self.rack)
        self.site = Level("site", np.zeros(len(node), np.intp), self.hall)
        self.levels = (self.node, self.rack, self.hall, self.site)

    def level(self, scope: str) -> Level:
        """By name; a GPU has none."""
        return next(level for level in self.levels if level.scope == scope)
