"""How recordings spell what the catalogue has: units, column names, words for absent."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from collectors.contract.catalogue import CATALOGUE, Kind

_ABSENT = frozenset(
    {
        "", "-", "n/a", "[n/a]", "none", "null", "nan", "[not supported]", "not supported",
        "[not found]", "[unknown error]", "unknown error", "[insufficient permissions]",
        "insufficient permissions", "[gpu is lost]", "gpu is lost", "[unknown]", "unknown",
        "[gpu requires reset]", "gpu requires reset", "err!", "[err!]", "error", "[error]", "requested functionality has been deprecated",
        "[requested functionality has been deprecated]", "[deprecated]", "function not found",
    }
)  # fmt: skip
_QUANTITY = re.compile(r"([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*([^\d\s].*)?")
_SCALES = {
    "": (1, 1), "w": (1, 1), "c": (1, 1), "°c": (1, 1), "mhz": (1, 1), "us": (1, 1), "b": (1, 1),
    "ghz": (1000, 1), "mw": (1, 1000), "kw": (1000, 1), "%": (1, 100), "ms": (1000, 1),
    "s": (1_000_000, 1), "ns": (1, 1000), "kib": (2**10, 1), "mib": (2**20, 1),
    "gib": (2**30, 1), "kb": (10**3, 1), "mb": (10**6, 1), "gb": (10**9, 1),
}  # fmt: skip
_ONES = (float(2**31 - 1), float(2**32 - 1))
_ALL_ONES = 9.2e18
"""What drivers write where there is no number: all bits set, of 31, 32, 63 or 64."""
_WORDS = {"no": 0.0, "yes": 1.0}


def absent(text: str) -> bool:
    """Whether a cell says that there is no value: `[N/A]`, `[Not Supported]`, and the like."""
    return text.strip().lower() in _ABSENT


def quantity(text: str, unit: str = "") -> float:
    """The number in a cell in the catalogue's unit; `unit` holds where the cell has none.

    `390.78 W` → 390.78, `97 %` → 0.97, `40536 MiB` → bytes, `P8` → 8, `Yes` → 1.
    Raises ValueError.
    """
    text = text.strip()
    word = _WORDS.get(text.lower())
    if word is not None:
        return word
    match = _QUANTITY.fullmatch(text[1:] if re.fullmatch(r"P\d+", text) else text)
    if match is None:
        raise ValueError(f"not a quantity: {text!r}")
    scale = _SCALES.get((match[2] or unit).strip().lower())
    if scale is None:
        raise ValueError(f"unknown unit in {text!r}")
    number = float(match[1])
    if not math.isfinite(number) or number >= _ALL_ONES or number in _ONES:
        raise ValueError(f"not a quantity: {text!r}")
    return number * scale[0] / scale[1]


def as_metric(name: str, value: float) -> float:
    """The value as the catalogue holds it: counters are whole numbers.  ValueError otherwise."""
    if CATALOGUE.by_name[name].kind is Kind.GAUGE:
        return value
    if value < 0 or value != int(value):
        raise ValueError(f"{name} is a counter, not {value}")
    return int(value)


NAMES: Mapping[str, tuple[str, str]] = {
    "power.draw": ("power_w", "W"),
    "power.draw.instant": ("power_w", "W"),
    "power.draw.average": ("power_average_w", "W"),
    "power_w": ("power_w", "W"),
    "power": ("power_w", "W"),
    "enforced.power.limit": ("power_limit_w", "W"),
    "power.limit": ("power_limit_w", "W"),
    "temperature.gpu": ("gpu_temperature_c", "C"),
    "temperature_c": ("gpu_temperature_c", "C"),
    "temperature": ("gpu_temperature_c", "C"),
    "temperature.memory": ("memory_temperature_c", "C"),
    "temperature.gpu.tlimit": ("thermal_margin_c", "C"),
    "clocks.sm": ("sm_clock_mhz", "MHz"),
    "clocks.current.sm": ("sm_clock_mhz", "MHz"),
    "clocks.mem": ("memory_clock_mhz", "MHz"),
    "clocks.current.memory": ("memory_clock_mhz", "MHz"),
    "utilization.gpu": ("gpu_utilization", "%"),
    "utilization_gpu_percent": ("gpu_utilization", "%"),
    "utilization.memory": ("memory_utilization", "%"),
    "memory.used": ("memory_used_bytes", "MiB"),
    "memory.total": ("memory_total_bytes", "MiB"),
    "utilization_memory_percent": ("memory_utilization", "%"),
    "memory_used_mib": ("memory_used_bytes", "MiB"),
    "memory_total_mib": ("memory_total_bytes", "MiB"),
    "fan.speed": ("fan_speed", "%"),
    "pstate": ("performance_state", ""),
    "ecc.errors.corrected.volatile.total": ("ecc_corrected", ""),
    "ecc.errors.uncorrected.volatile.total": ("ecc_uncorrected", ""),
    "remapped_rows.pending": ("row_remap_pending", ""),
    "remapped_rows.failure": ("row_remap_failure", ""),
    "clocks_event_reasons_counters.sw_power_cap": ("throttle_power_cap_us", "us"),
    "clocks_event_reasons_counters.sw_thermal_slowdown": ("throttle_sw_thermal_us", "us"),
    "clocks_event_reasons_counters.hw_thermal_slowdown": ("throttle_hw_thermal_us", "us"),
    "clocks_event_reasons_counters.hw_power_brake_slowdown": ("throttle_power_brake_us", "us"),
    "clocks_event_reasons_counters.sync_boost": ("throttle_sync_boost_us", "us"),
}
"""Column name → catalogue name, and the unit that holds where neither header nor cell has one."""

IDENTITY: Mapping[str, str] = {
    "timestamp": "time", "time": "time",
    "index": "index", "gpu_index": "index", "gpu": "index",
    "uuid": "uuid", "gpu_uuid": "uuid",
    "name": "model", "gpu_name": "model",
    "serial": "serial", "gpu_serial": "serial",
    "pci.bus_id": "slot", "gpu_bus_id": "slot",
    "hostname": "node", "host": "node", "node": "node",
}  # fmt: skip
