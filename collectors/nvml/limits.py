"""What is fixed about a device and asked once: limits, numbers, its size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from collectors.contract.models import GpuModel
from collectors.contract.source import TransientError, UnsupportedError
from collectors.nvml.api import Nvml
from collectors.nvml.batch import FieldBatch
from collectors.nvml.fields import PlannedField

_CLOCK_SM = 1
_NOT_A_VALUE = 0xFFFFFFFF
_MARGINS = {
    "shutdown_margin_c": 193, "slowdown_margin_c": 194, "memory_max_margin_c": 195,
    "gpu_max_margin_c": 196,
}  # fmt: skip
"""Since Ada a limit is a signed distance from the maximum operating temperature."""
_TEMPERATURES = {
    "shutdown_temperature_c": 0, "slowdown_temperature_c": 1, "memory_max_temperature_c": 2,
    "gpu_max_temperature_c": 3,
}  # fmt: skip
_POWERS = {"min_power_limit_w": 187, "max_power_limit_w": 188, "default_power_limit_w": 189}
_ALWAYS = frozenset({0.0})


@dataclass(slots=True)
class DeviceLimits:
    """Absent is None, or no entry."""

    number: int | None = None
    """The minor number: N of `/dev/nvidiaN`."""
    sm_count: int | None = None
    limits: dict[str, float] = field(default_factory=dict[str, float])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    """What an operator should change → why."""


def read_limits(nvml: Nvml, handle: Any, model: GpuModel | None) -> DeviceLimits:
    """Asks for all of it; what the device does not say is absent.

    Raises DeviceLostError, DriverGoneError or RestartNeededError.
    """
    found = DeviceLimits()
    found.number = _integer(nvml, "nvmlDeviceGetMinorNumber", handle)
    found.sm_count = _sm_count(nvml, handle, model)
    found.limits = _field_limits(nvml, handle)
    _older_limits(nvml, handle, found.limits)
    clock = _integer(nvml, "nvmlDeviceGetMaxClockInfo", handle, _CLOCK_SM)
    if clock:
        found.limits["max_sm_clock_mhz"] = float(clock)
    if _integer(nvml, "nvmlDeviceGetPersistenceMode", handle) == 0:
        found.missing["persistence_mode"] = (
            "off: counters begin again whenever nothing uses the GPU; "
            "run nvidia-persistenced, or nvidia-smi -pm 1"
        )
    return found


def _asked(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (UnsupportedError, TransientError):
        return None


def _integer(nvml: Nvml, name: str, handle: Any, *arguments: int) -> int | None:
    value = _asked(lambda: nvml.number(name, handle, *arguments))
    return None if value == _NOT_A_VALUE else value


def _field_limits(nvml: Nvml, handle: Any) -> dict[str, float]:
    plan = [
        *(_planned(name, number, 1, -60, 60) for name, number in _MARGINS.items()),
        *(_planned(name, number, 1000, 1, 10_000) for name, number in _POWERS.items()),
    ]
    batch = FieldBatch(nvml, handle, plan, lambda _planned, _error: None)
    return _asked(lambda: batch.read(_ALWAYS)) or {}


def _planned(name: str, number: int, divisor: int, low: float, high: float) -> PlannedField:
    return PlannedField(name, number, 0, divisor, 1, counter=False, low=low, high=high)


def _older_limits(nvml: Nvml, handle: Any, limits: dict[str, float]) -> None:
    """By the calls that came before the fields: absolute thresholds, and power."""
    if not _MARGINS.keys() & limits.keys():
        for name, threshold in _TEMPERATURES.items():
            degrees = _integer(nvml, "nvmlDeviceGetTemperatureThreshold", handle, threshold)
            if degrees is not None and 20 <= degrees <= 150:
                limits[name] = float(degrees)
    if "default_power_limit_w" not in limits:
        default = _integer(nvml, "nvmlDeviceGetPowerManagementDefaultLimit", handle)
        if default:
            limits["default_power_limit_w"] = default / 1000
    if "max_power_limit_w" not in limits:
        ends = _asked(lambda: nvml.ask("nvmlDeviceGetPowerManagementLimitConstraints", handle))
        if ends is not None and 0 <= ends[0] <= ends[1] < _NOT_A_VALUE:
            limits["min_power_limit_w"], limits["max_power_limit_w"] = (end / 1000 for end in ends)


def _sm_count(nvml: Nvml, handle: Any, model: GpuModel | None) -> int | None:
    """SMs of this very device, which may have fewer than its model's table says."""
    table = None if model is None else model.sm_count
    cores = _integer(nvml, "nvmlDeviceGetNumGpuCores", handle)
    per_sm = _cores_per_sm(nvml, handle, model)
    if not cores or not per_sm or cores % per_sm:
        return table
    return cores // per_sm


def _cores_per_sm(nvml: Nvml, handle: Any, model: GpuModel | None) -> int | None:
    """By the model's row, else by compute capability: 64 to 8.0, 128 from 8.6 on."""
    if model is not None and model.cores_per_sm is not None:
        return model.cores_per_sm
    capability = _asked(lambda: nvml.ask("nvmlDeviceGetCudaComputeCapability", handle))
    if capability is None or tuple(capability) < (7, 0):
        return None
    return 64 if tuple(capability) <= (8, 0) else 128
