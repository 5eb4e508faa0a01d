"""The seams at which hardware, a simulation or a recording come in.

`Backend` and `Device` are what an agent reads: our words and SI units; the
vendor's stay in one file behind it.  `Source` is what a command runs: it
publishes node records (and allocations) until it is stopped or at its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from collectors.contract.bus import Producer
from collectors.contract.inventory import Inventory
from collectors.contract.record import Origin, SlotLabels
from collectors.kit.clock import Clock


class TransientError(RuntimeError):
    """The device gave nothing this time: ask at the next tick."""


class DeviceLostError(RuntimeError):
    """The device is gone or must be reset: leave it alone until the next rescan."""


class DriverGoneError(RuntimeError):
    """No device can be read: close the backend and open it again, with patience."""


class BackendUnavailableError(RuntimeError):
    """There is nothing here to read (no driver, no library); the message says what to do."""


class Device(Protocol):
    """One GPU slot."""

    @property
    def slot(self) -> int:
        """Packed slot."""
        ...

    @property
    def labels(self) -> SlotLabels:
        """Who sits in it now."""
        ...

    @property
    def energy_epoch(self) -> int:
        """64 bits that change when the energy counter starts again."""
        ...

    def read(self) -> Mapping[str, float]:
        """Current values by catalogue name, in catalogue units, without the agent's own
        integrals; what cannot be read is left out.

        Gauges as float, counters as int.  Raises TransientError, DeviceLostError
        or DriverGoneError.
        """
        ...


class Backend(Protocol):
    """All GPUs of one node."""

    @property
    def origin(self) -> Origin:
        """Measured, or simulated."""
        ...

    def open(self) -> None:
        """Loads the library and finds devices.  Raises BackendUnavailableError."""
        ...

    def devices(self) -> Sequence[Device]:
        """The devices found, in order of slot; lost ones stay listed until a rescan."""
        ...

    def rescan(self) -> None:
        """Looks again: devices come back, go, or change their labels."""
        ...

    def close(self) -> None:
        """Lets the driver go."""
        ...


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What a command asks of a source; each takes what it knows and refuses the rest.

    `speed` is times real time, None as fast as it goes.  `minutes` of event
    time, None without end.  `start_us` is the first event time (None: now).
    """

    node: str | None = None
    site: str | None = None
    seed: int = 1
    speed: float | None = 1.0
    minutes: float | None = None
    start_us: int | None = None
    interval_s: float = 1.0
    path: Path | None = None
    keep_time: bool = False
    truth: Path | None = None
    topic_prefix: str = ""
    extra: Mapping[str, str] = field(default_factory=dict[str, str])


class Source(Protocol):
    """A running producer of node records."""

    @property
    def origin(self) -> Origin:
        """What its records are."""
        ...

    @property
    def inventory(self) -> Inventory:
        """The site as the source knows it (an agent: its own node)."""
        ...

    async def run(self, producer: Producer, stop: asyncio.Event) -> None:
        """Publishes until `stop` is set or its end is reached; retries an absent bus itself."""
        ...


class SourceFactory(Protocol):
    """An entry point of `petawatch.sources`.  Raises ValueError for options it cannot serve
    (the message says what to write), BackendUnavailableError where there is nothing to read."""

    def __call__(self, options: SourceOptions, clock: Clock) -> Source: ...
