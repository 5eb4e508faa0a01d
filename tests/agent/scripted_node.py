"""A node whose devices say what a test has written down: the contract's Protocols, no library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from collectors.contract.facts import GpuFacts
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

    def read(self) -> Sequence[Sample]:
        """As scripted."""
        if self.before_read is not None:
            self.before_read()
        if self.error is not None:
            raise self.error
        return [Sample(self.labels, self.energy_epoch, self.values)]

    def processes(self) -> Sequence[GpuProcess]:
        """None."""
        return []

    def facts(self) -> Sequence[GpuFacts]:
        """Its slot."""
        return [GpuFacts(slot_text(self.slot), self.labels.uuid, self.labels.model)]


class ScriptedBackend:
    """Holds its devices; counts what is done to it."""

    origin = Origin.MEASURED
    driver = ""

    def __init__(self, devices: Sequence[ScriptedDevice]) -> None:
        self.found = list(devices)
        self.available = True
        self.opened = self.closed = self.rescans = 0

    def open(self) -> None:
        """Refuses while not `available`."""
        if not self.available:
            raise BackendUnavailableError("no driver")
        self.opened += 1

    def devices(self) -> Sequence[ScriptedDevice]:
        """As scripted."""
        return self.found

    def wait_events(self, timeout_s: float) -> Sequence[DeviceEvent]:
        """None to be had."""
        raise UnsupportedError(f"no events within {timeout_s} s")

    def rescan(self) -> None:
        """Counted."""
        self.rescans += 1

    def missing(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Counted."""
        self.closed += 1
