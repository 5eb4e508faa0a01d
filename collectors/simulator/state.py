"""The state of G GPUs at the end of a tick, and what really happened in it."""

from __future__ import annotations

from typing import NamedTuple

from collectors.simulator.hardware import F64, I64, Bool
from collectors.simulator.load import Activity


class Truth(NamedTuple):
    """What really happened in a tick, as columns of G."""

    gflop: F64
    energy_mj: F64
    active_us: I64
    down_us: I64
    """Time in which the GPU could not be read, whether it worked or not."""
    throttled_us: I64
    """Time with clocks held down by heat or by the brake."""
    shown: F64
    """What the measurement makes of `gflop` (it has an error of its own), where there is one,
    read or not."""


class Throttled(NamedTuple):
    """What holds the clocks of working GPUs down in a tick, as columns of G."""

    heat: Bool
    brake: Bool
    limit: Bool


class Now(NamedTuple):
    """The state at the end of a tick, as columns of G; what the reports are made of."""

    activity: Activity
    clock_mhz: F64
    power_w: F64
    core_c: F64
    margin_c: F64
    capped: Bool
    slowed: Bool
    hardware_slowed: Bool
    brake: Bool
    unreadable: Bool
    inlet_c: F64
