"""The one file that speaks to nvidia-ml-py: its calls, in our words and SI units.

What is asked once goes through the bindings' own wrappers.  What is asked at
every tick goes through `Call`: the bindings' function pointers with arguments
made once, since the wrappers make new ones each time (a read of eight GPUs
costs a third of what it did with them).
"""

from __future__ import annotations

import ctypes
import importlib
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from collectors.contract.identity import Slot, pack_slot
from collectors.nvml.errors import FUNCTION_NOT_FOUND, NO_DATA, error_for

_GPM_VERSION = 1
GPM_METRICS_AT_MOST = 13
"""The struct's array has grown from release to release without a new version: small
requests fit all of them."""
_GPM_METRIC = struct.Struct("=IId24x")
"""id, return code, value, and three names that are not read."""
_GPM_ANSWER = "4xId24x"
"""What is read of it."""
_NVIDIA = 0x10DE


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sits in a slot; empty where the device does not say."""

    slot: int
    uuid: str
    model: str
    serial: str
    pci_device_id: int | None = None


class Call:
    """A call whose arguments are made once; it returns what `result` then holds.

    The function is looked up at the first call, which raises UnsupportedError
    where the driver's library has none of the names.
    """

    __slots__ = ("_arguments", "_function", "_names", "_nvml", "_result")

    def __init__(self, nvml: Nvml, names: Sequence[str], result: Any, *arguments: object) -> None:
        self._nvml, self._names, self._result = nvml, names, result
        self._arguments = (*arguments, ctypes.byref(result))
        self._function: Callable[..., int] | None = None

    def __call__(self) -> Any:
        function = self._function or self._find()
        code = function(*self._arguments)
        if code:
            raise error_for(code, self._names[0])
        return self._result

    def _find(self) -> Callable[..., int]:
        for name in self._names[:-1]:
            if self._nvml.has(name):
                break
        else:
            name = self._names[-1]
        self._function = self._nvml.function(name)
        return self._function


class Nvml:
    """NVML once it is opened; every method raises what `error_for` says."""

    def __init__(self) -> None:
        self._py: Any = None
        self._initialised = False
        self._functions: dict[str, Callable[..., int]] = {}

    def open(self) -> None:
        """Loads and initialises the library, unless it is: NVML counts how often it is."""
        if self._initialised:
            return
        self._py = importlib.import_module("pynvml")
        self._call("nvmlInit")
        self._initialised = True

    def close(self) -> None:
        """Lets the driver go; what fails on the way out no longer matters to anybody."""
        if not self._initialised:
            return
        self._initialised = False
        try:
            self._py.nvmlShutdown()
        except self._py.NVMLError:
            return

    def _call(self, name: str, *arguments: object) -> Any:
        function: Callable[..., Any] | None = getattr(self._py, name, None)
        if function is None:
            raise error_for(FUNCTION_NOT_FOUND, name)
        try:
            return function(*arguments)
        except self._py.NVMLError as error:
            raise error_for(int(error.value), name) from None

    def function(self, name: str) -> Callable[..., int]:
        """The library's own function, which returns a code; UnsupportedError without it."""
        found = self._functions.get(name)
        if found is None:
            try:
                found = self._py._nvmlGetFunctionPointer(name)  # noqa: SLF001 - the bindings' only way to ask
            except self._py.NVMLError as error:
                raise error_for(int(error.value), name) from None
            self._functions[name] = found
        return found

    def has(self, name: str) -> bool:
        """Whether the driver's library has a function."""
        try:
            self.function(name)
        except RuntimeError:
            return False
        return True

    def driver_version(self) -> str:
        """`580.95.05`."""
        return str(self._call("nvmlSystemGetDriverVersion"))

    def count(self) -> int:
        """GPUs that the driver knows, lost ones among them."""
        return int(self._call("nvmlDeviceGetCount"))

    def handle(self, index: int) -> Any:
        """A device's handle by its index, which changes over reboots."""
        return self._call("nvmlDeviceGetHandleByIndex", index)

    def place(self, handle: Any) -> tuple[int, int | None]:
        """The packed slot of the PCI address, whose domain has eight digits, and the maker's
        16-bit device id."""
        pci = self._call("nvmlDeviceGetPciInfo", handle)
        slot = pack_slot(Slot(int(pci.domain), int(pci.bus), int(pci.device), 0))
        both = int(pci.pciDeviceId)
        return slot, both >> 16 if both & 0xFFFF == _NVIDIA else None

    def text(self, name: str, handle: Any) -> str:
        """The answer of a call that names something, without blanks."""
        return str(self._call(name, handle)).strip()

    def ask(self, name: str, *arguments: object) -> Any:
        """The answer of one of the bindings' wrappers, as it gives it."""
        return self._call(name, *arguments)

    def number(self, name: str, handle: Any, *arguments: int) -> int:
        """The answer of a call that gives one integer."""
        return int(self._call(name, handle, *arguments))

    def gpm_supported(self, handle: Any) -> bool:
        """Whether the device says that it has GPM; samples may fail all the same."""
        return bool(self._call("nvmlGpmQueryDeviceSupport", handle).isSupportedDevice)

    def gpm_alloc(self) -> Any:
        """Room for one sample."""
        return self._call("nvmlGpmSampleAlloc")

    def gpm_free(self, sample: Any) -> None:
        """Gives a sample's room back; to be done before `close`."""
        self._call("nvmlGpmSampleFree", sample)

    def gpm_sample(self, handle: Any, sample: Any, gpu_instance: int | None = None) -> None:
        """Takes a sample of a GPU, or of one of its MIG GPU instances."""
        if gpu_instance is None:
            name, arguments = "nvmlGpmSampleGet", (handle, sample)
        else:
            name, arguments = "nvmlGpmMigSampleGet", (handle, gpu_instance, sample)
        function = self._functions.get(name) or self.function(name)
        code = function(*arguments)
        if code:
            raise error_for(code, name)

    def gpm_request(self, metrics: Sequence[int]) -> GpmRequest:
        """A request for some metrics, to be used again and again; ValueError above 13."""
        return GpmRequest(self, self._py.c_nvmlGpmMetricsGet_t, metrics)

    def gpm_ratios(self, request: GpmRequest, older: Any, newer: Any) -> list[float]:
        """Metrics in percent as ratios between two samples; NaN where one has none."""
        return [value / 100 for value in request.values(older, newer)]


class GpmRequest:
    """A question for GPM metrics between two samples."""

    def __init__(self, nvml: Nvml, struct_type: Any, metrics: Sequence[int]) -> None:
        if len(metrics) > GPM_METRICS_AT_MOST:
            raise ValueError(f"ask for at most {GPM_METRICS_AT_MOST} GPM metrics at once")
        self._bytes = bytearray(ctypes.sizeof(struct_type))
        self._request = struct_type.from_buffer(self._bytes)
        self._request.version = _GPM_VERSION
        self._request.numMetrics = len(metrics)
        # The bindings' own way of setting a member looks for text to encode.
        self._set_older, self._set_newer = struct_type.sample1.__set__, struct_type.sample2.__set__
        self._call = Call(nvml, ["nvmlGpmMetricsGet"], self._request)
        self._start = start = struct_type.metrics.offset
        self._answers = slice(start, start + _GPM_METRIC.size * len(metrics))
        self._unpack = struct.Struct("=" + _GPM_ANSWER * len(metrics)).unpack_from
        # An answer that the driver does not write is none, rather than the last one again.
        self._blank = b"".join(_GPM_METRIC.pack(metric, NO_DATA, math.nan) for metric in metrics)

    def values(self, older: Any, newer: Any) -> Sequence[float]:
        """Each metric as the driver gives it (percent, MiB/s, cycles); NaN where it has none."""
        self._set_older(self._request, older)
        self._set_newer(self._request, newer)
        self._bytes[self._answers] = self._blank
        self._call()
        found = self._unpack(self._bytes, self._start)
        codes, values = found[::2], found[1::2]
        if not any(codes) and math.isfinite(sum(values)):
            return values
        return [
            value if code == 0 and math.isfinite(value) else math.nan
            for code, value in zip(codes, values, strict=True)
        ]
