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
        self._by_count: dict[int, NDArray[np.int32]] = {}
        self._filled: dict[int, int] = {}
        self._place_row: NDArray[np.int32] = np.zeros(0, np.int32)
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
            self._keep(number, self.place_gpus[-1])
        return number

    def _keep(self, place: int, gpus: NDArray[np.int32]) -> None:
        """Puts a place's row into the matrix of its slot count, which grows by doubling."""
        count, row = len(gpus), self._filled.get(len(gpus), 0)
        rows = self._by_count.get(count, np.zeros((0, count), np.int32))
        if row == len(rows):
            rows = np.concatenate([rows, np.zeros((max(64, row), count), np.int32)])
        rows[row] = gpus
        self._by_count[count], self._filled[count] = rows, row + 1
        if place >= len(self._place_row):
            self._place_row = grown(self._place_row, max(64, 2 * place), 0)
        self._place_row[place] = row

    def gpus_of(self, places: NDArray[np.int32], count: int) -> NDArray[np.int32]:
        """The slot numbers of places that all have `count` slots, int32[n, count]."""
        return self._by_count[count][self._place_row[places]]

    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """By slot number: its node's number, int32[n], and its packed slot, uint64[n]."""
        if self._arrays is None or self._arrays[0] != self.gpus:
            self._arrays = (
                self.gpus,
                np.array(self._gpu_node, np.int32),
                np.array(self._gpu_slot, np.uint64),
            )
        return self._arrays[1], self._arrays[2]
