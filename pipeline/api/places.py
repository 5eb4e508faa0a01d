"""The inventory as the API shows it: the map's layout, and where each GPU stands in a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.identity import slot_text
from collectors.contract.inventory import InstalledNode, Inventory


@dataclass(frozen=True)
class Places:
    """The entries that hold now, in map order; `offset` is a node's first GPU in the frame."""

    inventory: Inventory
    nodes: Mapping[str, InstalledNode]
    offset: Mapping[str, int]
    gpus: int

    @classmethod
    def of(cls, inventory: Inventory, time_us: int) -> Places:
        """The places of an inventory at a time."""
        nodes = {node.name: node for node in inventory.at(time_us)}
        ends = np.cumsum([len(node.slots) for node in nodes.values()], dtype=np.int64)
        starts = [0, *ends.tolist()]
        offset = dict(zip(nodes, starts, strict=False))
        return cls(inventory, nodes, offset, starts[-1])

    def layout(self) -> dict[str, Any]:
        """The map's layout, as in `GET /api/v1/layout`."""
        halls: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for node in self.nodes.values():
            row = {
                "name": node.name,
                "model": node.model,
                "slots": [slot_text(slot) for slot in node.slots],
                "pflops_per_gpu": node.pflops_per_gpu,
            }
            halls.setdefault(node.hall, {}).setdefault(node.rack, []).append(row)
        return {
            "id": self.inventory.layout_id,
            "site": self.inventory.name,
            "title": self.inventory.title,
            "time_zone": self.inventory.time_zone,
            "nameplate": nameplate(self.inventory),
            "halls": [
                {"name": hall, "racks": [{"name": k, "nodes": v} for k, v in racks.items()]}
                for hall, racks in halls.items()
            ],
            "gpus": self.gpus,
        }

    def cells(self, node: str, column: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        """A node's part of a frame's column, None where the frame is of another layout."""
        start = self.offset.get(node)
        if column is None or start is None or len(column) != self.gpus:
            return None
        return column[start : start + len(self.nodes[node].slots)]


def nameplate(inventory: Inventory) -> dict[str, str]:
    """What the nameplate's PFLOPS mean."""
    return {
        "precision": inventory.precision,
        "sparsity": inventory.sparsity,
        "clock_basis": inventory.clock_basis,
    }
