"""One GPU: the catalogue's fields in one batch, its calls as methods of the same name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from collectors.contract.catalogue import CATALOGUE, CallRead
from collectors.contract.facts import GpuFacts
from collectors.contract.identity import slot_text
from collectors.contract.record import SlotLabels
from collectors.contract.source import (
    DeviceLostError,
    GpuProcess,
    Sample,
    TransientError,
    UnsupportedError,
)
from collectors.kit.clock import Clock
from collectors.nvml.api import Identity, Nvml
from collectors.nvml.errors import UnknownFaultError, error_for
from collectors.nvml.fields import PlannedField
from collectors.nvml.gpm import ANY_TENSOR, DRAM, SM, GpmWindows

_log = logging.getLogger(__name__)
_FAULTS_AT_MOST = 3
"""So many unknown faults in a row, with no answer between them, are a sick device."""


class NvmlDevice:
    """A `Device` of the contract.  What it cannot give is asked for once and then left out."""

    def __init__(
        self,
        nvml: Nvml,
        handle: Any,
        identity: Identity,
        plan: Sequence[PlannedField],
        clock: Clock,
        *,
        energy_epoch: int,
        window_us: int,
    ) -> None:
        self._nvml, self._handle, self._clock = nvml, handle, clock
        self._identity = identity
        self.slot = identity.slot
        self.energy_epoch = energy_epoch
        self.labels = SlotLabels(identity.slot, identity.uuid, identity.model, identity.serial)
        self.lost = False
        self._plan = list(plan)
        self._calls = self._named_calls()
        self._once_read: dict[str, Any] = {}
        self._faults = 0
        self._window_us = window_us
        self._gpm: GpmWindows | None = None

    def _named_calls(self) -> dict[str, Callable[[], float]]:
        calls: dict[str, Callable[[], float]] = {}
        for metric in CATALOGUE:
            if isinstance(metric.read, CallRead):
                method = getattr(self, metric.read.method, None)
                if method is None:
                    _log.warning("metric_unreadable name=%s reason=no_method", metric.name)
                else:
                    calls[metric.name] = method
        return calls

    def read(self) -> Sequence[Sample]:
        """See the contract's `Device.read`."""
        return [Sample(self.labels, self.energy_epoch, self._values())]

    def processes(self) -> Sequence[GpuProcess]:
        """Not read yet."""
        raise UnsupportedError("processes are not read")

    def facts(self) -> Sequence[GpuFacts]:
        """Its identity."""
        one = self._identity
        return [GpuFacts(slot_text(one.slot), one.uuid, one.model, one.serial)]

    def _values(self) -> Mapping[str, float]:
        if self.lost:
            raise DeviceLostError(f"{self._identity.uuid} is lost")
        self._once_read.clear()
        values: dict[str, float] = {}
        try:
            self._read_fields(values)
            self._read_calls(values)
        except DeviceLostError:
            self.lost = True
            raise
        if not values:
            raise TransientError(f"{self._identity.uuid} gave nothing")
        return values

    def _read_fields(self, values: dict[str, float]) -> None:
        if not self._plan:
            return
        wanted = [(planned.field, planned.scope) for planned in self._plan]
        try:
            answers = self._nvml.fields(self._handle, wanted)
        except UnsupportedError as error:
            for planned in list(self._plan):
                self._give_up_field(planned, error)
            return
        except TransientError as error:
            self._count_fault(error)
            return
        self._faults = 0
        for planned, answer in zip(list(self._plan), answers, strict=True):
            if answer.code == 0:
                values[planned.metric] = planned.convert(answer.value)
                continue
            error = error_for(answer.code, f"field {planned.field}")
            if isinstance(error, UnsupportedError):
                self._give_up_field(planned, error)
            elif not isinstance(error, TransientError):
                raise error

    def _give_up_field(self, planned: PlannedField, error: UnsupportedError) -> None:
        """Leaves a field out for good; a method of the metric's own name stands in for it."""
        self._plan.remove(planned)
        fallback = getattr(self, planned.metric, None)
        if fallback is not None:
            self._calls[planned.metric] = fallback
        else:
            self._log_given_up(planned.metric, error)

    def _log_given_up(self, metric: str, error: UnsupportedError) -> None:
        _log.info(
            "metric_unsupported name=%s uuid=%s reason=%s", metric, self._identity.uuid, error
        )

    def _read_calls(self, values: dict[str, float]) -> None:
        for name, method in list(self._calls.items()):
            try:
                values[name] = method()
            except UnsupportedError as error:
                del self._calls[name]
                self._log_given_up(name, error)
            except TransientError as error:
                self._count_fault(error)
            else:
                self._faults = 0

    def _count_fault(self, error: TransientError) -> None:
        self._faults = self._faults + 1 if isinstance(error, UnknownFaultError) else 0
        if self._faults >= _FAULTS_AT_MOST:
            raise DeviceLostError(str(error)) from error

    def _once(self, name: str, call: Callable[[], Any]) -> Any:
        """One call to the driver for all metrics of a tick that share it."""
        if name not in self._once_read:
            self._once_read[name] = call()
        return self._once_read[name]

    def power_w(self) -> float:
        """Board power by the older call, where the field is not there."""
        return self._nvml.number("nvmlDeviceGetPowerUsage", self._handle) / 1000

    def energy_mj(self) -> int:
        """The energy counter by its own call, where the field is not there."""
        return self._nvml.number("nvmlDeviceGetTotalEnergyConsumption", self._handle)

    def power_limit_w(self) -> float:
        """Enforced limit."""
        return self._nvml.number("nvmlDeviceGetEnforcedPowerLimit", self._handle) / 1000

    def gpu_temperature_c(self) -> float:
        """Core temperature."""
        return self._nvml.gpu_temperature_c(self._handle)

    def thermal_margin_c(self) -> float:
        """Headroom of the hottest sensor (R570 and later)."""
        return float(self._nvml.number("nvmlDeviceGetMarginTemperature", self._handle))

    def sm_clock_mhz(self) -> float:
        """SM clock now."""
        return self._nvml.sm_clock_mhz(self._handle)

    def memory_clock_mhz(self) -> float:
        """Memory clock now."""
        return self._nvml.memory_clock_mhz(self._handle)

    def _utilization(self) -> tuple[float, float]:
        return self._once("utilization", lambda: self._nvml.utilization(self._handle))

    def gpu_utilization(self) -> float:
        """Ratio of time with a kernel running; not given with MIG."""
        return self._utilization()[0]

    def memory_utilization(self) -> float:
        """Ratio of time with memory in use."""
        return self._utilization()[1]

    def _memory(self) -> tuple[int, int]:
        return self._once("memory", lambda: self._nvml.memory(self._handle))

    def memory_used_bytes(self) -> float:
        """Bytes in use, the reserve not counted."""
        return float(self._memory()[0])

    def memory_total_bytes(self) -> float:
        """Bytes installed."""
        return float(self._memory()[1])

    def fan_speed(self) -> float:
        """Intended speed as a ratio; passive boards have none."""
        return self._nvml.number("nvmlDeviceGetFanSpeed", self._handle) / 100

    def performance_state(self) -> float:
        """0 the highest; 32 is the driver's word for unknown."""
        state = self._nvml.number("nvmlDeviceGetPerformanceState", self._handle)
        if state > 15:
            raise TransientError("performance state unknown")
        return float(state)

    def ecc_corrected(self) -> int:
        """Corrected errors, volatile."""
        return self._nvml.ecc_errors(self._handle, corrected=True)

    def ecc_uncorrected(self) -> int:
        """Uncorrected errors, volatile."""
        return self._nvml.ecc_errors(self._handle, corrected=False)

    def _window(self) -> dict[int, float]:
        """The GPM window that ends now; the first call only begins one."""
        if self._gpm is None:
            if not self._nvml.gpm_supported(self._handle):
                raise UnsupportedError("GPM: not on this GPU")
            self._gpm = GpmWindows(self._nvml, self._handle, self._clock, self._window_us)
            self._gpm.begin()
            return {}
        return self._gpm.next()

    def _activity(self, metric: int) -> float:
        value = self._once("gpm", self._window).get(metric)
        if value is None or value != value:  # noqa: PLR0124 - NaN alone differs from itself
            raise TransientError("no GPM window")
        return value

    def sm_activity(self) -> float:
        """SM activity over the window."""
        return self._activity(SM)

    def tensor_activity(self) -> float:
        """Activity of any tensor pipe over the window."""
        return self._activity(ANY_TENSOR)

    def dram_activity(self) -> float:
        """Memory activity over the window."""
        return self._activity(DRAM)

    def release(self) -> None:
        """Frees what the driver holds for this device; a sick one may refuse."""
        gpm, self._gpm = self._gpm, None
        if gpm is not None:
            try:
                gpm.close()
            except (RuntimeError, OSError) as error:
                _log.warning("gpm_not_freed uuid=%s reason=%s", self._identity.uuid, error)
