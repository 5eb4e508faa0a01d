"""Faults at published rates: a schedule drawn for a site from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from collectors.contract.inventory import InstalledNode
from collectors.simulator.faults import FAULTS, FaultKind
from collectors.simulator.scenario import FaultEvent
from collectors.simulator.sites import GPUS_PER_NODE

_MONTH_US = 730 * 3_600 * 1_000_000
_XIDS = (13, 31, 43, 45, 48, 63, 74, 94, 119)
_XID_ODDS = (0.28, 0.30, 0.12, 0.06, 0.06, 0.06, 0.05, 0.04, 0.03)
"""Programs' own faults are by far the most frequent."""


def random_faults(
    entries: Sequence[InstalledNode], seed: int, length_us: int, *, times: float = 1.0
) -> list[FaultEvent]:
    """Poisson arrivals over `length_us` at `times` the published rates, in order of time.

    How long they last is log-normal around the kind's length (shape 1), as
    outages in the field are.
    """
    rng = np.random.default_rng([seed, 8])
    gpus = len(entries) * GPUS_PER_NODE
    events: list[FaultEvent] = []
    for kind in FAULTS.values():
        if kind.per_gpu_month is None:
            continue
        expected = kind.per_gpu_month * times * gpus * length_us / _MONTH_US
        count = int(rng.poisson(expected))
        events += [_draw(kind, entries, rng, length_us) for _ in range(count)]
    return sorted(events, key=lambda event: (event.at_us, event.kind.name, event.name))


def _draw(
    kind: FaultKind, entries: Sequence[InstalledNode], rng: np.random.Generator, length_us: int
) -> FaultEvent:
    at_us = int(rng.integers(length_us))
    place = kind.scopes[0]
    node = entries[int(rng.integers(len(entries)))]
    name = node.name if place == "node" else f"{node.name}/{int(rng.integers(GPUS_PER_NODE))}"
    strength = kind.strength.default if kind.strength is not None else 0.0
    if kind.name == "xid":
        strength = float(rng.choice(_XIDS, p=_XID_ODDS))
    for_us = None
    if kind.lasts_s is not None:
        for_us = int(kind.lasts_s * 1e6 * float(rng.lognormal(0.0, 1.0)))
    return FaultEvent(kind, at_us, for_us, place, name, strength)
