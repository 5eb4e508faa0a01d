"""UUIDs and serial numbers of simulated GPUs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from uuid import UUID

from collectors.contract.inventory import InstalledNode
from collectors.contract.record import SlotLabels
from collectors.simulator.hardware import ModelFigures


def make_identities(
    entries: Sequence[InstalledNode], figures: Sequence[ModelFigures], seed: int
) -> list[SlotLabels]:
    """Labels of every GPU without an occupant, invented from seed and place; in site order."""
    out: list[SlotLabels] = []
    for entry, model in zip(entries, figures, strict=True):
        for slot in entry.slots:
            text = f"{seed}/{entry.name}/{slot}".encode()
            uuid = UUID(bytes=hashlib.blake2b(text, digest_size=16).digest())
            serial = f"165{uuid.int % 10**10:010d}"
            out.append(SlotLabels(slot, f"GPU-{uuid}", model.name, serial))
    return out
