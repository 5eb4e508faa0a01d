"""One node's record of one tick, as an agent builds it and a slow reader gets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

SCHEMA_VERSION = 1


class Origin(IntEnum):
    """Where figures come from; origins are never added up together."""

    MEASURED = 1
    REPLAYED = 2
    SIMULATED = 3


@dataclass(frozen=True, slots=True)
class SlotLabels:
    """Who sits in a slot during a label epoch; empty strings are unknown."""

    slot: int
    uuid: str = ""
    model: str = ""
    serial: str = ""
    occupant: str = ""
    """The job or pod that runs there, as the node sees it."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """All slots of one node at one event time.

    `values` maps a catalogue name to one value per slot, in the order of
    `slots`: gauges as float (NaN is absent), counters as int (`COUNTER_ABSENT`
    is absent).  A metric that is absent for all slots is left out.
    `energy_epochs` names, per slot, what the energy counter continues over:
    it changes with the GPU, the kernel's boot and the driver's load.
    `labels` are sent when they change and once a minute, else empty.
    """

    node: str
    origin: Origin
    run: int
    sequence: int
    time_us: int
    label_epoch: int
    slots: Sequence[int]
    energy_epochs: Sequence[int]
    values: Mapping[str, Sequence[float]]
    labels: Sequence[SlotLabels] = ()
