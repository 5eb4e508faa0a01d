"""Which sequences of a node's runs were seen in a minute: masks of 48 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.batch import Group
from pipeline.decode.slots import SlotTable, grown
from pipeline.series.port import MASK_BITS

_BITS = np.uint64(MASK_BITS)


class Seen:
    """Masks by (node, run, sequence // 48), with a short cut for the one a place is filling now."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int, int], int] = {}
        self._keys: list[tuple[int, int, int]] = []
        self._mask = np.zeros(0, np.uint64)
        self._origin = np.zeros(0, np.uint8)
        self._dirty = np.zeros(0, bool)
        self._place_run = np.zeros(0, np.uint64)
        self._place_block = np.zeros(0, np.uint64)
        self._place_number = np.zeros(0, np.intp)

    def add(
        self, group: Group, table: SlotTable, distinct: dict[int, int], repeats: dict[int, int]
    ) -> None:
        """Sets the records' bits; per node number counts those that were not set, and those that were."""
        block, bit = np.divmod(group.sequence, _BITS)
        number = self._numbers_of(group, block, table)
        used: NDArray[np.intp] = np.unique(number)
        before = np.bitwise_count(self._mask[used]).astype(np.int64)
        np.bitwise_or.at(self._mask, number, np.uint64(1) << bit)
        np.maximum.at(self._origin, number, group.origin)
        fresh = np.bitwise_count(self._mask[used]).astype(np.int64) - before
        self._dirty[used[fresh > 0]] = True
        came = np.bincount(number, minlength=len(self._keys))[used]
        numbers: list[int] = used.tolist()
        for at, new, all_ in zip(numbers, fresh.tolist(), came.tolist(), strict=True):
            node = self._keys[at][0]
            distinct[node] = distinct.get(node, 0) + new
            if all_ > new:
                repeats[node] = repeats.get(node, 0) + all_ - new

    def _numbers_of(
        self, group: Group, block: NDArray[np.uint64], table: SlotTable
    ) -> NDArray[np.intp]:
        places = len(table.place_gpus)
        self._place_run = grown(self._place_run, places, 0)
        self._place_block = grown(self._place_block, places, 0)
        self._place_number = grown(self._place_number, places, -1)
        place = group.place
        number = self._place_number[place]
        known = (number >= 0) & (self._place_run[place] == group.run)
        known &= self._place_block[place] == block
        for row in np.flatnonzero(~known).tolist():
            key = (table.place_node[int(place[row])], int(group.run[row]), int(block[row]))
            number[row] = self._number(key)
        rows = ~known
        self._place_run[place[rows]] = group.run[rows]
        self._place_block[place[rows]] = block[rows]
        self._place_number[place[rows]] = number[rows]
        return number

    def _number(self, key: tuple[int, int, int]) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._keys)
            self._keys.append(key)
            if number >= len(self._mask):
                size = max(64, 2 * len(self._mask))
                self._mask = grown(self._mask, size, 0)
                self._origin = grown(self._origin, size, 0)
                self._dirty = grown(self._dirty, size, 0)
        return number

    def take(self) -> list[tuple[int, ...]]:
        """(node, run, block, mask, origin) of the masks that changed since the last call."""
        rows: list[int] = np.flatnonzero(self._dirty).tolist()
        self._dirty[:] = False
        return [(*self._keys[at], int(self._mask[at]), int(self._origin[at])) for at in rows]
