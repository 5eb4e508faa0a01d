"""Snapshots of `nvidia-smi -q -x`: DTD v10 to v13, one document or many in a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from xml.etree import ElementTree as ET

from collectors.contract.identity import Slot, pack_slot, parse_slot, unpack_slot
from collectors.contract.record import SlotLabels
from collectors.replay.csvlog import open_text, parse_time
from collectors.replay.quantities import absent, as_metric, quantity
from collectors.replay.samples import Rejects, Sample

_END = "</nvidia_smi_log>"
_LARGEST_DOCUMENT = 64 * 2**20
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME = re.compile(r"\w{3}\s+(\w{3})\s+(\d+)\s+(\d+):(\d+):(\d+)\s+(\d{4})")
_REASONS = "clocks_event_reasons_counters/clocks_event_reasons_counters_"

_PATHS: tuple[tuple[str, str], ...] = (
    ("power_w", "gpu_power_readings/instant_power_draw"),
    ("power_w", "gpu_power_readings/power_draw"),
    ("power_w", "power_readings/power_draw"),
    ("power_average_w", "gpu_power_readings/average_power_draw"),
    ("power_limit_w", "gpu_power_readings/current_power_limit"),
    ("power_limit_w", "power_readings/enforced_power_limit"),
    ("power_limit_w", "power_readings/power_limit"),
    ("gpu_temperature_c", "temperature/gpu_temp"),
    ("memory_temperature_c", "temperature/memory_temp"),
    ("thermal_margin_c", "temperature/gpu_temp_tlimit"),
    ("sm_clock_mhz", "clocks/sm_clock"),
    ("memory_clock_mhz", "clocks/mem_clock"),
    ("gpu_utilization", "utilization/gpu_util"),
    ("memory_utilization", "utilization/memory_util"),
    ("memory_used_bytes", "fb_memory_usage/used"),
    ("memory_total_bytes", "fb_memory_usage/total"),
    ("fan_speed", "fan_speed"),
    ("performance_state", "performance_state"),
    ("row_remap_pending", "remapped_rows/remapped_row_pending"),
    ("row_remap_failure", "remapped_rows/remapped_row_failure"),
    ("row_remap_corrected", "remapped_rows/remapped_row_corr"),
    ("row_remap_uncorrected", "remapped_rows/remapped_row_unc"),
    ("pcie_link_generation", "pci/pci_gpu_link_info/pcie_gen/current_link_gen"),
    ("pcie_replay", "pci/replay_counter"),
    ("throttle_power_cap_us", _REASONS + "sw_power_cap"),
    ("throttle_sync_boost_us", _REASONS + "sync_boost"),
    ("throttle_sw_thermal_us", _REASONS + "sw_therm_slowdown"),
    ("throttle_hw_thermal_us", _REASONS + "hw_therm_slowdown"),
    ("throttle_power_brake_us", _REASONS + "hw_power_brake"),
)
"""Catalogue name and where a GPU's element has it; the first that has a value holds."""
_SUMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ecc_corrected", ("sram_correctable", "dram_correctable", "single_bit/total")),
    (
        "ecc_uncorrected",
        ("sram_uncorrectable", "sram_uncorrectable_parity", "sram_uncorrectable_secded",
         "dram_uncorrectable", "double_bit/total"),
    ),
)  # fmt: skip
_ZERO_IN_A_GUEST = ("gpu_temperature_c", "sm_clock_mhz", "memory_clock_mhz")
"""A vGPU guest prints 0 for what the host keeps to itself."""


class XmlLog:
    """A `Reader`.  The times of nvidia-smi are local: `zone` says where."""

    def __init__(self, zone: tzinfo, model: str = "") -> None:
        self._zone, self._model = zone, model

    def __call__(self, path: Path, rejects: Rejects) -> Iterator[Sample]:
        """See `Reader`."""
        known = 0
        for number, text in enumerate(_documents(path, rejects), start=1):
            place = f"{path.name}, document {number}"
            try:
                # Expat (2.4 and later) bounds the growth of entities and fetches none.
                root = ET.fromstring(text)  # noqa: S314
            except ET.ParseError as error:
                rejects.add("broken", f"{place}: {error}")
                continue
            if root.tag != "nvidia_smi_log":
                raise ValueError(f"{path}: not an `nvidia-smi -q -x` output but <{root.tag}>")
            known += 1
            yield from self._samples(root, rejects, place)
        if not known:
            raise ValueError(f"{path}: holds no whole `nvidia-smi -q -x` output")

    def _samples(self, root: ET.Element, rejects: Rejects, place: str) -> Iterator[Sample]:
        stamp = root.findtext("timestamp", "").strip()
        try:
            time_us = smi_time(stamp, self._zone) if stamp else None
        except ValueError as error:
            rejects.add("broken", f"{place}: {error}")
            return
        for gpu in root.findall("gpu"):
            try:
                slot = parse_slot(gpu.get("id", ""))
            except ValueError as error:
                rejects.add("broken", f"{place}: {error}")
                continue
            labels = SlotLabels(
                slot, _text(gpu, "uuid"), _text(gpu, "product_name") or self._model,
                _text(gpu, "serial"),
            )  # fmt: skip
            yield Sample(time_us, labels, _values(gpu, rejects, place))
            yield from _instances(gpu, labels, time_us, rejects, place)


def smi_time(text: str, zone: tzinfo) -> int:
    """µs since 1970 of `Mon Apr 14 12:55:43 2025`; ValueError.  (No locale has a part in it.)"""
    match = _TIME.fullmatch(text)
    if match is None or match[1] not in _MONTHS:
        return parse_time(text, zone)
    month = _MONTHS.index(match[1]) + 1
    day, hour, minute, second, year = (int(match[i]) for i in range(2, 7))
    return parse_time(
        datetime(year, month, day, hour, minute, second, tzinfo=zone).isoformat(), zone
    )


def _documents(path: Path, rejects: Rejects) -> Iterator[str]:
    """The documents of a file: a loop of nvidia-smi writes one behind the other."""
    lines: list[str] = []
    size = 0
    with open_text(path) as file:
        for line in file:
            lines.append(line)
            size += len(line)
            if size > _LARGEST_DOCUMENT:
                raise ValueError(f"{path}: no `nvidia-smi -q -x` output is that large")
            if _END in line:
                whole, _, rest = "".join(lines).partition(_END)
                yield whole.strip() + _END
                lines, size = [rest], len(rest)
    if "".join(lines).strip():
        rejects.add("truncated", path.name)


def _text(element: ET.Element, path: str) -> str:
    text = element.findtext(path, "").strip()
    return "" if absent(text) or text == "REDACTED" else text


def _number(element: ET.Element, path: str, name: str) -> float | None:
    """The metric's value at a path; None where there is none.  Raises ValueError."""
    text = element.findtext(path)
    if text is None or absent(text):
        return None
    return as_metric(name, quantity(text))


def _values(gpu: ET.Element, rejects: Rejects, place: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, path in _PATHS:
        if name not in values:
            try:
                value = _number(gpu, path, name)
            except ValueError as error:
                rejects.add("cell", f"{place}: {path}: {error}")
                continue
            if value is not None:
                values[name] = value
    values.update(_ecc_errors(gpu, rejects, place))
    if _text(gpu, "gpu_virtualization_mode/virtualization_mode").upper() == "VGPU":
        for name in _ZERO_IN_A_GUEST:
            if values.get(name) == 0:
                del values[name]
    return values


def _ecc_errors(gpu: ET.Element, rejects: Rejects, place: str) -> dict[str, float]:
    """Volatile errors, summed over where they happened."""
    sums: dict[str, float] = {}
    for name, parts in _SUMS:
        try:
            counts = [_number(gpu, f"ecc_errors/volatile/{part}", name) for part in parts]
        except ValueError as error:
            rejects.add("cell", f"{place}: ecc_errors: {error}")
            continue
        known = [count for count in counts if count is not None]
        if known:
            sums[name] = int(sum(known))
    return sums


def _instances(
    gpu: ET.Element, parent: SlotLabels, time_us: int | None, rejects: Rejects, place: str
) -> Iterator[Sample]:
    """The MIG instances of a GPU: slots of their own, which have memory and little else."""
    address = unpack_slot(parent.slot)
    for instance in gpu.findall("mig_devices/mig_device"):
        try:
            gi = int(instance.findtext("gpu_instance_id", ""))
            ci = int(instance.findtext("compute_instance_id", ""))
            slot = pack_slot(Slot(*address[:4], gi, ci))
            used = _number(instance, "fb_memory_usage/used", "memory_used_bytes")
            total = _number(instance, "fb_memory_usage/total", "memory_total_bytes")
        except ValueError as error:
            rejects.add("broken", f"{place}: MIG instance: {error}")
            continue
        named = (("memory_used_bytes", used), ("memory_total_bytes", total))
        values = {name: value for name, value in named if value is not None}
        # The GPU's own name would give a slice the whole GPU's peak.
        labels = SlotLabels(slot, _text(instance, "uuid"), f"{parent.model} MIG", parent.serial)
        yield Sample(time_us, labels, values)
