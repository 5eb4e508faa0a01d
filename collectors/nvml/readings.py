"""The catalogue's calls to one device, each a method of its row's name."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from collectors.contract.source import TransientError
from collectors.nvml.api import Call, Nvml

_CLOCK_SM, _CLOCK_MEMORY = 1, 2
_ECC_CORRECTED, _ECC_UNCORRECTED, _ECC_VOLATILE = 0, 1, 0
_SENSOR_GPU = 0
_MEMORY_V2, _MARGIN_V1 = 0x02000028, 0x01000008
"""A struct's size and version, as the header makes them."""
_POLICY_POWER, _POLICY_THERMAL, _POLICY_SYNC_BOOST = 0, 1, 2
_NOT_A_VALUE = 0xFFFFFFFF


class _Rates(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint), ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )  # fmt: skip


class _Margin(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint), ("margin", ctypes.c_int))


class _Violation(ctypes.Structure):
    _fields_ = (("reference_ns", ctypes.c_ulonglong), ("violated_ns", ctypes.c_ulonglong))


class Readings:
    """Values in catalogue units, whatever the driver gave: a range is the reader's affair.

    Methods raise what `error_for` says.  `begin` starts a tick, within which
    rows that one call serves share it.
    """

    def __init__(self, nvml: Nvml, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._shared: dict[str, Any] = {}
        self._power = self._unsigned("nvmlDeviceGetPowerUsage")
        self._energy = Call(nvml, ["nvmlDeviceGetTotalEnergyConsumption"], ctypes.c_ulonglong(), handle)  # fmt: skip
        self._temperature = self._unsigned("nvmlDeviceGetTemperature", _SENSOR_GPU)
        self._margin = Call(nvml, ["nvmlDeviceGetMarginTemperature"], _Margin(_MARGIN_V1), handle)
        self._sm_clock = self._unsigned("nvmlDeviceGetClockInfo", _CLOCK_SM)
        self._memory_clock = self._unsigned("nvmlDeviceGetClockInfo", _CLOCK_MEMORY)
        self._rates = Call(nvml, ["nvmlDeviceGetUtilizationRates"], _Rates(), handle)
        self._memory = Call(nvml, ["nvmlDeviceGetMemoryInfo_v2"], _Memory(_MEMORY_V2), handle)
        self._pstate = self._unsigned("nvmlDeviceGetPerformanceState")
        self._reasons = Call(
            nvml,
            ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"],
            ctypes.c_ulonglong(), handle,
        )  # fmt: skip
        self._violations = {
            policy: Call(nvml, ["nvmlDeviceGetViolationStatus"], _Violation(), handle, policy)
            for policy in (_POLICY_POWER, _POLICY_THERMAL, _POLICY_SYNC_BOOST)
        }

    def _unsigned(self, name: str, *arguments: int) -> Call:
        return Call(self._nvml, [name], ctypes.c_uint(), self._handle, *arguments)

    def begin(self) -> None:
        """Forgets what a tick's rows have shared."""
        self._shared.clear()

    def _once(self, name: str, call: Callable[[], Any]) -> Any:
        """One call for all rows of a tick that it serves; its failure is shared as well."""
        answer = self._shared.get(name)
        if answer is None:
            try:
                answer = call()
            except RuntimeError as error:
                answer = error
            self._shared[name] = answer
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    def power_w(self) -> float:
        """Board power by the older call, where the field is not there."""
        return _plain(self._power().value) / 1000

    def energy_mj(self) -> int:
        """The energy counter by its own call, where the field is not there."""
        return int(self._energy().value)

    def power_limit_w(self) -> float:
        """Enforced limit."""
        return _plain(self._nvml.number("nvmlDeviceGetEnforcedPowerLimit", self._handle)) / 1000

    def gpu_temperature_c(self) -> float:
        """Core temperature."""
        return float(self._temperature().value)

    def thermal_margin_c(self) -> float:
        """Headroom of the hottest sensor (R570 and later)."""
        return float(self._margin().margin)

    def sm_clock_mhz(self) -> float:
        """SM clock now."""
        return float(self._sm_clock().value)

    def memory_clock_mhz(self) -> float:
        """Memory clock now."""
        return float(self._memory_clock().value)

    def gpu_utilization(self) -> float:
        """Ratio of time with a kernel running; not given with MIG."""
        return self._once("rates", self._rates).gpu / 100

    def memory_utilization(self) -> float:
        """Ratio of time with memory in use."""
        return self._once("rates", self._rates).memory / 100

    def memory_used_bytes(self) -> float:
        """Bytes in use; drivers before R510 count their reserve in, and are not asked."""
        return float(self._once("memory", self._memory).used)

    def memory_total_bytes(self) -> float:
        """Bytes installed."""
        return float(self._once("memory", self._memory).total)

    def fan_speed(self) -> float:
        """Intended speed as a ratio; passive boards have none."""
        return self._nvml.number("nvmlDeviceGetFanSpeed", self._handle) / 100

    def performance_state(self) -> float:
        """0 the highest; 32 is the driver's word for unknown, and out of the row's range."""
        return float(self._pstate().value)

    def clocks_event_reasons(self) -> float:
        """Bits that say why clocks are lowered now."""
        return float(self._reasons().value)

    def pcie_link_generation(self) -> float:
        """PCIe generation in use, which falls on idle devices."""
        return float(self._nvml.number("nvmlDeviceGetCurrPcieLinkGeneration", self._handle))

    def pcie_link_width(self) -> float:
        """PCIe lanes in use."""
        return float(self._nvml.number("nvmlDeviceGetCurrPcieLinkWidth", self._handle))

    def ecc_corrected(self) -> int:
        """Corrected errors, volatile."""
        return self._ecc(_ECC_CORRECTED)

    def ecc_uncorrected(self) -> int:
        """Uncorrected errors, volatile."""
        return self._ecc(_ECC_UNCORRECTED)

    def _ecc(self, kind: int) -> int:
        return self._nvml.number("nvmlDeviceGetTotalEccErrors", self._handle, kind, _ECC_VOLATILE)

    def throttle_power_cap_us(self) -> int:
        """Time below the wanted clocks by power, for drivers without the field."""
        return self._violated_us(_POLICY_POWER)

    def throttle_sw_thermal_us(self) -> int:
        """Time below the wanted clocks by temperature, hardware's part included: drivers
        before R575 do not tell them apart."""
        return self._violated_us(_POLICY_THERMAL)

    def throttle_sync_boost_us(self) -> int:
        """Time below the wanted clocks by sync boost, for drivers without the field."""
        return self._violated_us(_POLICY_SYNC_BOOST)

    def _violated_us(self, policy: int) -> int:
        return _plain(self._violations[policy]().violated_ns) // 1000


def _plain(value: int) -> int:
    """An unsigned answer that is one; TransientError for the driver's "no value"."""
    if value == _NOT_A_VALUE:
        raise TransientError("the driver gave no value")
    return value
