"""The one file that speaks to nvidia-ml-py: its calls, in our words and SI units."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from collectors.contract.identity import Slot, pack_slot
from collectors.nvml.errors import error_for

_DOUBLE, _UINT, _ULONG, _ULONGLONG, _SLLONG, _SINT, _USHORT = range(7)
_VALUE_MEMBERS = {
    _DOUBLE: "dVal", _UINT: "uiVal", _ULONG: "ulVal", _ULONGLONG: "ullVal",
    _SLLONG: "sllVal", _SINT: "siVal", _USHORT: "usVal",
}  # fmt: skip
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
_ECC_CORRECTED, _ECC_UNCORRECTED, _ECC_VOLATILE = 0, 1, 0
_SENSOR_GPU = 0
_FUNCTION_NOT_FOUND = 13
_GPM_VERSION = 1
GPM_METRICS_AT_MOST = 13
"""The struct's array has grown from release to release without a new version: small
requests fit all of them."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sits in a slot; empty where the device does not say."""

    slot: int
    uuid: str
    model: str
    serial: str


class FieldValue(NamedTuple):
    """One answer of a batch: a value, or the code that says why there is none."""

    code: int
    value: float


class Nvml:
    """NVML once it is opened; every method raises what `error_for` says."""

    def __init__(self) -> None:
        self._py: Any = None

    def open(self) -> None:
        """Loads and initialises the library."""
        self._py = importlib.import_module("pynvml")
        self._call("nvmlInit")

    def close(self) -> None:
        """Lets the driver go; what fails on the way out no longer matters to anybody."""
        if self._py is None:
            return
        try:
            self._py.nvmlShutdown()
        except self._py.NVMLError:
            return

    def _call(self, name: str, *arguments: object) -> Any:
        function: Callable[..., Any] | None = getattr(self._py, name, None)
        if function is None:
            raise error_for(_FUNCTION_NOT_FOUND, name)
        try:
            return function(*arguments)
        except self._py.NVMLError as error:
            raise error_for(int(error.value), name) from None

    def driver_version(self) -> str:
        """`580.95.05`."""
        return str(self._call("nvmlSystemGetDriverVersion"))

    def count(self) -> int:
        """GPUs that the driver knows, lost ones among them."""
        return int(self._call("nvmlDeviceGetCount"))

    def handle(self, index: int) -> Any:
        """A device's handle by its index, which changes over reboots."""
        return self._call("nvmlDeviceGetHandleByIndex", index)

    def handle_at(self, address: str) -> Any:
        """A device's handle by its PCI address."""
        return self._call("nvmlDeviceGetHandleByPciBusId", address)

    def slot(self, handle: Any) -> int:
        """The packed slot of the PCI address, whose domain has eight digits."""
        pci = self._call("nvmlDeviceGetPciInfo", handle)
        return pack_slot(Slot(int(pci.domain), int(pci.bus), int(pci.device), 0))

    def text(self, name: str, handle: Any) -> str:
        """The answer of a call that names something, without blanks."""
        return str(self._call(name, handle)).strip()

    def fields(self, handle: Any, wanted: Sequence[tuple[int, int]]) -> list[FieldValue]:
        """Values of (field, scope) pairs, in order, in one call to the driver."""
        answers = self._call("nvmlDeviceGetFieldValues", handle, list(wanted))
        return [_field_value(answer) for answer in answers]

    def number(self, name: str, handle: Any, *arguments: int) -> int:
        """The answer of a call that gives one integer."""
        return int(self._call(name, handle, *arguments))

    def utilization(self, handle: Any) -> tuple[float, float]:
        """GPU and memory utilisation, ratios."""
        rates = self._call("nvmlDeviceGetUtilizationRates", handle)
        return rates.gpu / 100, rates.memory / 100

    def memory(self, handle: Any) -> tuple[int, int]:
        """Used and total bytes; the driver's reserve is not counted as used."""
        info = self._call("nvmlDeviceGetMemoryInfo", handle, self._py.nvmlMemory_v2)
        return int(info.used), int(info.total)

    def sm_clock_mhz(self, handle: Any) -> float:
        """The SM clock now."""
        return float(self.number("nvmlDeviceGetClockInfo", handle, _CLOCK_SM))

    def memory_clock_mhz(self, handle: Any) -> float:
        """The memory clock now."""
        return float(self.number("nvmlDeviceGetClockInfo", handle, _CLOCK_MEMORY))

    def gpu_temperature_c(self, handle: Any) -> float:
        """The core's temperature."""
        return float(self.number("nvmlDeviceGetTemperature", handle, _SENSOR_GPU))

    def ecc_errors(self, handle: Any, *, corrected: bool) -> int:
        """Memory errors since the driver was loaded."""
        kind = _ECC_CORRECTED if corrected else _ECC_UNCORRECTED
        return self.number("nvmlDeviceGetTotalEccErrors", handle, kind, _ECC_VOLATILE)

    def gpm_supported(self, handle: Any) -> bool:
        """Whether the device says that it has GPM; samples may fail all the same."""
        return bool(self._call("nvmlGpmQueryDeviceSupport", handle).isSupportedDevice)

    def gpm_alloc(self) -> Any:
        """Room for one sample."""
        return self._call("nvmlGpmSampleAlloc")

    def gpm_free(self, sample: Any) -> None:
        """Gives a sample's room back; to be done before `close`."""
        self._call("nvmlGpmSampleFree", sample)

    def gpm_sample(self, handle: Any, sample: Any) -> None:
        """Takes a sample."""
        self._call("nvmlGpmSampleGet", handle, sample)

    def gpm_request(self, metrics: Sequence[int]) -> Any:
        """A request for some metrics, to be used again and again; ValueError above 13."""
        if len(metrics) > GPM_METRICS_AT_MOST:
            raise ValueError(f"ask for at most {GPM_METRICS_AT_MOST} GPM metrics at once")
        request = self._py.c_nvmlGpmMetricsGet_t()
        request.numMetrics = len(metrics)
        for position, metric in enumerate(metrics):
            request.metrics[position].metricId = metric
        return request

    def gpm_ratios(self, request: Any, older: Any, newer: Any) -> list[float]:
        """Each metric's mean between two samples as a ratio; NaN where it has none."""
        request.version = _GPM_VERSION
        request.sample1, request.sample2 = older, newer
        self._call("nvmlGpmMetricsGet", request)
        return [_ratio(request.metrics[position]) for position in range(request.numMetrics)]


def _field_value(answer: Any) -> FieldValue:
    member = _VALUE_MEMBERS.get(int(answer.valueType))
    if answer.nvmlReturn != 0 or member is None:
        return FieldValue(int(answer.nvmlReturn) or 21, math.nan)
    return FieldValue(0, getattr(answer.value, member))


def _ratio(metric: Any) -> float:
    value = float(metric.value)
    return value / 100 if metric.nvmlReturn == 0 and math.isfinite(value) else math.nan
