"""The site as it is meant to be: halls, racks, nodes and slots, each with its dates.

Read from `site.toml`, or made by the simulator.  Telemetry is compared with
it: what is installed and silent is missing, not absent.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from collectors.contract.identity import slot_text


@dataclass(frozen=True, slots=True)
class InstalledNode:
    """One dated entry: a node with its slots, from `from_us` until `to_us` (None is open)."""

    name: str
    hall: str
    rack: str
    model: str
    """Key or NVML name of a row of `gpu_models.csv`."""
    slots: tuple[int, ...]
    pflops_per_gpu: float
    """Nameplate, PFLOP/s, in the precision that the site states."""
    from_us: int = 0
    to_us: int | None = None

    def installed(self, time_us: int) -> bool:
        """Whether the entry holds at a time."""
        return self.from_us <= time_us and (self.to_us is None or time_us < self.to_us)


@dataclass(frozen=True)
class Inventory:
    """All entries of a site, with its time zone and what its nameplate means."""

    name: str
    title: str
    time_zone: str
    precision: str
    sparsity: str
    clock_basis: str
    nodes: tuple[InstalledNode, ...]

    @cached_property
    def layout_id(self) -> str:
        """Changes when the places shown on a map change."""
        text = repr([(n.hall, n.rack, n.name, n.slots, n.model) for n in self.nodes])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def at(self, time_us: int) -> list[InstalledNode]:
        """The entries that hold at a time, in map order (hall, rack, node)."""
        entries = [node for node in self.nodes if node.installed(time_us)]
        return sorted(entries, key=lambda node: (node.hall, node.rack, node.name))

    def changes_after(self, time_us: int) -> int:
        """The next time after one at which an entry begins or ends; 2^63 − 1 where none does."""
        bounds = {at for node in self.nodes for at in (node.from_us, node.to_us) if at is not None}
        return min((at for at in bounds if at > time_us), default=2**63 - 1)

    def gpus(self, time_us: int) -> int:
        """GPUs installed at a time."""
        return sum(len(node.slots) for node in self.at(time_us))

    def pflops(self, time_us: int) -> float:
        """Nameplate PFLOP/s installed at a time."""
        return sum(len(node.slots) * node.pflops_per_gpu for node in self.at(time_us))


class InstalledSlots:
    """What an inventory has at any time, to look up what people write."""

    def __init__(self, inventory: Inventory) -> None:
        self._slots: dict[str, set[int]] = {}
        for node in inventory.nodes:
            self._slots.setdefault(node.name, set()).update(node.slots)

    def wrong(self, names: Iterable[str], slots: Iterable[int]) -> tuple[str, str] | None:
        """The key (`nodes` or `slots`) that names what there is not, and what there is."""
        for name in names:
            has = self._slots.get(name)
            if has is None:
                near = difflib.get_close_matches(name, list(self._slots), n=1)
                hint = f'; did you mean "{near[0]}"?' if near else ""
                return "nodes", f"no such node in the inventory: {name!r}{hint}"
            missing = next((slot for slot in slots if slot not in has), None)
            if missing is not None:
                there = ", ".join(slot_text(slot) for slot in sorted(has))
                return "slots", f"{name} has no GPU at {slot_text(missing)}; it has {there}"
        return None
