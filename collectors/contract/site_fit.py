"""Whether a node's GPUs stand where the inventory says, and how to write it where they do not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from collectors.contract.facts import GpuFacts
from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.inventory import InstalledNode


def whole_gpus(gpus: Iterable[GpuFacts]) -> tuple[int, ...]:
    """The slots of the whole GPUs that an agent speaks of, in order of address.

    Raises ValueError for what is no slot.
    """
    return tuple(sorted({parse_slot(gpu.parent or gpu.slot) for gpu in gpus}))


def slots_line(slots: Iterable[int]) -> str:
    """The line of `site.toml` for a node's slots: `slots = ["0000:1b:00.0", …]`."""
    texts = ", ".join(f'"{slot_text(slot)}"' for slot in sorted(slots))
    return f"slots = [{texts}]"


@dataclass(frozen=True, slots=True)
class Fit:
    """Where an agent and the inventory differ about a node; both empty where they agree."""

    unlisted: tuple[int, ...]
    """GPUs that the agent speaks of and the inventory lacks: what they send counts for nothing."""
    unheard: tuple[int, ...]
    """Slots of the inventory that the agent knows nothing of."""
    line: str | None
    """The line of `site.toml` that would fit; None where they agree, or the agent has no GPU."""


def fit_of(installed: InstalledNode | None, gpus: Iterable[GpuFacts]) -> Fit:
    """Compares a node's entry (None: it has none) with what its agent says.

    Raises ValueError for what is no slot.
    """
    heard = whole_gpus(gpus)
    listed = () if installed is None else installed.slots
    unlisted = tuple(slot for slot in heard if slot not in listed)
    unheard = tuple(sorted(slot for slot in listed if slot not in heard))
    differ = bool(unlisted or unheard)
    return Fit(unlisted, unheard, slots_line(heard) if differ and heard else None)
