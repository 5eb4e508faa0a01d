"""From what a page says of a GPU to the catalogue's values: what is no measurement is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from collectors.contract.catalogue import CATALOGUE, COUNTER_LIMIT, Kind

_NVLINK = ("nvlink_errors_flit", "nvlink_errors_data", "nvlink_errors_replay",
           "nvlink_errors_recovery")  # fmt: skip
_NEVER_ZERO = (
    "power_w", "power_average_w", "gpu_temperature_c", "memory_temperature_c", "sm_clock_mhz",
    "memory_clock_mhz", "power_limit_w", "energy_mj", "memory_total_bytes",
)  # fmt: skip
"""Of these a GPU has more than nothing: DCGM prints 0 for a sensor that is not there."""
_FLAGS = ("row_remap_pending", "row_remap_failure", "retired_page_pending")


def blank(value: float) -> bool:
    """Whether it is none: NaN, infinite, or a word for absent in a number's place.

    DCGM's blanks (dcgm_structs.h) are 0x7FFFFFF0 and up for 32 bits, 2^47 and
    up for floating-point and 0x7FFFFFFFFFFFFFF0 and up for 64 bits, each
    followed by not found, not supported and not permitted; NVML's is 2^32 − 1.
    """
    if -1e15 < value < 2_147_483_632.0:
        return False
    return not (
        2_147_483_648.0 <= value < 9.2e18
        and value != 4_294_967_295.0
        and not 140_737_488_355_328.0 <= value < 140_737_488_355_344.0
    )


def catalogue_values(
    raw: Mapping[str, float], percent: bool | None, rejects: Counter[str]
) -> dict[str, float]:
    """Values by catalogue name in catalogue units, counters as int.

    `raw` is by the names of `names.py`; `percent` says what
    `gpu_utilization_or_percent` is, None that nobody knows.
    """
    merged = dict(raw)
    _merge_power(merged)
    _merge_memory(merged)
    _merge_utilization(merged, percent)
    thermal = merged.get("throttle_thermal_us")
    if thermal is not None and "throttle_hw_thermal_us" not in merged:
        merged.setdefault("throttle_sw_thermal_us", thermal)
    errors = [merged[name] for name in _NVLINK if name in merged]
    if errors:
        merged["nvlink_errors"] = sum(errors)
    for name in _NEVER_ZERO:
        if merged.get(name) == 0:
            del merged[name]
    for name in _FLAGS:
        if name in merged:
            merged[name] = min(merged[name], 1.0)
    return _valid(merged, rejects)


def _merge_power(merged: dict[str, float]) -> None:
    """The driver's own choice of power stands for what is not named apart."""
    draw_w = merged.get("power_draw_w")
    if draw_w is not None:
        merged.setdefault("power_w" if "power_w" not in merged else "power_average_w", draw_w)


def _merge_memory(merged: dict[str, float]) -> None:
    used, free = merged.get("memory_used_bytes"), merged.get("memory_free_bytes")
    reserved = merged.get("memory_reserved_bytes")
    if used == 0 and free == 0:
        # DCGM 2.4.5 said so of every GPU.
        del merged["memory_used_bytes"]
    elif used is not None and free is not None and reserved is not None:
        merged.setdefault("memory_total_bytes", used + free + reserved)


def _merge_utilization(merged: dict[str, float], percent: bool | None) -> None:
    value = merged.get("gpu_utilization_or_percent")
    if value is None or "gpu_utilization" in merged:
        return
    if percent is not None or value == 0:
        merged["gpu_utilization"] = value / 100 if percent else value


def _valid(merged: Mapping[str, float], rejects: Counter[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    rows = CATALOGUE.by_name
    for name, value in merged.items():
        row = rows.get(name)
        if row is None:
            continue
        low, high = row.valid
        if not low <= value <= high or value >= COUNTER_LIMIT:
            rejects[name] += 1
        else:
            values[name] = value if row.kind is Kind.GAUGE else round(value)
    return values
