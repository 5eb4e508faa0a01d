"""The sites that can be simulated, as inventories.

They are plausible constructions from published sizes, not any site's own lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from collectors.contract.identity import parse_slot
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.models import GpuModel, find_model

GPUS_PER_NODE = 8
_TIME_ZONE = "Asia/Hong_Kong"
_HOPPER_BUSES = ("1b", "43", "52", "61", "9d", "c3", "d1", "df")
_AMPERE_BUSES = ("07", "0f", "47", "4e", "87", "90", "b7", "bd")
_BUSES = {
    "H800-SXM": _HOPPER_BUSES,
    "H200-SXM": _HOPPER_BUSES,
    "A800-SXM4-80GB": _AMPERE_BUSES,
}


@dataclass(frozen=True, slots=True)
class _Hall:
    """Equal nodes in one room; rack names are `letter` and a number of `digits`."""

    name: str
    letter: str
    model: str
    nodes: int
    nodes_per_rack: int = 8
    digits: int = 2


_H800 = _Hall("Hall A", "a", "H800-SXM", 128)
_A800 = _Hall("Hall B", "b", "A800-SXM4-80GB", 116)
_H200 = _Hall("Hall C", "c", "H200-SXM", 215)
_SITES: dict[str, tuple[str, tuple[_Hall, ...]]] = {
    "aisc-phase1": ("AI Supercomputing Centre, phase 1", (_H800, _A800)),
    "aisc-phase2": ("AI Supercomputing Centre, phases 1 and 2", (_H800, _A800, _H200)),
    "demo": (
        "Demonstration cluster",
        (
            _Hall("Hall A", "a", "H800-SXM", 4, 4),
            _Hall("Hall B", "b", "A800-SXM4-80GB", 4, 4),
        ),
    ),
}


def site_names() -> list[str]:
    """The fixed sites; `synthetic:<gpus>`, `training:<gpus>` and `aisc-step:<date>` come beside them."""
    return sorted(_SITES)


def model_of(key: str) -> GpuModel:
    """The row of a model that a site names; raises ValueError when it has none."""
    model = find_model(key)
    if model is None:
        raise ValueError(f"no GPU model {key!r} in gpu_models.csv")
    return model


def _nodes(hall: _Hall, from_us: int = 0) -> Iterator[InstalledNode]:
    slots = tuple(parse_slot(f"0000:{bus}:00.0") for bus in _BUSES[hall.model])
    pflops = (model_of(hall.model).fp16_tflops or 0.0) / 1000
    for index in range(hall.nodes):
        rack = f"{hall.letter}{index // hall.nodes_per_rack + 1:0{hall.digits}d}"
        name = f"{rack}n{index % hall.nodes_per_rack + 1:02d}"
        yield InstalledNode(name, hall.name, rack, hall.model, slots, pflops, from_us)


def _of_size(kind: str, text: str) -> tuple[str, tuple[_Hall, ...]]:
    gpus = int(text) if text.isdecimal() else 0
    if gpus <= 0 or gpus % GPUS_PER_NODE:
        raise ValueError(
            f"{kind}:{text}: write a number of GPUs that is a multiple of {GPUS_PER_NODE},"
            f" as in {kind}:30000"
        )
    model = "A800-SXM4-80GB" if kind == "training" else "H800-SXM"
    hall = _Hall("Hall S", "s", model, gpus // GPUS_PER_NODE, digits=5)
    title = "Training cluster" if kind == "training" else "Synthetic site"
    return f"{title} of {gpus} GPUs", (hall,)


def _step(text: str, time_zone: str) -> tuple[InstalledNode, ...]:
    """Phase 1, and phase 2 from midnight of a day on."""
    try:
        day = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(time_zone))
    except ValueError as error:
        raise ValueError(f"aisc-step:{text}: write a day, as in aisc-step:2026-12-16") from error
    from_us = int(day.timestamp()) * 1_000_000
    return (*_nodes(_H800), *_nodes(_A800), *_nodes(_H200, from_us))


def make_site(name: str) -> Inventory:
    """The inventory of a named site, or of `synthetic:<gpus>` (H800), `training:<gpus>` (A800)
    or `aisc-step:<date>` (phase 2 begins on a day); raises ValueError for any other."""
    kind, _, text = name.partition(":")
    nodes: tuple[InstalledNode, ...] = ()
    halls: tuple[_Hall, ...] = ()
    if kind in {"synthetic", "training"}:
        title, halls = _of_size(kind, text)
    elif kind == "aisc-step":
        title, nodes = "AI Supercomputing Centre, growing", _step(text, _TIME_ZONE)
    elif name in _SITES:
        title, halls = _SITES[name]
    else:
        known = ", ".join(site_names())
        raise ValueError(
            f"no simulated site {name!r}; there is: {known}, synthetic:<gpus>,"
            " training:<gpus>, aisc-step:<date>"
        )
    return Inventory(
        name=name,
        title=title,
        time_zone=_TIME_ZONE,
        precision="FP16",
        sparsity="dense",
        clock_basis="tensor boost clock",
        nodes=nodes or tuple(node for hall in halls for node in _nodes(hall)),
    )


def entries_from(inventory: Inventory, start_us: int) -> list[InstalledNode]:
    """All entries that hold at a time or will later, in map order."""
    entries = [node for node in inventory.nodes if node.to_us is None or node.to_us > start_us]
    return sorted(entries, key=lambda node: (node.hall, node.rack, node.name))
