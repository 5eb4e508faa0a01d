"""Nodes as an inventory where no site file says more: what was found is what is installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from collectors.contract.identity import pack_slot, unpack_slot
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.models import find_model
from collectors.contract.record import SlotLabels


def _whole(slot: int) -> int:
    return pack_slot(unpack_slot(slot)._replace(gi=-1, ci=-1))


def installed_node(name: str, labels: Collection[SlotLabels], hall: str = "Node") -> InstalledNode:
    """The node's entry.  Its nameplate is the sum over its GPUs; unknown models add nothing.

    A MIG instance counts by its GPU, where that is there too.
    """
    slots = {label.slot for label in labels}
    gpus = [x for x in labels if _whole(x.slot) == x.slot or _whole(x.slot) not in slots]
    models = [find_model(label.model) for label in gpus]
    pflops = sum((model.fp16_tflops or 0.0) / 1000 for model in models if model is not None)
    commonest = Counter(label.model for label in gpus).most_common(1)
    return InstalledNode(
        name, hall, name, commonest[0][0] if commonest else "",
        tuple(sorted(label.slot for label in gpus)), pflops / max(1, len(gpus)),
    )  # fmt: skip


def site_of(title: str, nodes: Sequence[InstalledNode], time_zone: str = "UTC") -> Inventory:
    """A site of these nodes."""
    return Inventory(title, title, time_zone, "FP16", "dense", "tensor boost clock", tuple(nodes))
