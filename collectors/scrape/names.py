"""How exporters name and scale what the catalogue has.

DCGM: names and units of `dcgm_fields.h` and of dcgm-exporter's collector files.
Up to DCGM 4.5 the names are the old ones; 4.6 renamed many as aliases of the
same fields, units unchanged (`…_GPU_UTIL_RATIO` was still a percentage); 4.7
(dcgm-exporter 4.9) gave base units fields of their own (`…_HERTZ`, `…_BYTES`,
`…_JOULES_TOTAL`, and `…_GPU_UTIL_RATIO` from 0 to 1).  Violation times are
nanoseconds, though older collector files call them microseconds
(NVIDIA/DCGM#266).  nvidia_gpu_exporter: nvidia-smi's fields in base units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Name(NamedTuple):
    """What a series holds: a catalogue name, or a word of our own that stands for a part of one."""

    metric: str
    scale: float = 1.0
    instance: bool = False
    """Whether it is a MIG instance's own where it carries an instance's labels; all else there
    is its GPU's, repeated."""


_MIB = float(2**20)
_PERCENT = 0.01
_NS = 1e-3
_S = 1e6

DCGM_DEVICE: Mapping[str, Name] = {
    "SM_CLOCK": Name("sm_clock_mhz"),
    "SM_CLOCK_HERTZ": Name("sm_clock_mhz", 1e-6),
    "MEM_CLOCK": Name("memory_clock_mhz"),
    "MEMORY_CLOCK_HERTZ": Name("memory_clock_mhz", 1e-6),
    "GPU_TEMP": Name("gpu_temperature_c"),
    "GPU_TEMP_CELSIUS": Name("gpu_temperature_c"),
    "MEMORY_TEMP": Name("memory_temperature_c"),
    "MEMORY_TEMP_CELSIUS": Name("memory_temperature_c"),
    "GPU_TEMP_LIMIT": Name("thermal_margin_c"),
    "GPU_TEMP_MARGIN_CELSIUS": Name("thermal_margin_c"),
    "POWER_USAGE": Name("power_draw_w"),
    "BOARD_POWER_WATTS": Name("power_draw_w"),
    "POWER_USAGE_INSTANT": Name("power_w"),
    "BOARD_POWER_RAW_WATTS": Name("power_w"),
    "ENFORCED_POWER_LIMIT": Name("power_limit_w"),
    "BOARD_POWER_LIMIT_ENFORCED_WATTS": Name("power_limit_w"),
    "TOTAL_ENERGY_CONSUMPTION": Name("energy_mj"),
    "GPU_ENERGY_JOULES_TOTAL": Name("energy_mj", 1e3),
    "GPU_UTIL": Name("gpu_utilization", _PERCENT),
    "GPU_UTIL_RATIO": Name("gpu_utilization_or_percent"),
    "MEM_COPY_UTIL": Name("memory_utilization", _PERCENT),
    "MEMORY_UTIL_RATIO": Name("memory_utilization"),
    "FAN_SPEED": Name("fan_speed", _PERCENT),
    "FAN_SPEED_RATIO": Name("fan_speed"),
    "FB_USED": Name("memory_used_bytes", _MIB, instance=True),
    "FB_USED_BYTES": Name("memory_used_bytes", 1.0, instance=True),
    "FB_FREE": Name("memory_free_bytes", _MIB, instance=True),
    "FB_FREE_BYTES": Name("memory_free_bytes", 1.0, instance=True),
    "FB_RESERVED": Name("memory_reserved_bytes", _MIB, instance=True),
    "FB_RESERVED_BYTES": Name("memory_reserved_bytes", 1.0, instance=True),
    "FB_TOTAL": Name("memory_total_bytes", _MIB, instance=True),
    "FB_CAPACITY_BYTES": Name("memory_total_bytes", 1.0, instance=True),
    "XID_ERRORS": Name("xid_last"),
    "XID_ERROR": Name("xid_last"),
    "PSTATE": Name("performance_state"),
    "GPU_PSTATE": Name("performance_state"),
    "CLOCKS_EVENT_REASONS": Name("clocks_event_reasons"),
    "CLOCK_THROTTLE_REASONS": Name("clocks_event_reasons"),
    "GET_GPU_RECOVERY_ACTION": Name("recovery_action"),
    "GPU_RECOVERY_ACTION": Name("recovery_action"),
    "ECC_SBE_VOL_TOTAL": Name("ecc_corrected"),
    "ECC_DBE_VOL_TOTAL": Name("ecc_uncorrected"),
    "CORRECTABLE_REMAPPED_ROWS": Name("row_remap_corrected"),
    "ROW_REMAP_CORRECTABLE_TOTAL": Name("row_remap_corrected"),
    "UNCORRECTABLE_REMAPPED_ROWS": Name("row_remap_uncorrected"),
    "ROW_REMAP_UNCORRECTABLE_TOTAL": Name("row_remap_uncorrected"),
    "ROW_REMAP_PENDING": Name("row_remap_pending"),
    "ROW_REMAP_FAILURE": Name("row_remap_failure"),
    "ROW_REMAP_FAILED": Name("row_remap_failure"),
    "RETIRED_PENDING": Name("retired_page_pending"),
    "PAGE_RETIRED_PENDING": Name("retired_page_pending"),
    "PCIE_REPLAY_COUNTER": Name("pcie_replay"),
    "PCIE_REPLAY_TOTAL": Name("pcie_replay"),
    "PCIE_LINK_GEN": Name("pcie_link_generation"),
    "PCIE_LINK_WIDTH": Name("pcie_link_width"),
    "POWER_VIOLATION": Name("throttle_power_cap_us", _NS),
    "CLOCKS_EVENT_REASON_SW_POWER_CAP_NS": Name("throttle_power_cap_us", _NS),
    "GPU_POWER_THROTTLE_SECONDS_TOTAL": Name("throttle_power_cap_us", _S),
    "SYNC_BOOST_VIOLATION": Name("throttle_sync_boost_us", _NS),
    "CLOCKS_EVENT_REASON_SYNC_BOOST_NS": Name("throttle_sync_boost_us", _NS),
    "GPU_SYNC_BOOST_THROTTLE_SECONDS_TOTAL": Name("throttle_sync_boost_us", _S),
    "CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN_NS": Name("throttle_sw_thermal_us", _NS),
    "CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS": Name("throttle_hw_thermal_us", _NS),
    "CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN_NS": Name("throttle_power_brake_us", _NS),
    # Software and hardware slowdown together: it stands for the software's, by far the
    # commoner, where the exporter does not tell them apart.
    "THERMAL_VIOLATION": Name("throttle_thermal_us", _NS),
    "GPU_THERMAL_THROTTLE_SECONDS_TOTAL": Name("throttle_thermal_us", _S),
    "NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL": Name("nvlink_errors_flit"),
    "NVLINK_CRC_FLIT_ERROR_TOTAL": Name("nvlink_errors_flit"),
    "NVLINK_CRC_DATA_ERROR_COUNT_TOTAL": Name("nvlink_errors_data"),
    "NVLINK_CRC_DATA_ERROR_TOTAL": Name("nvlink_errors_data"),
    "NVLINK_REPLAY_ERROR_COUNT_TOTAL": Name("nvlink_errors_replay"),
    "NVLINK_REPLAY_ERROR_TOTAL": Name("nvlink_errors_replay"),
    "NVLINK_RECOVERY_ERROR_COUNT_TOTAL": Name("nvlink_errors_recovery"),
    "NVLINK_RECOVERY_ERROR_TOTAL": Name("nvlink_errors_recovery"),
    "NVLINK_COUNT_TX_BYTES": Name("nvlink_tx_bytes"),
    "NVLINK_TX_BYTES_TOTAL": Name("nvlink_tx_bytes"),
    "NVLINK_COUNT_RX_BYTES": Name("nvlink_rx_bytes"),
    "NVLINK_RX_BYTES_TOTAL": Name("nvlink_rx_bytes"),
}
DCGM_PROFILING: Mapping[str, Name] = {
    "GR_ENGINE_ACTIVE": Name("engine_activity", instance=True),
    "GR_ENGINE_UTIL_RATIO": Name("engine_activity", instance=True),
    "SM_ACTIVE": Name("sm_activity", instance=True),
    "SM_UTIL_RATIO": Name("sm_activity", instance=True),
    "SM_OCCUPANCY": Name("sm_occupancy", instance=True),
    "SM_OCCUPANCY_RATIO": Name("sm_occupancy", instance=True),
    "PIPE_TENSOR_ACTIVE": Name("tensor_activity", instance=True),
    "TENSOR_UTIL_RATIO": Name("tensor_activity", instance=True),
    "PIPE_TENSOR_UTIL_RATIO": Name("tensor_activity", instance=True),
    "DRAM_ACTIVE": Name("dram_activity", instance=True),
    "DRAM_UTIL_RATIO": Name("dram_activity", instance=True),
    "PIPE_FP64_ACTIVE": Name("fp64_activity", instance=True),
    "FP64_UTIL_RATIO": Name("fp64_activity", instance=True),
    "PIPE_FP32_ACTIVE": Name("fp32_activity", instance=True),
    "FP32_UTIL_RATIO": Name("fp32_activity", instance=True),
    "PIPE_FP16_ACTIVE": Name("fp16_activity", instance=True),
    "FP16_UTIL_RATIO": Name("fp16_activity", instance=True),
    "PIPE_TENSOR_DFMA_ACTIVE": Name("tensor_fp64_activity", instance=True),
    "DFMA_UTIL_RATIO": Name("tensor_fp64_activity", instance=True),
    "PIPE_TENSOR_IMMA_ACTIVE": Name("tensor_int8_activity", instance=True),
    "IMMA_UTIL_RATIO": Name("tensor_int8_activity", instance=True),
    # Rates in bytes a second, whatever the collector file's type line says.
    "PCIE_TX_BYTES": Name("pcie_tx_rate"),
    "PCIE_RX_BYTES": Name("pcie_rx_rate"),
    "NVLINK_TX_BYTES": Name("nvlink_tx_rate"),
    "NVLINK_RX_BYTES": Name("nvlink_rx_rate"),
    "PCIE_TX_BYTES_TOTAL": Name("pcie_tx_bytes"),
    "PCIE_RX_BYTES_TOTAL": Name("pcie_rx_bytes"),
}
SMI: Mapping[str, Name] = {
    "power_draw_instant_watts": Name("power_w"),
    "power_draw_average_watts": Name("power_average_w"),
    "power_draw_watts": Name("power_draw_w"),
    "enforced_power_limit_watts": Name("power_limit_w"),
    "temperature_gpu": Name("gpu_temperature_c"),
    "temperature_memory": Name("memory_temperature_c"),
    "temperature_gpu_tlimit": Name("thermal_margin_c"),
    "clocks_current_sm_clock_hz": Name("sm_clock_mhz", 1e-6),
    "clocks_current_memory_clock_hz": Name("memory_clock_mhz", 1e-6),
    "utilization_gpu_ratio": Name("gpu_utilization"),
    "utilization_memory_ratio": Name("memory_utilization"),
    "memory_used_bytes": Name("memory_used_bytes"),
    "memory_total_bytes": Name("memory_total_bytes"),
    "fan_speed_ratio": Name("fan_speed"),
    "pstate": Name("performance_state"),
    "clocks_event_reasons_active": Name("clocks_event_reasons"),
    "clocks_throttle_reasons_active": Name("clocks_event_reasons"),
    "gpu_recovery_action": Name("recovery_action"),
    "ecc_errors_corrected_volatile_total": Name("ecc_corrected"),
    "ecc_errors_uncorrected_volatile_total": Name("ecc_uncorrected"),
    "remapped_rows_correctable": Name("row_remap_corrected"),
    "remapped_rows_uncorrectable": Name("row_remap_uncorrected"),
    "remapped_rows_pending": Name("row_remap_pending"),
    "remapped_rows_failure": Name("row_remap_failure"),
    "retired_pages_pending": Name("retired_page_pending"),
    "pcie_link_gen_gpucurrent": Name("pcie_link_generation"),
    "pcie_link_width_current": Name("pcie_link_width"),
    "compute_apps": Name("processes"),
    "clocks_event_reasons_counters_sw_power_cap_seconds": Name("throttle_power_cap_us", _S),
    "clocks_event_reasons_counters_sw_thermal_slowdown_seconds": Name("throttle_sw_thermal_us", _S),
    "clocks_event_reasons_counters_hw_thermal_slowdown_seconds": Name("throttle_hw_thermal_us", _S),
    "clocks_event_reasons_counters_hw_power_brake_slowdown_seconds": Name(
        "throttle_power_brake_us", _S
    ),
    "clocks_event_reasons_counters_sync_boost_seconds": Name("throttle_sync_boost_us", _S),
}
ACTIVITIES = (
    "engine_activity", "sm_activity", "sm_occupancy", "tensor_activity", "dram_activity",
    "fp64_activity", "fp32_activity", "fp16_activity", "tensor_fp64_activity",
    "tensor_int8_activity",
)  # fmt: skip
"""What DCGM's profiling module measures: means over the exporter's interval."""
RATES = {
    "pcie_tx_rate": "pcie_tx_bytes",
    "pcie_rx_rate": "pcie_rx_bytes",
    "nvlink_tx_rate": "nvlink_tx_bytes",
    "nvlink_rx_rate": "nvlink_rx_bytes",
}
"""Rates that DCGM gives where the catalogue has a counter."""
XIDS_TOTAL = "DCGM_EXP_XID_ERRORS_TOTAL"
"""The exporter's own counter of XIDs, by code."""
_BASE_UNITS = ("_HERTZ", "_BYTES", "_JOULES_TOTAL", "_SECONDS_TOTAL")


def name_of(series: str) -> Name | None:
    """What a series holds; None where the catalogue has nothing like it."""
    if series.startswith("DCGM_FI_DEV_"):
        return DCGM_DEVICE.get(series.removeprefix("DCGM_FI_DEV_"))
    if series.startswith("DCGM_FI_PROF_"):
        return DCGM_PROFILING.get(series.removeprefix("DCGM_FI_PROF_"))
    return SMI.get(series.removeprefix("nvidia_smi_")) if series.startswith("nvidia_smi_") else None


def has_base_units(series: str) -> bool:
    """Whether only DCGM 4.7 and later have such a field: its `_RATIO`s go from 0 to 1."""
    field = series.removeprefix("DCGM_FI_DEV_")
    if field == series or field.startswith("NVLINK_"):
        return False
    return field.endswith(_BASE_UNITS) or field == "MEMORY_UTIL_RATIO"
