"""One simulated node behind the agent's `Backend`, so that an agent runs where no GPU is."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind, Own
from collectors.contract.facts import GpuFacts
from collectors.contract.identity import slot_text
from collectors.contract.record import Origin, SlotLabels
from collectors.contract.source import (
    DeviceEvent,
    DeviceLostError,
    DriverGoneError,
    GpuProcess,
    Sample,
    UnsupportedError,
)
from collectors.kit.clock import Clock, SystemClock
from collectors.simulator.fleet import NEVER
from collectors.simulator.hardware import make_hardware
from collectors.simulator.identities import make_identities
from collectors.simulator.load import Load
from collectors.simulator.physics import Physics
from collectors.simulator.report import Report
from collectors.simulator.sites import GPUS_PER_NODE, make_site
from collectors.simulator.wander import Wander
from collectors.simulator.workload import Workload


class _Node:
    """The state of one node; it moves on when a device is read for the second time."""

    def __init__(self, site: str, seed: int, clock: Clock) -> None:
        whole = make_site(site)
        entry = whole.at(0)[0]
        self._clock = clock
        self._lock = threading.Lock()
        self._start_us = clock.wall_us()
        self._began_us = self._before_us = clock.monotonic_us()
        self.hardware = make_hardware([entry], seed)
        self.identities = make_identities([entry], self.hardware.figures, seed)
        self.epochs = np.random.default_rng([seed, self._start_us]).integers(
            1, 1 << 62, GPUS_PER_NODE
        )
        self._workload = Workload(replace(whole, nodes=(entry,)), seed, self._start_us)
        self._load = Load(GPUS_PER_NODE, seed)
        self._change(self._start_us)
        self._physics = Physics(self.hardware, seed, self._load.activity(0.0))
        known = Report.fixed | Report.renewed | NEVER
        self._wander = {
            m.name: Wander(m, GPUS_PER_NODE, seed) for m in CATALOGUE if m.name not in known
        }
        self._names = [
            (metric.name, metric.kind is Kind.COUNTER)
            for metric in CATALOGUE
            if metric.name not in NEVER and not isinstance(metric.read, Own)
        ]
        self._read: set[int] = set()
        self._steps = 0
        self._step()

    def _change(self, until_us: int) -> None:
        for change in self._workload.changes(until_us):
            (self._load.start if change.started else self._load.end)(change.job)

    def _step(self) -> None:
        now_us = self._clock.monotonic_us()
        self._change(self._start_us + now_us - self._began_us)
        activity = self._load.activity((now_us - self._began_us) / 1e6)
        elapsed_us = np.full(GPUS_PER_NODE, now_us - self._before_us, np.int64)
        self._physics.step(activity, self._load.memory, elapsed_us)
        for name, metric in self._wander.items():
            self._physics.columns[name] = metric.column(self._steps)
        self._before_us = now_us
        self._steps += 1
        self._read.clear()

    def values(self, index: int) -> dict[str, float]:
        """What the driver says of a GPU now; devices are read in several threads."""
        with self._lock:
            return self._values(index)

    def _values(self, index: int) -> dict[str, float]:
        if index in self._read:
            self._step()
        self._read.add(index)
        out: dict[str, float] = {}
        for name, counter in self._names:
            value = self._physics.columns[name][index].item()
            if not (value == COUNTER_ABSENT if counter else math.isnan(value)):
                out[name] = value
        return out

    def occupant(self, index: int) -> str:
        """The job that holds a GPU."""
        job = self._workload.running.get(int(self._load.owner[index]))
        return "" if job is None else job.label


class SimulatorDevice:
    """One GPU of the node."""

    def __init__(self, node: _Node, index: int) -> None:
        self._node: _Node | None = node
        self._index = index
        self._identity = node.identities[index]
        self._epoch = int(node.epochs[index])
        self._down = bool(node.hardware.down[index])

    @property
    def slot(self) -> int:
        """Packed slot."""
        return self._identity.slot

    @property
    def labels(self) -> SlotLabels:
        """Who sits in it now."""
        occupant = "" if self._node is None else self._node.occupant(self._index)
        return replace(self._identity, occupant=occupant)

    @property
    def energy_epoch(self) -> int:
        """The energy counter begins anew whenever the backend is opened."""
        return self._epoch

    def read(self) -> Sequence[Sample]:
        """Current values; raises DeviceLostError for a GPU off the bus, DriverGoneError when closed."""
        return [Sample(self.labels, self._epoch, self._values())]

    def _values(self) -> Mapping[str, float]:
        if self._node is None:
            raise DriverGoneError("the simulated driver is closed")
        if self._down:
            raise DeviceLostError(f"simulated GPU {self._index} is off the bus")
        return self._node.values(self._index)

    def processes(self) -> Sequence[GpuProcess]:
        """A simulated job has no processes."""
        raise UnsupportedError("simulated jobs have no processes")

    def facts(self) -> Sequence[GpuFacts]:
        """Its identity."""
        one = self._identity
        return [GpuFacts(slot_text(one.slot), one.uuid, one.model, one.serial, self._index)]

    def detach(self) -> None:
        """Closes it."""
        self._node = None


class SimulatorBackend:
    """The first node of a simulated site, in real time."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        interval_s: float = 1.0,
        site: str = "demo",
        seed: int = 1,
    ) -> None:
        self._clock = SystemClock() if clock is None else clock
        self.interval_s = interval_s
        self._site, self._seed = site, seed
        self._devices: list[SimulatorDevice] = []

    @property
    def origin(self) -> Origin:
        """Simulated."""
        return Origin.SIMULATED

    @property
    def driver(self) -> str:
        """None."""
        return ""

    def wait_events(self, timeout_s: float) -> Sequence[DeviceEvent]:
        """Simulated GPUs report none."""
        raise UnsupportedError(f"simulated GPUs report no events (asked for {timeout_s} s)")

    def open(self) -> None:
        """Begins to simulate.  Raises ValueError for an unknown site."""
        node = _Node(self._site, self._seed, self._clock)
        self._devices = [SimulatorDevice(node, index) for index in range(GPUS_PER_NODE)]

    def devices(self) -> Sequence[SimulatorDevice]:
        """The eight GPUs of the node."""
        return self._devices

    def rescan(self) -> None:
        """Finds what it had found: simulated GPUs neither come nor go yet."""

    def missing(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Ends the simulation; devices that are still held say so when read."""
        for device in self._devices:
            device.detach()
        self._devices = []
