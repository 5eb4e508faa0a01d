"""Every capture of real hardware, read a second time in another way: the values must be the same.

A file in `tests/captures`, or in the shared recordings where they are, is a case.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC
from math import isclose
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from collectors.contract.identity import slot_text
from collectors.replay.recording import reader_for
from collectors.replay.samples import Rejects, Sample

CAPTURES = Path(__file__).parents[1] / "captures"
SHARED = Path(
    os.environ.get("PETAWATCH_RECORDINGS", CAPTURES.parents[2] / "shared" / "data")
)  # fmt: skip
MIB = 2**20
ABSENT = re.compile(
    r"N/A|\[N/A\]|ERR!|Unknown Error|None|Requested functionality has been deprecated|\[Not Supported\]|"
)


def files(*patterns: str) -> list[Path]:
    own = [path for pattern in patterns for path in CAPTURES.glob(pattern)]
    folders = ("nvidia-smi-xml", "nvidia-smi-text", "gpu-power-benchmark", "nanogpt-8gpu-node",
               "exporter-scrapes", "dcgm-exporter")  # fmt: skip
    shared = [
        path
        for folder in folders
        for pattern in patterns
        for end in ("", ".gz")
        for path in (SHARED / folder).glob(pattern + end)
    ]
    return sorted(own) + sorted(shared)


def case(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def published(path: Path) -> list[Sample]:
    rejects = Rejects()
    samples = list(reader_for(path, UTC, "")(path, rejects))
    assert rejects.first == {}
    return samples


def plain(text: str) -> float | None:
    """A number in base units, read in the simplest way."""
    if ABSENT.fullmatch(text.strip()):
        return None
    if text in {"Yes", "No"}:
        return float(text == "Yes")
    number, _, unit = text.strip().lstrip("P").partition(" ")
    return float(number.rstrip("%WCx")) * {"MiB": MIB, "%": 0.01}.get(unit, 1)


def agree(got: Mapping[str, float], want: dict[str, float]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        # Not pytest's own: it costs a hundred times as much, and there are a million of them.
        assert isclose(got[name], value, rel_tol=1e-12, abs_tol=1e-12), name


# XML: all leaves of a GPU by path, and which of them is which metric.
XML_PATHS = {
    "power_w": ["gpu_power_readings/instant_power_draw", "gpu_power_readings/power_draw",
                "power_readings/power_draw"],
    "power_average_w": ["gpu_power_readings/average_power_draw"],
    "power_limit_w": ["gpu_power_readings/current_power_limit",
                      "power_readings/enforced_power_limit", "power_readings/power_limit"],
    "gpu_temperature_c": ["temperature/gpu_temp"],
    "memory_temperature_c": ["temperature/memory_temp"],
    "thermal_margin_c": ["temperature/gpu_temp_tlimit"],
    "sm_clock_mhz": ["clocks/sm_clock"],
    "memory_clock_mhz": ["clocks/mem_clock"],
    "gpu_utilization": ["utilization/gpu_util"],
    "memory_utilization": ["utilization/memory_util"],
    "memory_used_bytes": ["fb_memory_usage/used"],
    "memory_total_bytes": ["fb_memory_usage/total"],
    "fan_speed": ["fan_speed"],
    "performance_state": ["performance_state"],
    "row_remap_pending": ["remapped_rows/remapped_row_pending"],
    "row_remap_failure": ["remapped_rows/remapped_row_failure"],
    "row_remap_corrected": ["remapped_rows/remapped_row_corr"],
    "row_remap_uncorrected": ["remapped_rows/remapped_row_unc"],
    "pcie_link_generation": ["pci/pci_gpu_link_info/pcie_gen/current_link_gen"],
    "pcie_replay": ["pci/replay_counter"],
} | {
    f"throttle_{name}_us": [f"clocks_event_reasons_counters/clocks_event_reasons_counters_{word}"]
    for name, word in (
        ("power_cap", "sw_power_cap"), ("sync_boost", "sync_boost"),
        ("sw_thermal", "sw_therm_slowdown"), ("hw_thermal", "hw_therm_slowdown"),
        ("power_brake", "hw_power_brake"),
    )
}  # fmt: skip


def leaves(element: ET.Element, path: str = "") -> Iterator[tuple[str, str]]:
    for child in element:
        here = f"{path}/{child.tag}" if path else child.tag
        if len(child):
            yield from leaves(child, here)
        else:
            yield here, (child.text or "").strip()


def xml_expected(gpu: ET.Element) -> dict[str, float]:
    found: dict[str, str] = {}
    for path, text in leaves(gpu):
        found.setdefault(path, text)
    want: dict[str, float] = {}
    for name, paths in XML_PATHS.items():
        numbers = [plain(found[path]) for path in paths if path in found]
        known = [number for number in numbers if number is not None]
        if known:
            want[name] = known[0]
    for name, word in (("ecc_corrected", "_correctable"), ("ecc_uncorrected", "_uncorrectable")):
        counts = [plain(text) for path, text in found.items()
                  if path.startswith("ecc_errors/volatile/") and word in f"{path}_"
                  and (word == "_uncorrectable" or "_uncorrectable" not in path)]  # fmt: skip
        bit = "single" if name == "ecc_corrected" else "double"
        total = found.get(f"ecc_errors/volatile/{bit}_bit/total")
        counts += [] if total is None else [plain(total)]
        if any(count is not None for count in counts):
            want[name] = sum(count for count in counts if count is not None)
    if found.get("gpu_virtualization_mode/virtualization_mode") == "VGPU":
        for name in ("gpu_temperature_c", "sm_clock_mhz", "memory_clock_mhz"):
            if want.get(name) == 0:  # a guest's 0 °C and 0 MHz are the host's secret
                del want[name]
    return want


@pytest.mark.parametrize("path", files("*.xml"), ids=case)
def test_xml(path: Path) -> None:
    samples = {slot_text(sample.labels.slot): sample for sample in published(path)}
    root = ET.fromstring(path.read_text(encoding="utf-8", errors="replace"))  # noqa: S314
    gpus = {gpu.attrib["id"].lower()[-12:]: gpu for gpu in root.iter("gpu") if "id" in gpu.attrib}
    expected: dict[str, tuple[str, dict[str, float]]] = {}
    for address, gpu in gpus.items():
        expected[address] = (gpu.findtext("uuid", ""), xml_expected(gpu))
        for device in gpu.iter("mig_device"):
            ids = (device.findtext("gpu_instance_id"), device.findtext("compute_instance_id"))
            memory = {f"memory_{word}_bytes": plain(device.findtext(f"fb_memory_usage/{word}", ""))
                      for word in ("used", "total")}  # fmt: skip
            known = {name: number for name, number in memory.items() if number is not None}
            expected[f"{address}/{ids[0]}/{ids[1]}"] = ("", known)
    assert samples.keys() == expected.keys()
    for slot, (uuid, want) in expected.items():
        agree(dict(samples[slot].values), want)
        assert "/" in slot or samples[slot].labels.uuid == uuid.replace("N/A", "")


TEXT_LINES = {
    "power_limit_w": r"^    (?:GPU )?Power Readings\n(?:^ {8}.*\n)*?^ {8}(?:Current Power Limit|"
    r"Enforced Power Limit) +: (.*)",
    "power_w": r"^    (?:GPU )?Power Readings\n(?:^ {8}.*\n)*?^ {8}Power Draw +: (.*)",
    "gpu_temperature_c": r"^ {8}GPU Current Temp +: (.*)",
    "memory_temperature_c": r"^ {8}Memory Current Temp +: (.*)",
    "thermal_margin_c": r"^ {8}GPU T\.Limit Temp +: (.*)",
    "sm_clock_mhz": r"^    Clocks\n.*\n^ {8}SM +: (.*)",
    "memory_clock_mhz": r"^    Clocks\n.*\n.*\n^ {8}Memory +: (.*)",
    "gpu_utilization": r"^    Utilization\n^ {8}Gpu +: (.*)",
    "memory_utilization": r"^    Utilization\n.*\n^ {8}Memory +: (.*)",
    "memory_total_bytes": r"^    FB Memory Usage\n^ {8}Total +: (.*)",
    "memory_used_bytes": r"^    FB Memory Usage\n(?:^ {8}.*\n)*?^ {8}Used +: (.*)",
    "fan_speed": r"^    Fan Speed +: (.*)",
    "performance_state": r"^    Performance State +: (.*)",
    "pcie_link_generation": r"^ {12}PCIe Generation\n.*\n^ {16}Current +: (.*)",
    "pcie_replay": r"^ {8}Replays Since Reset +: (.*)",
    "row_remap_corrected": r"^    Remapped Rows\n^ {8}Correctable Error +: (.*)",
    "row_remap_uncorrected": r"^    Remapped Rows\n.*\n^ {8}Uncorrectable Error +: (.*)",
    "row_remap_pending": r"^    Remapped Rows\n.*\n.*\n^ {8}Pending +: (.*)",
    "row_remap_failure": r"^ {8}Remapping Failure Occurred +: (.*)",
}
REASON_LINES = (
    (1, r"^ {8}Idle +: "), (2, r"^ {8}Applications Clocks Setting +: "),
    (4, r"^ {8}SW Power Cap +: "), (8, r"^ {8}HW Slowdown +: "),
    (0x40, r"^ {12}HW Thermal Slowdown +: "), (0x80, r"^ {12}HW Power Brake Slowdown +: "),
    (0x10, r"^ {8}Sync Boost +: "), (0x20, r"^ {8}SW Thermal Slowdown +: "),
    (0x100, r"^ {8}Display Clock Setting +: "),
)  # fmt: skip


def text_expected(block: str) -> dict[str, float]:
    want: dict[str, float] = {}
    for name, pattern in TEXT_LINES.items():
        match = re.search(pattern, block, re.MULTILINE)
        number = plain(match[1].strip()) if match else None
        if number is not None:
            want[name] = number
    for name, word in (("ecc_corrected", "Correctable"), ("ecc_uncorrected", "Uncorrectable")):
        part = re.search(r"^ {8}Volatile\n((?:^ {12}.*\n)+)", block, re.MULTILINE)
        lines = re.findall(rf"[SD]RAM {word} +: (\d+)", part[1]) if part else []
        if lines:
            want[name] = sum(map(int, lines))
    said = [re.search(f"{pattern}(Active|Not Active)$", block, re.MULTILINE)
            for _, pattern in REASON_LINES]  # fmt: skip
    if all(said):
        active = [found is not None and found[1] == "Active" for found in said]
        bits = [bit for (bit, _), on in zip(REASON_LINES, active, strict=True) if on]
        want["clocks_event_reasons"] = sum(bits)
    return want


@pytest.mark.parametrize(
    "path", [path for path in files("*.txt") if "table" not in path.name], ids=case
)
def test_text(path: Path) -> None:
    samples = {slot_text(sample.labels.slot): sample for sample in published(path)}
    parts = re.split(r"^GPU 0000([0-9A-F]{4}:.*)$", path.read_text(), flags=re.MULTILINE)
    blocks = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert samples.keys() == {address.lower() for address in blocks}
    for address, block in blocks.items():
        sample = samples[address.lower()]
        agree(dict(sample.values), text_expected(block))
        assert sample.labels.uuid in block
        assert sample.labels.model in block


@pytest.mark.parametrize("path", files("*table*.txt"), ids=case)
def test_table(path: Path) -> None:
    rows = [
        line.replace("|", " ").replace("/", " ").split() for line in path.read_text().splitlines()
    ]
    first = [
        row for row in rows if len(row) > 3 and re.fullmatch(r"\d+", row[0]) and "0000" in row[-3]
    ]
    second = [row for row in rows if len(row) > 7 and row[-1] == "Default"]
    samples = published(path)
    assert len(samples) == len(first) == len(second) > 0
    for sample, above, below in zip(samples, first, second, strict=True):
        assert slot_text(sample.labels.slot) == above[-3].lower()[4:]
        assert sample.labels.model == " ".join(above[1:-4])
        # "N/A" of the fan has become two words: take them from the right.
        state, watts, limit, used, total, ratio = below[-7:-1]
        want = {
            "ecc_uncorrected": plain(above[-1]), "gpu_temperature_c": plain(below[-8]),
            "performance_state": plain(state), "power_w": plain(watts),
            "power_limit_w": plain(limit), "memory_used_bytes": float(used[:-3]) * MIB,
            "memory_total_bytes": float(total[:-3]) * MIB, "gpu_utilization": float(ratio[:-1]) / 100,
        }  # fmt: skip
        agree(dict(sample.values), {name: v for name, v in want.items() if v is not None})


CSV_COLUMNS = {
    "temperature_C": "gpu_temperature_c", "utilization_gpu_percent": "gpu_utilization",
    "power_W": "power_w", "utilization.gpu [%]": "gpu_utilization",
    "pstate": "performance_state", "temperature.gpu": "gpu_temperature_c",
    "clocks.current.sm [MHz]": "sm_clock_mhz", "power.draw [W]": "power_w",
    "power.draw.average [W]": "power_average_w", "power.draw.instant [W]": "power_w",
}  # fmt: skip


@pytest.mark.parametrize("path", files("*.csv"), ids=case)
def test_csv(path: Path) -> None:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    samples = published(path)
    assert len(samples) == len(rows) > 0
    for sample, row in zip(samples, rows, strict=True):
        want: dict[str, float] = {}
        for column, cell in row.items():
            name = CSV_COLUMNS.get(column.strip())
            number = None if name is None else plain(cell)
            if name is not None and number is not None:
                want[name] = number / 100 if name == "gpu_utilization" else number
        agree(sample.values, want)


PAGE_SERIES: dict[str, tuple[str, float]] = {
    "DCGM_FI_DEV_GPU_TEMP": ("gpu_temperature_c", 1),
    "DCGM_FI_DEV_POWER_USAGE": ("power_w", 1),
    "DCGM_FI_DEV_GPU_UTIL": ("gpu_utilization", 0.01),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("memory_utilization", 0.01),
    "nvidia_smi_power_draw_instant_watts": ("power_w", 1),
    "nvidia_smi_power_draw_average_watts": ("power_average_w", 1),
    "nvidia_smi_enforced_power_limit_watts": ("power_limit_w", 1),
    "nvidia_smi_temperature_gpu": ("gpu_temperature_c", 1),
    "nvidia_smi_temperature_memory": ("memory_temperature_c", 1),
    "nvidia_smi_temperature_gpu_tlimit": ("thermal_margin_c", 1),
    "nvidia_smi_clocks_current_sm_clock_hz": ("sm_clock_mhz", 1e-6),
    "nvidia_smi_clocks_current_memory_clock_hz": ("memory_clock_mhz", 1e-6),
    "nvidia_smi_utilization_gpu_ratio": ("gpu_utilization", 1),
    "nvidia_smi_utilization_memory_ratio": ("memory_utilization", 1),
    "nvidia_smi_memory_used_bytes": ("memory_used_bytes", 1),
    "nvidia_smi_memory_total_bytes": ("memory_total_bytes", 1),
    "nvidia_smi_fan_speed_ratio": ("fan_speed", 1),
    "nvidia_smi_pstate": ("performance_state", 1),
    "nvidia_smi_clocks_event_reasons_active": ("clocks_event_reasons", 1),
    "nvidia_smi_gpu_recovery_action": ("recovery_action", 1),
    "nvidia_smi_ecc_errors_corrected_volatile_total": ("ecc_corrected", 1),
    "nvidia_smi_ecc_errors_uncorrected_volatile_total": ("ecc_uncorrected", 1),
    "nvidia_smi_remapped_rows_correctable": ("row_remap_corrected", 1),
    "nvidia_smi_remapped_rows_uncorrectable": ("row_remap_uncorrected", 1),
    "nvidia_smi_remapped_rows_pending": ("row_remap_pending", 1),
    "nvidia_smi_remapped_rows_failure": ("row_remap_failure", 1),
    "nvidia_smi_pcie_link_gen_gpucurrent": ("pcie_link_generation", 1),
    "nvidia_smi_pcie_link_width_current": ("pcie_link_width", 1),
    "nvidia_smi_compute_apps": ("processes", 1),
} | {
    f"nvidia_smi_clocks_event_reasons_counters_{word}_seconds": (f"throttle_{name}_us", 1e6)
    for word, name in (
        ("sw_power_cap", "power_cap"), ("sw_thermal_slowdown", "sw_thermal"),
        ("hw_thermal_slowdown", "hw_thermal"), ("hw_power_brake_slowdown", "power_brake"),
        ("sync_boost", "sync_boost"),
    )
}  # fmt: skip


@pytest.mark.parametrize("path", files("*.prom"), ids=case)
def test_pages(path: Path) -> None:
    text = path.read_text()
    slot_of = {match[2]: match[1][4:].lower() for match in
               re.finditer(r'pci_bus_id="([^"]+)".*?uuid="([^"]+)"', text)}  # fmt: skip
    expected: dict[str, dict[str, float]] = {}
    for series, labels, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        known = PAGE_SERIES.get(series)
        if known is None:
            continue
        own = re.search(r'pci_bus_id="0000([^"]+)"', labels)
        uuid = re.search(r'uuid="([^"]+)"', labels)
        slot = own[1].lower() if own else slot_of[uuid[1] if uuid else ""]
        expected.setdefault(slot, {})[known[0]] = float(value) * known[1]
    samples = {slot_text(sample.labels.slot): sample for sample in published(path)}
    assert samples.keys() == expected.keys()
    for slot, want in expected.items():
        agree(dict(samples[slot].values), want)


WORDS = ("N/A", "[N/A]", "ERR!", "Unknown Error", "[Unknown Error]", "GPU is lost",
         "Requested functionality has been deprecated")  # fmt: skip
NUMBERS = ("4294967295", "18446744073709551615", "9223372036854775794", "2147483647")


def masked(path: Path, word: str, folder: Path) -> Path:
    """The capture with every measured number replaced."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode(errors="replace")
    units = r"(?: (?:W|C|MHz|%|MiB|us|mV))"
    if path.suffix == ".xml":
        text = re.sub(rf">-?\d+(?:\.\d+)?{units}<", f">{word}<", text)
    elif path.suffix == ".txt":
        text = re.sub(rf": -?\d+(?:\.\d+)?{units}$", f": {word}", text, flags=re.MULTILINE)
    else:
        text = re.sub(r"\} \S+$", f"}} {word}", text, flags=re.MULTILINE)
    changed = folder / path.name.removesuffix(".gz")
    changed.write_text(text, encoding="utf-8")
    return changed


@pytest.mark.parametrize("word", [*WORDS, *NUMBERS])
@pytest.mark.parametrize("pattern", ["*.xml", "*.txt", "*.prom"])
def test_a_word_or_sentinel_in_place_of_a_number_is_no_value(
    pattern: str, word: str, tmp_path: Path
) -> None:
    kept = {"performance_state", "row_remap_pending", "row_remap_failure", "row_remap_corrected",
            "row_remap_uncorrected", "ecc_corrected", "ecc_uncorrected", "pcie_replay",
            "pcie_link_generation", "clocks_event_reasons"}  # fmt: skip
    for path in [path for path in files(pattern) if "table" not in path.name]:
        changed = masked(path, word, tmp_path)
        samples = list(reader_for(changed, UTC, "")(changed, Rejects()))
        assert samples
        for sample in samples:
            # Numbers without a unit were left as they are in all but pages.
            allowed: set[str] = set() if pattern == "*.prom" else kept
            assert sample.values.keys() <= allowed, case(path)
