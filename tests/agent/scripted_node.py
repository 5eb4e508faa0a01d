"""A node whose devices say what a test has written down: the contract's Protocols, no library."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence

from collectors.contract.facts import GpuFacts
from collectors.contract.flop import FlopWindow
from collectors.contract.identity import slot_text
from collectors.contract.record import Origin, SlotLabels
from collectors.contract.source import (
    BackendUnavailableError,
    DeviceEvent,
    GpuProcess,
    Sample,
    UnsupportedError,
)


class ScriptedDevice:
    """Gives `values`, or raises `error`."""

    def __init__(self, slot: int, values: Mapping[str, float], model: str = "") -> None:
        self.slot = slot
        self.values: Mapping[str, float] = values
        self.error: Exception | None = None
        self.labels = SlotLabels(slot, f"GPU-{slot}", model)
        self.energy_epoch = 1000 + slot
        self.before_read: Callable[[], object] | None = None
        self.windows: list[FlopWindow] = []
        """One is given with each reading, for as long as there are any."""
        self.running: Sequence[GpuProcess] = ()
        self.processes_error: Exception | None = None
        self.instances: list[Sample] = []
        self.state = "ok"
        self.readings = 0

    def read(self) -> Sequence[Sample]:
        """As scripted."""
        self.readings += 1
        if self.before_read is not None:
            self.before_read()
        if self.error is not None:
            raise self.error
        window = self.windows.pop(0) if self.windows else None
        return [Sample(self.labels, self.energy_epoch, self.values, window), *self.instances]

    def processes(self) -> Sequence[GpuProcess]:
        """As scripted."""
        if self.processes_error is not None:
            raise self.processes_error
        return self.running

    def facts(self) -> Sequence[GpuFacts]:
        """Its slot."""
        labels = self.labels
        return [
            GpuFacts(slot_text(self.slot), labels.uuid, labels.model, number=0, state=self.state)
        ]


class ScriptedBackend:
    """Holds its devices; counts what is done to it."""

    origin = Origin.MEASURED
    driver = ""

    def __init__(self, devices: Sequence[ScriptedDevice]) -> None:
        self.found = list(devices)
        self.available = True
        self.opened = self.closed = self.rescans = 0
        self.on_rescan: Callable[[], object] | None = None
        self.on_open: Callable[[], object] | None = None
        self.hears = False
        """Whether there are events to be had; put them, or an error, into `reports`."""
        self.reports: queue.SimpleQueue[DeviceEvent | Exception] = queue.SimpleQueue()
        self.listening = 0
        """Calls of `wait_events` that are under way."""

    def open(self) -> None:
        """Refuses while not `available`."""
        if self.on_open is not None:
            self.on_open()
        if not self.available:
            raise BackendUnavailableError("no driver")
        self.opened += 1

    def devices(self) -> Sequence[ScriptedDevice]:
        """As scripted."""
        return self.found

    def wait_events(self, timeout_s: float) -> Sequence[DeviceEvent]:
        """What was put into `reports`."""
        if not self.hears:
            raise UnsupportedError(f"no events within {timeout_s} s")
        self.listening += 1
        try:
            report = self.reports.get(timeout=timeout_s)
        except queue.Empty:
            return ()
        finally:
            self.listening -= 1
        if isinstance(report, Exception):
            raise report
        return [report]

    def rescan(self) -> None:
        """Counted."""
        self.rescans += 1
        if self.on_rescan is not None:
            self.on_rescan()

    def missing(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Counted; refuses what a library would not survive."""
        assert self.listening == 0, "closed beside a call that is under way"
        self.closed += 1
