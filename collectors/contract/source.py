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
from typing import NamedTuple, Protocol

from collectors.contract.bus import Producer
from collectors.contract.facts import GpuFacts
from collectors.contract.flop import FlopWindow
from collectors.contract.inventory import Inventory
from collectors.contract.record import Origin, SlotLabels
from collectors.kit.clock import Clock


class TransientError(RuntimeError):
    """The device gave nothing this time: ask at the next tick."""


class UnsupportedError(RuntimeError):
    """This is never given here: do not ask again until the backend is opened anew."""


class DeviceLostError(RuntimeError):
    """The device is gone or must be reset: leave it alone until the next rescan."""


class DriverGoneError(RuntimeError):
    """No device can be read: close the backend and open it again, with patience."""


class BackendUnavailableError(RuntimeError):
    """There is nothing here to read (no driver, no library); the message says what to do."""


class RestartNeededError(BackendUnavailableError):
    """Only a new process can read again (the library in memory is not the driver's any more)."""


class Sample(NamedTuple):
    """What one slot said at one reading.

    `values` are by catalogue name in catalogue units, gauges as float,
    counters as int, without the agent's own integrals; what cannot be read is
    left out.  A metric that is read more seldom than the tick stands in the
    sample of the tick at which it was read, and in no other.
    """

    labels: SlotLabels
    energy_epoch: int
    """64 bits that change when the energy counter starts again."""
    values: Mapping[str, float]
    flop: FlopWindow | None = None
    """The window that ends now; None where the device measures none, and then
    `tensor_activity` and the SM clock stand for it, or an estimate."""
    parent: int | None = None
    """The packed slot of the GPU that a MIG instance is a part of."""


class GpuProcess(NamedTuple):
    """One process that has a context on a slot."""

    slot: int
    pid: int
    memory_bytes: int | None = None
    sm_utilization: float | None = None
    """Ratio of the time since the last question; None where the device does not say."""


class DeviceEvent(NamedTuple):
    """Something that a driver reported by itself."""

    kind: str
    """`xid`, `ecc_single`, `ecc_double`, `ecc_storm`, `page_retired`, `poison`, `mig_changed`,
    `gpu_unavailable`, `recovery_action`; in the kernel log also `sxid` (its slot is the
    NVSwitch's), `init_failed`, `driver_mismatch`."""
    slot: int | None
    uuid: str = ""
    code: int | None = None
    text: str = ""
    time_us: int | None = None
    """When it was, for one that is reported later; None is now."""


class Device(Protocol):
    """One physical GPU, with the instances that it is divided into.

    Its methods are called from one thread at a time, but not always the same.
    """

    @property
    def slot(self) -> int:
        """Packed slot of the whole GPU."""
        ...

    @property
    def labels(self) -> SlotLabels:
        """Who sits in it now."""
        ...

    @property
    def energy_epoch(self) -> int:
        """As `Sample.energy_epoch` of the whole GPU."""
        ...

    def read(self) -> Sequence[Sample]:
        """The GPU's sample, then those of its instances in order of slot.

        Raises TransientError, DeviceLostError or DriverGoneError.
        """
        ...

    def processes(self) -> Sequence[GpuProcess]:
        """Who computes on it and its instances; raises as `read`, and UnsupportedError."""
        ...

    def facts(self) -> Sequence[GpuFacts]:
        """What is known of it and its instances without asking the driver again."""
        ...


class Backend(Protocol):
    """All GPUs of one node."""

    @property
    def origin(self) -> Origin:
        """Measured, or simulated."""
        ...

    @property
    def driver(self) -> str:
        """The driver's version, "" where there is none."""
        ...

    def open(self) -> None:
        """Loads the library and finds devices.  Raises BackendUnavailableError."""
        ...

    def devices(self) -> Sequence[Device]:
        """The devices found, in order of slot; lost ones stay listed until a rescan."""
        ...

    def rescan(self) -> None:
        """Looks again: devices come back, go, or change their labels.  Called in a thread of its
        own, beside readings and `wait_events`."""
        ...

    def missing(self) -> Mapping[str, str]:
        """What of the node cannot be had → why, without asking the driver again."""
        ...

    def wait_events(self, timeout_s: float) -> Sequence[DeviceEvent]:
        """Blocks until the driver reports something, at most so long; called from a thread of
        its own, beside readings.  Raises UnsupportedError where there are none to be had,
        DriverGoneError."""
        ...

    def close(self) -> None:
        """Lets the driver go.  Never called while another call is under way."""
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
