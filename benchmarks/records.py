"""Records of a simulated site, made before anything is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from collectors.contract.inventory import Inventory
from collectors.simulator.fleet import Fleet
from collectors.simulator.sites import make_site

START_US = 1_790_000_000_000_000
SITES = {64: "demo", 1952: "aisc-phase1", 3672: "aisc-phase2"}


@dataclass(frozen=True, slots=True)
class Second:
    """What a site sends in one second."""

    nodes: Sequence[str]
    times_us: Sequence[int]
    records: Sequence[bytes]


def simulated_seconds(gpus: int, seconds: int, seed: int = 1) -> tuple[Inventory, list[Second]]:
    """That many seconds of a site of that many GPUs."""
    inventory = make_site(SITES.get(gpus, f"synthetic:{gpus}"))
    fleet = Fleet(inventory, seed, START_US)
    ticks = [fleet.step() for _ in range(seconds)]
    return inventory, [Second(tick.nodes, tick.times_us, tick.records) for tick in ticks]
