"""One GPU: its samples, processes and facts, and what becomes of it when it fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from collectors.contract.facts import GpuFacts
from collectors.contract.flop import FlopWindow
from collectors.contract.identity import slot_text
from collectors.contract.models import find_model
from collectors.contract.record import SlotLabels
from collectors.contract.source import (
    DeviceLostError,
    GpuProcess,
    Sample,
    TransientError,
    UnsupportedError,
)
from collectors.kit.clock import Clock
from collectors.nvml.activity import Activity
from collectors.nvml.api import Identity, Nvml
from collectors.nvml.epoch import EnergyEpochs
from collectors.nvml.errors import NeedsResetError
from collectors.nvml.fields import PlannedField
from collectors.nvml.flop import FlopMeter
from collectors.nvml.gate import Gate
from collectors.nvml.limits import DeviceLimits, read_limits
from collectors.nvml.mig import MigInstances
from collectors.nvml.processes import ProcessReader
from collectors.nvml.values import DeviceValues

_log = logging.getLogger(__name__)
_INSTANCES_EVERY_US = 60_000_000
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all devices of a backend share."""

    nvml: Nvml
    gate: Gate
    clock: Clock
    plan: Sequence[PlannedField]
    host: str
    """What energy counters continue over, beside the GPU itself."""
    window_us: int
    """A window of activity that took longer is a gap, not a measurement."""


class NvmlDevice:
    """A `Device` of the contract.

    Its calls go through the gate, so that the library is never closed beneath
    one, and through a lock of its own, so that `release` waits for no call: a
    device that is released while it is read frees what it holds afterwards.
    """

    def __init__(
        self,
        around: Surroundings,
        handle: Any,
        identity: Identity,
        energy: EnergyEpochs,
        *,
        phase: float = 0.0,
    ) -> None:
        self._around, self.handle, self._identity = around, handle, identity
        self._nvml, self._clock = around.nvml, around.clock
        self.slot, self.uuid = identity.slot, identity.uuid
        self.labels = SlotLabels(identity.slot, identity.uuid, identity.model, identity.serial)
        self.state, self._reason = "ok", ""
        self.events_refused = ""
        """Why the driver reports no events of this GPU, "" where it does."""
        self._busy = threading.Lock()
        self._released = False
        self._energy = energy
        self._model = find_model(identity.model, identity.pci_device_id)
        self._values = DeviceValues(around.nvml, handle, identity.uuid, around.plan, phase=phase)
        self._processes = ProcessReader(around.nvml, handle, identity.slot)
        self._no_processes = ""
        self._limits: DeviceLimits | None = None
        self._activity: Activity | None = None
        self._mig: MigInstances | None = None
        self._divided = False
        self._instances_us = 0

    @property
    def energy_epoch(self) -> int:
        """See the contract."""
        return self._energy.epoch

    @property
    def lost(self) -> bool:
        """Whether it is left alone until a rescan finds it again."""
        return self.state != "ok"

    def read(self) -> Sequence[Sample]:
        """See the contract's `Device.read`."""
        return self._in_driver(self._read)

    def processes(self) -> Sequence[GpuProcess]:
        """See the contract's `Device.processes`."""
        if self._no_processes:
            raise UnsupportedError(self._no_processes)
        try:
            return self._in_driver(lambda: self._processes.read(divided=self._divided))
        except UnsupportedError as error:
            self._no_processes = str(error)
            raise

    def _in_driver(self, call: Callable[[], _Answer]) -> _Answer:
        with self._around.gate:
            try:
                with self._busy:
                    return self._guarded(call)
            finally:
                if self._released:
                    self._free()

    def _guarded(self, call: Callable[[], _Answer]) -> _Answer:
        if self.lost:
            raise DeviceLostError(self._reason)
        if self._released:
            raise TransientError("the device has been found anew")
        try:
            return call()
        except DeviceLostError as error:
            self.lose(str(error), "needs_reset" if isinstance(error, NeedsResetError) else "lost")
            raise

    def lose(self, reason: str, state: str = "lost") -> None:
        """Leaves it alone until a rescan finds it again."""
        self.state, self._reason = state, reason

    def _read(self) -> list[Sample]:
        if self._limits is None:
            self._begin()
        now_us = self._clock.monotonic_us()
        self._follow_instances(now_us)
        values = self._values.read(now_us)
        window = self._measure(values, now_us)
        if not values:
            raise TransientError(f"{self.uuid} gave nothing")
        if "energy_mj" in values:
            self._energy.take(int(values["energy_mj"]), now_us, self._clock.wall_us())
        sample = Sample(self.labels, self._energy.epoch, values, window)
        return self._with_instances(sample) if self._divided else [sample]

    def _begin(self) -> None:
        """Asks once for what is fixed, at the first reading: a device that fails here is known."""
        nvml, handle, clock, model = self._nvml, self.handle, self._clock, self._model
        limits = read_limits(nvml, handle, model)
        longest_us = self._around.window_us
        self._activity = self._new_activity(limits)
        self._mig = MigInstances(nvml, handle, self._identity, model, clock, longest_us)
        self._limits = limits

    def _new_activity(self, limits: DeviceLimits) -> Activity:
        meter = FlopMeter(
            self._nvml, self.handle, self._clock, self._model, limits.sm_count,
            self._around.window_us,
        )  # fmt: skip
        return Activity(meter, limits.limits.get("max_sm_clock_mhz"))

    def _follow_instances(self, now_us: int) -> None:
        """Finds MIG instances anew each minute, and once the driver says that they changed."""
        if now_us < self._instances_us or self._mig is None:
            return
        changed = not self._instances_us
        self._instances_us = now_us + _INSTANCES_EVERY_US
        try:
            self._mig.refresh(changed=changed)
        except TransientError as error:
            self._instances_us = 0 if changed else self._instances_us
            self._values.faults.failed(error)
            return
        if self._mig.active != self._divided:
            self._divided = self._mig.active
            self._values.ask_again(mig=self._divided)
            if self._activity is not None and self._limits is not None:
                self._close(self._activity.close)
                self._activity = self._new_activity(self._limits)

    def mig_changed(self) -> None:
        """The driver has said that instances came or went: the next reading looks."""
        self._instances_us = 0

    def _measure(self, values: dict[str, float], now_us: int) -> FlopWindow | None:
        activity = self._activity
        if activity is None:
            return None
        try:
            window, bytes_moved = activity.take(values, now_us)
        except TransientError as error:
            self._values.faults.failed(error)
            return None
        self._values.add_traffic(values, bytes_moved)
        return window

    def _with_instances(self, sample: Sample) -> list[Sample]:
        mig = self._mig
        if mig is None:
            return [sample]
        try:
            instances = mig.samples(sample)
        except TransientError as error:
            self._values.faults.failed(error)
            return [sample]
        values = {**sample.values, **mig.parent_gauges}
        return [sample._replace(values=values, flop=mig.parent_flop), *instances]

    def facts(self) -> Sequence[GpuFacts]:
        """See the contract's `Device.facts`."""
        one, limits, activity = self._identity, self._limits or DeviceLimits(), self._activity
        unsupported = dict(self._values.unsupported) | limits.missing
        if activity is not None:
            unsupported |= activity.unsupported()
        if self._no_processes:
            unsupported["processes"] = self._no_processes
        if self.events_refused:
            unsupported["events"] = self.events_refused
        whole = GpuFacts(
            slot_text(one.slot), one.uuid, one.model, one.serial, limits.number,
            sm_count=limits.sm_count, limits=dict(limits.limits),
            flop_method=activity.method if activity is not None else "none",
            flop_reason=activity.reason if activity is not None else "",
            unsupported=unsupported, state=self.state,
        )  # fmt: skip
        return [whole, *(self._mig.facts() if self._mig is not None and self._divided else ())]

    def release(self) -> None:
        """Frees what the driver holds for it, now or when the call that is under way has ended."""
        self._released = True
        self._free()

    def _free(self) -> None:
        if not self._busy.acquire(blocking=False):
            return
        try:
            held, self._activity, self._mig = (self._activity, self._mig), None, None
            for one in held:
                if one is not None:
                    self._close(one.close)
        finally:
            self._busy.release()

    def _close(self, close: Callable[[], None]) -> None:
        try:
            close()
        except (RuntimeError, OSError) as error:  # a sick device may refuse
            _log.warning("gpm_not_freed uuid=%s reason=%s", self.uuid, error)
