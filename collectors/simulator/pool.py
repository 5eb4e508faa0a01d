"""Free slots of the nodes of one model, and where a gang of GPUs finds room."""

from __future__ import annotations

import numpy as np

from collectors.simulator.sites import GPUS_PER_NODE

FULL = (1 << GPUS_PER_NODE) - 1


class Pool:
    """Nodes of one model: free slots as bit masks and their numbers.

    A node is one NVLink domain, and its neighbours in the list share its rack:
    less than a node stays within one, more takes whole nodes that follow each
    other as far as they are free.
    """

    def __init__(self, nodes: list[int]) -> None:
        self.nodes = nodes
        self.mask = [FULL] * len(nodes)
        self.free = np.full(len(nodes), GPUS_PER_NODE, np.int8)

    def place(self, gpus: int, offset: int) -> list[tuple[int, int]] | None:
        """Positions with slot masks for a gang of GPUs, or None where there is no room."""
        if gpus < GPUS_PER_NODE:
            room = np.where(self.free >= gpus, self.free, GPUS_PER_NODE + 1)
            best = int(room.argmin())
            if room[best] > GPUS_PER_NODE:
                return None
            return [(best, _lowest_bits(self.mask[best], gpus))]
        whole = np.flatnonzero(self.free == GPUS_PER_NODE)
        count = gpus // GPUS_PER_NODE
        if len(whole) < count:
            return None
        start = offset % len(whole)
        chosen = np.concatenate((whole[start:], whole[:start]))[:count]
        return [(int(position), FULL) for position in np.sort(chosen)]

    def take(self, position: int, mask: int) -> None:
        """Marks slots as held."""
        self.mask[position] &= ~mask
        self.free[position] -= mask.bit_count()

    def give(self, position: int, mask: int) -> None:
        """Marks slots as free."""
        self.mask[position] |= mask
        self.free[position] += mask.bit_count()


def _lowest_bits(mask: int, count: int) -> int:
    out = 0
    for _ in range(count):
        bit = mask & -mask
        out |= bit
        mask ^= bit
    return out
