"""Every installed GPU has a position; sums by node, rack and hall are index arrays over it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from collectors.contract.inventory import InstalledNode, Inventory

I32 = NDArray[np.int32]


@dataclass(frozen=True)
class FleetLayout:
    """The nodes installed at one time, in map order (hall, rack, node)."""

    inventory: Inventory
    nodes: tuple[InstalledNode, ...]

    @classmethod
    def of(cls, inventory: Inventory, time_us: int) -> FleetLayout:
        """The layout that holds at a time."""
        return cls(inventory, tuple(inventory.at(time_us)))

    @cached_property
    def places(self) -> list[tuple[str, int]]:
        """(node, slot) of each position."""
        return [(node.name, slot) for node in self.nodes for slot in node.slots]

    @cached_property
    def node_names(self) -> frozenset[str]:
        """The names of the nodes."""
        return frozenset(node.name for node in self.nodes)

    @cached_property
    def position(self) -> dict[tuple[str, int], int]:
        """Position of a (node, slot)."""
        return {place: at for at, place in enumerate(self.places)}

    @cached_property
    def node(self) -> I32:
        """Index of each position's node in `nodes`."""
        counts = [len(node.slots) for node in self.nodes]
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    @cached_property
    def racks(self) -> list[tuple[str, str]]:
        """(hall, rack), in map order."""
        return list(dict.fromkeys((node.hall, node.rack) for node in self.nodes))

    @cached_property
    def rack_of_node(self) -> I32:
        """Index of each node's rack in `racks`."""
        number = {rack: at for at, rack in enumerate(self.racks)}
        return np.array([number[n.hall, n.rack] for n in self.nodes], np.int32)

    @cached_property
    def halls(self) -> list[str]:
        """Halls in map order."""
        return list(dict.fromkeys(node.hall for node in self.nodes))

    @cached_property
    def hall_of_rack(self) -> I32:
        """Index of each rack's hall in `halls`."""
        number = {hall: at for at, hall in enumerate(self.halls)}
        return np.array([number[hall] for hall, _ in self.racks], np.int32)

    @cached_property
    def pflops(self) -> NDArray[np.float64]:
        """Nameplate of each position, PFLOP/s."""
        return np.array([n.pflops_per_gpu for n in self.nodes])[self.node]

    @cached_property
    def short(self) -> list[str]:
        """`node·index` of each position, as people call a GPU."""
        return [f"{node.name}·{at}" for node in self.nodes for at in range(len(node.slots))]
