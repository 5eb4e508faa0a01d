"""What really happened, as the simulator wrote it down; no record can change it.

Found by entry point, since nothing of the simulator may be known here but what
it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from collectors.kit import plugins


class Happened(Protocol):
    """One owner in one hour; see `collectors.simulator.truth.PhysicalRow`."""

    @property
    def hour(self) -> int:
        """Since 1970 UTC."""
        ...

    @property
    def owner_kind(self) -> str:
        """As in the ledger."""
        ...

    @property
    def tenant(self) -> str:
        """As in the ledger."""
        ...

    @property
    def gpu_us(self) -> int:
        """GPUs held times the time within the simulation."""
        ...

    @property
    def gflop(self) -> float:
        """Done."""
        ...

    @property
    def gflop_shown(self) -> float:
        """What the measurement makes of it, where there is one."""
        ...

    @property
    def energy_mj(self) -> float:
        """Drawn."""
        ...


class Header(Protocol):
    """What was simulated."""

    @property
    def start_us(self) -> int:
        """First event time."""
        ...

    @property
    def end_us(self) -> int:
        """End, not included."""
        ...


class Place(Protocol):
    """Where a fault is."""

    @property
    def node(self) -> str:
        """The node's name."""
        ...


class Wrong(Protocol):
    """A fault of the hardware or of the telemetry."""

    @property
    def kind(self) -> str:
        """As in `petawatch simulate --list-faults`."""
        ...

    @property
    def subjects(self) -> Sequence[Place]:
        """Where."""
        ...


class Physical(Protocol):
    """What really happened; see `collectors.simulator.truth.PhysicalTruth`."""

    @property
    def header(self) -> Header:
        """What was simulated."""
        ...

    @property
    def rows(self) -> Sequence[Happened]:
        """Per hour and owner."""
        ...

    @property
    def faults(self) -> Sequence[Wrong]:
        """What was wrong, simulated on purpose."""
        ...


def read_physical(folder: Path) -> Physical:
    """What a simulation wrote down.  Raises MissingPartError, and FileNotFoundError."""
    read: Callable[[Path], Physical] = plugins.load("petawatch.oracle", "physical")
    return read(folder)
