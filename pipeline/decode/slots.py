"""Dense numbers for nodes and slots, given in order of appearance and never reused.

Arrays indexed by them replace look-ups per sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def grown(array: NDArray[Any], size: int, fill: int) -> NDArray[Any]:
    """The array itself, or one of `size` with `fill` behind it where it is shorter."""
    missing = size - len(array)
    if missing <= 0:
        return array
    return np.concatenate([array, np.full(missing, fill, array.dtype)])


class SlotTable:
    """Numbers nodes, (node, slot) pairs, and *places*: a node with the slots of one record."""

    def __init__(self) -> None:
        self.nodes: list[str] = []
        self._node_ids: dict[str, int] = {}
        self._gpu_ids: dict[tuple[int, int], int] = {}
        self._gpu_node: list[int] = []
        self._gpu_slot: list[int] = []
        self._places: dict[tuple[int, tuple[int, ...]], int] = {}
        self.place_node: list[int] = []
        self.place_gpus: list[NDArray[np.int32]] = []
        self._arrays: tuple[int, NDArray[np.int32], NDArray[np.uint64]] | None = None

    @property
    def gpus(self) -> int:
        """How many slots have a number."""
        return len(self._gpu_node)

    def node_id(self, name: str) -> int:
        """The node's number."""
        number = self._node_ids.get(name)
        if number is None:
            number = self._node_ids[name] = len(self.nodes)
            self.nodes.append(name)
        return number

    def gpu_id(self, node: int, slot: int) -> int:
        """The number of a node's slot."""
        number = self._gpu_ids.get((node, slot))
        if number is None:
            number = self._gpu_ids[node, slot] = len(self._gpu_node)
            self._gpu_node.append(node)
            self._gpu_slot.append(slot)
        return number

    def place(self, node: str, slots: tuple[int, ...]) -> int:
        """The number of a node with these slots in this order."""
        node_id = self.node_id(node)
        number = self._places.get((node_id, slots))
        if number is None:
            number = self._places[node_id, slots] = len(self.place_gpus)
            self.place_node.append(node_id)
            gpus = [self.gpu_id(node_id, slot) for slot in slots]
            self.place_gpus.append(np.array(gpus, np.int32))
        return number

    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """By slot number: its node's number, int32[n], and its packed slot, uint64[n]."""
        if self._arrays is None or self._arrays[0] != self.gpus:
            self._arrays = (
                self.gpus,
                np.array(self._gpu_node, np.int32),
                np.array(self._gpu_slot, np.uint64),
            )
        return self._arrays[1], self._arrays[2]
