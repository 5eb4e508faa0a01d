"""What rules see of one second: every GPU in columns of G, NaN where unknown; never a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from collectors.contract.topics import Event
from pipeline.watch.layout import FleetLayout
from pipeline.watch.physics.findings import Finding

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
I32 = NDArray[np.int32]
Intp = NDArray[np.intp]
__all__ = ["I32", "Bools", "Finding", "Floats", "Intp", "Placed", "Tick"]


@dataclass(frozen=True, slots=True)
class Placed:
    """An event of this second at a position of the layout; −1 where it is a node's, not a GPU's."""

    event: Event
    node: int
    gpu: int


@dataclass(frozen=True, slots=True)
class Tick:
    """One whole second of event time, with the clock offset of each node taken off.

    `gauges` hold a GPU's last value where it is at most 60 s old; `rates` the
    increase of counters per second over the last few samples; `steps` the
    increase of a counter since it was last read (NaN: not read this second).
    """

    time_us: int
    layout: FleetLayout
    gauges: Mapping[str, Floats]
    rates: Mapping[str, Floats]
    steps: Mapping[str, Floats]
    age_s: Floats
    """Since the last sample; since the watch began where there never was one."""
    interval_s: Floats
    """Usual time between a GPU's samples; NaN before the second one."""
    idle_s: Floats
    """Since the GPU was last active while it reports and is held by a tenant; NaN unknown."""
    fresh: Bools
    """Whether a new sample came since the second before."""
    owner: I32
    owners: Sequence[str]
    """Names of `owner`'s codes."""
    job: I32
    jobs: Sequence[str]
    allocated: Bools
    clock_offset_s: Floats
    """Bus time minus event time of the node at its fastest, negative for a clock ahead."""
    facility: Mapping[tuple[str, str], Floats] = field(
        default_factory=dict[tuple[str, str], Floats]
    )
    """(`rack`, `hall` or `site`, metric) → last reading per place, at most 10 min old."""
    events: Sequence[Placed] = ()
    health: Mapping[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    """(role, name) → sum over instances and labels of what the health boards last said."""
    physics: Mapping[str, Floats] = field(default_factory=dict[str, Floats])
    findings: Sequence[Finding] = ()
    maintenance: Bools | None = None
    """GPUs that are in maintenance now: rules pass over them."""
    origin: str = ""

    @property
    def time_s(self) -> int:
        """The second, since 1970."""
        return self.time_us // 1_000_000
