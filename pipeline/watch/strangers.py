"""Says which nodes' GPUs send records that count for nothing, since the inventory lacks them."""

from __future__ import annotations

import logging
from collections import defaultdict

from collectors.contract.inventory import InstalledNode
from collectors.contract.site_fit import slots_line
from pipeline.watch.state import FleetState

_log = logging.getLogger(__name__)


class Strangers:
    """Warns once per node, and again where its addresses are others than those told."""

    def __init__(self) -> None:
        self._state: FleetState | None = None
        self._many = 0
        self._told: dict[str, set[int]] = {}

    def look(self, state: FleetState) -> None:
        """Warns of what is new in `state.unknown`."""
        many = len(state.unknown)
        if state is self._state and many == self._many:
            return
        self._state, self._many = state, many
        found: defaultdict[str, set[int]] = defaultdict(set)
        for node, slot in state.unknown:
            found[node].add(slot)
        installed = {node.name: node for node in state.layout.nodes}
        for node, slots in sorted(found.items()):
            if slots != self._told.get(node):
                self._told[node] = slots
                todo = _todo(state, installed.get(node), slots)
                _log.warning("gpus_unknown node=%s gpus=%d %s", node, len(slots), todo)


def _todo(state: FleetState, installed: InstalledNode | None, slots: set[int]) -> str:
    """What is wrong and what to write, as `petawatch doctor --fleet` says it."""
    if installed is None:
        return "the node is not in the inventory; `petawatch draft-site` writes its entry"
    position = state.layout.position
    heard = {
        slot for slot in installed.slots if state.newest_us[position[installed.name, slot]] > 0
    }
    line = slots_line(slots | heard)
    return f"the inventory has other addresses for it, so these count for nothing; write {line}"
