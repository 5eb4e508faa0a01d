"""Snapshots of `nvidia-smi -q` as text, one or many in a row: indented names, some with a value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path

from collectors.contract.identity import pack_slot, parse_slot, unpack_slot
from collectors.contract.record import SlotLabels
from collectors.replay.csvlog import open_text
from collectors.replay.quantities import absent, as_metric, quantity
from collectors.replay.samples import Rejects, Sample
from collectors.replay.xmllog import smi_time

TITLE = "NVSMI LOG"
_GPU = re.compile(r"GPU ([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])\s*")
_LINE = re.compile(r"^(\s*)(\S.*?)\s*(?::\s(.*))?$")
_LONGEST_LINE = 4_096

_PATHS: tuple[tuple[str, str], ...] = (
    ("power_w", "gpu power readings/instantaneous power draw"),
    ("power_w", "gpu power readings/power draw"),
    ("power_w", "power readings/power draw"),
    ("power_average_w", "gpu power readings/average power draw"),
    ("power_limit_w", "gpu power readings/current power limit"),
    ("power_limit_w", "power readings/enforced power limit"),
    ("power_limit_w", "power readings/power limit"),
    ("gpu_temperature_c", "temperature/gpu current temp"),
    ("memory_temperature_c", "temperature/memory current temp"),
    ("thermal_margin_c", "temperature/gpu t.limit temp"),
    ("sm_clock_mhz", "clocks/sm"),
    ("memory_clock_mhz", "clocks/memory"),
    ("gpu_utilization", "utilization/gpu"),
    ("memory_utilization", "utilization/memory"),
    ("memory_used_bytes", "fb memory usage/used"),
    ("memory_total_bytes", "fb memory usage/total"),
    ("fan_speed", "fan speed"),
    ("performance_state", "performance state"),
    ("pcie_link_generation", "pci/gpu link info/pcie generation/current"),
    ("pcie_replay", "pci/replays since reset"),
    ("row_remap_corrected", "remapped rows/correctable error"),
    ("row_remap_uncorrected", "remapped rows/uncorrectable error"),
    ("row_remap_pending", "remapped rows/pending"),
    ("row_remap_failure", "remapped rows/remapping failure occurred"),
)
"""Catalogue name and where a GPU has it, in small letters; the first that has a value holds."""
_SUMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ecc_corrected", ("sram correctable", "dram correctable", "single bit/total")),
    (
        "ecc_uncorrected",
        ("sram uncorrectable", "sram uncorrectable parity", "sram uncorrectable sec-ded",
         "dram uncorrectable", "double bit/total"),
    ),
)  # fmt: skip
_REASONS: tuple[tuple[int, str], ...] = (
    (0x01, "idle"), (0x04, "sw power cap"), (0x08, "hw slowdown"), (0x10, "sync boost"),
    (0x20, "sw thermal slowdown"), (0x40, "hw slowdown/hw thermal slowdown"),
    (0x80, "hw slowdown/hw power brake slowdown"),
)  # fmt: skip
_REASONS_MAYBE = ((0x02, "applications clocks setting"), (0x100, "display clock setting"))
"""Newer drivers have them no longer."""
_ZERO_IN_A_GUEST = ("gpu_temperature_c", "sm_clock_mhz", "memory_clock_mhz")


@dataclass(slots=True)
class _Entry:
    """A name with its value, and what is indented below it."""

    name: str
    value: str | None
    below: list[_Entry] = field(default_factory=list["_Entry"])

    def find(self, path: str) -> str | None:
        """The first value at `a/b/c`, None where there is none."""
        name, _, rest = path.partition("/")
        for entry in self.below:
            if entry.name == name:
                found = entry.find(rest) if rest else entry.value
                if found is not None:
                    return found
        return None


class TextLog:
    """A `Reader`.  The times of nvidia-smi are local: `zone` says where."""

    def __init__(self, zone: tzinfo, model: str = "") -> None:
        self._zone, self._model = zone, model

    def __call__(self, path: Path, rejects: Rejects) -> Iterator[Sample]:
        """See `Reader`."""
        known = 0
        for number, text in enumerate(_documents(path), start=1):
            root = _tree(text)
            known += bool(root.below)
            yield from self._samples(root, rejects, f"{path.name}, log {number}")
        if not known:
            raise ValueError(f"{path}: holds no `nvidia-smi -q` output")

    def _samples(self, root: _Entry, rejects: Rejects, place: str) -> Iterator[Sample]:
        stamp = root.find("timestamp")
        try:
            time_us = smi_time(stamp, self._zone) if stamp else None
        except ValueError as error:
            rejects.add("broken", f"{place}: {error}")
            return
        for entry in root.below:
            match = _GPU.fullmatch(entry.name.upper())
            if match is None:
                continue
            labels = SlotLabels(
                parse_slot(match[1]), _text(entry, "gpu uuid"),
                _text(entry, "product name") or self._model, _text(entry, "serial number"),
            )  # fmt: skip
            yield Sample(time_us, labels, _values(entry, rejects, place))
            yield from _instances(entry, labels, time_us, rejects, place)


def _documents(path: Path) -> Iterator[str]:
    lines: list[str] = []
    with open_text(path) as file:
        while line := file.readline(_LONGEST_LINE):
            if TITLE in line and lines:
                yield "".join(lines)
                lines = []
            lines.append(line.replace("\0", ""))
    yield "".join(lines)


def _tree(text: str) -> _Entry:
    """By indentation; names in small letters, a GPU's address too."""
    root = _Entry("", None)
    stack = [(-1, root)]
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None or TITLE in line:
            continue
        indent = len(match[1])
        while stack[-1][0] >= indent:
            stack.pop()
        entry = _Entry(match[2].lower(), None if match[3] is None else match[3].strip())
        stack[-1][1].below.append(entry)
        stack.append((indent, entry))
    return root


def _text(entry: _Entry, path: str) -> str:
    text = entry.find(path) or ""
    return "" if absent(text) else text


def _number(entry: _Entry, path: str, name: str) -> float | None:
    """The metric's value at a path; None where there is none.  Raises ValueError."""
    text = entry.find(path)
    return None if text is None or absent(text) else as_metric(name, quantity(text))


def _values(gpu: _Entry, rejects: Rejects, place: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, path in _PATHS:
        if name not in values:
            _add(values, name, [_counted(gpu, path, name, rejects, place)])
    for name, parts in _SUMS:
        paths = [f"ecc errors/volatile/{part}" for part in parts]
        _add(values, name, [_counted(gpu, path, name, rejects, place) for path in paths])
    reasons = _reasons(gpu)
    if reasons is not None:
        values["clocks_event_reasons"] = float(reasons)
    if _text(gpu, "gpu virtualization mode/virtualization mode").upper() == "VGPU":
        for name in _ZERO_IN_A_GUEST:
            if values.get(name) == 0:
                del values[name]
    return values


def _add(values: dict[str, float], name: str, found: Sequence[float | None]) -> None:
    """The sum of what is there; nothing where nothing is."""
    known = [value for value in found if value is not None]
    if known:
        values[name] = sum(known)


def _counted(gpu: _Entry, path: str, name: str, rejects: Rejects, place: str) -> float | None:
    """As `_number`; what is no quantity is counted and left out."""
    try:
        return _number(gpu, path, name)
    except ValueError as error:
        rejects.add("cell", f"{place}: {path}: {error}")
        return None


def _reasons(gpu: _Entry) -> int | None:
    """The driver's bits; None where one that matters is not said, or said in other words."""
    for section in ("clocks event reasons", "clocks throttle reasons"):
        said = [_bit(gpu, section, bit, path) for bit, path in _REASONS]
        known = [bit for bit in said if bit is not None]
        if len(known) == len(_REASONS):
            more = [_bit(gpu, section, bit, path) or 0 for bit, path in _REASONS_MAYBE]
            return sum(known) + sum(more)
    return None


def _bit(gpu: _Entry, section: str, bit: int, path: str) -> int | None:
    return {"active": bit, "not active": 0}.get((gpu.find(f"{section}/{path}") or "").lower())


def _instances(
    gpu: _Entry, parent: SlotLabels, time_us: int | None, rejects: Rejects, place: str
) -> Iterator[Sample]:
    """The MIG instances of a GPU: slots of their own, which have memory and little else."""
    for instance in _devices(gpu.below):
        try:
            gi = int(instance.find("gpu instance id") or "")
            ci = int(instance.find("compute instance id") or "")
            slot = pack_slot(unpack_slot(parent.slot)._replace(gi=gi, ci=ci))
            found = {
                name: _number(instance, path, name)
                for name, path in _PATHS
                if path.startswith("fb memory")
            }
        except ValueError as error:
            rejects.add("broken", f"{place}: MIG instance: {error}")
            continue
        values = {name: value for name, value in found.items() if value is not None}
        # The GPU's own name would give a slice the whole GPU's peak.
        labels = SlotLabels(slot, "", f"{parent.model} MIG", parent.serial)
        yield Sample(time_us, labels, values)


def _devices(entries: Sequence[_Entry]) -> Iterator[_Entry]:
    for entry in entries:
        if entry.name == "mig device":
            yield entry
        elif entry.name == "mig devices":
            yield from _devices(entry.below)
