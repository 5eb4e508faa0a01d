"""The GPUs of the nodes by the numbers that Slurm uses, as the agents tell in their facts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from collectors.contract.facts import NodeFacts


def short(node: str) -> str:
    """A node's name without its domain: agents and Slurm may differ in that."""
    return node.partition(".")[0]


def whole_gpus(slots: Iterable[str]) -> int:
    """How many GPUs or instances these are; an instance whose GPU is there too is none of its own."""
    names = set(slots)
    return sum("/" not in slot or slot.partition("/")[0] not in names for slot in names)


class NodePlaces:
    """By node the slots that a GPU's number means: itself and its instances."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._slots: dict[str, dict[int, tuple[str, ...]]] = {}

    def take(self, facts: NodeFacts) -> bool:
        """The last facts of a node count; whether they changed anything."""
        parts: dict[str, list[str]] = defaultdict(list)
        for gpu in facts.gpus:
            if gpu.parent:
                parts[gpu.parent].append(gpu.slot)
        slots = {
            gpu.number: (gpu.slot, *sorted(parts[gpu.slot]))
            for gpu in facts.gpus
            if gpu.number is not None and not gpu.parent
        }
        node = short(facts.node)
        changed = (self._names.get(node), self._slots.get(node)) != (facts.node, slots)
        self._names[node], self._slots[node] = facts.node, slots
        return changed

    def name(self, node: str) -> str:
        """As the node's agent calls itself; else as Slurm does."""
        return self._names.get(short(node), node)

    def slots(self, node: str, numbers: Sequence[int]) -> tuple[str, ...] | None:
        """The slots of these GPUs; None where one of them is not known."""
        known = self._slots.get(short(node), {})
        if any(number not in known for number in numbers):
            return None
        return tuple(slot for number in numbers for slot in known[number])

    def all(self, node: str) -> tuple[str, ...]:
        """All slots of a node; none where nothing is known of it."""
        known = self._slots.get(short(node), {})
        return tuple(slot for number in sorted(known) for slot in known[number])

    def units(self, node: str) -> tuple[str, ...]:
        """The GPUs of a node, where a GPU is what a job is given; none where it has instances."""
        known = self._slots.get(short(node), {})
        if any(len(slots) > 1 for slots in known.values()):
            return ()
        return self.all(node)
