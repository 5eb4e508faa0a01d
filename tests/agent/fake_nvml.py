"""Builds the fake NVML and writes the truth that it tells; see fake_nvml.c."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SOURCES = tuple(
    Path(__file__).with_name(name)
    for name in ("fake_nvml.c", "fake_nvml_gpm.c", "fake_nvml_state.c")
)
UINT, ULONGLONG, SINT = 1, 3, 5
DOUBLE = 0
H100 = "NVIDIA H100 80GB HBM3"
H100_PCI = 0x2330_10DE
XID, ECC_DOUBLE, MIG_CHANGED, POISON, GPU_UNAVAILABLE = 0x8, 0x2, 0x100, 0x2000, 0x4000
"""Types of events."""

_SINCE = (
    (570, ("nvmlDeviceGetMarginTemperature", "nvmlDeviceGetRunningProcessDetailList")),
    (
        535,
        ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetConfComputeMemSizeInfo"),
    ),
    (
        520,
        (
            "nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree",
            "nvmlGpmSampleGet", "nvmlGpmMigSampleGet", "nvmlGpmMetricsGet",
        ),
    ),
    (510, ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetComputeRunningProcesses_v3")),
)  # fmt: skip
"""Functions by the branch of driver that brought them (about: what matters here is that a
library of an older branch lacks them)."""


def build(folder: Path, hidden: Sequence[str] = ()) -> Path | None:
    """The library in a folder of its own, for LD_LIBRARY_PATH; None without a C compiler.

    It lacks the functions named in `hidden`.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-Wl,-soname,libnvidia-ml.so.1",
         *(f"-D{name}=hidden_{name}" for name in hidden), "-o", library, *SOURCES,
         "-lm", "-lpthread"],
        check=True,
    )  # fmt: skip
    return library


def missing_in(branch: int) -> tuple[str, ...]:
    """The functions that a driver of this branch (535) does not have, for `build`."""
    return tuple(name for since, names in _SINCE if branch < since for name in names)


def _sets() -> dict[str, float]:
    return {
        "power_mw": 390_780, "energy_mj": 5_000_000, "temperature": 61, "margin": 26,
        "sm_clock": 1755, "memory_clock": 2619, "gpu_util": 97, "memory_util": 40,
        "used": 40 * 2**30, "total": 80 * 2**30, "limit_mw": 700_000, "pstate": 0,
        "ecc_corrected": 2, "ecc_uncorrected": 0, "gpm": 1,
    }  # fmt: skip


def _fields() -> dict[int, tuple[int, float]]:
    return {
        186: (UINT, 390_780), 185: (UINT, 389_100), 82: (UINT, 70), 83: (ULONGLONG, 5_000_000),
        74: (ULONGLONG, 2_500_000), 76: (ULONGLONG, 0), 94: (UINT, 3),
        269: (ULONGLONG, 7_000_999), 270: (ULONGLONG, 0), 271: (ULONGLONG, 0),
        144: (UINT, 0), 145: (UINT, 0), 230: (UINT, 0),
    }  # fmt: skip


@dataclass(frozen=True)
class FakeInstance:
    """A MIG device, one compute instance in one GPU instance, there from one second to another."""

    index: int
    gi: int
    uuid: str
    sms: int = 16
    memory_mb: int = 9_856
    slices: int = 1
    profile: str = "1g.10gb"
    ci: int = 0
    from_s: float = -1e9
    to_s: float = 1e9

    def line(self) -> str:
        """Its line."""
        return (
            f"instance {self.index} {self.gi} {self.ci} {self.uuid} {self.profile} {self.sms} "
            f"{self.memory_mb} {self.slices} {self.from_s} {self.to_s}"
        )


@dataclass(frozen=True)
class FakeProcess:
    """A process on a GPU; `memory` and `sm_util` (percent) are -1 where they are not known."""

    pid: int
    memory: int = 2**30
    sm_util: int = -1
    gi: int = -1
    ci: int = -1
    from_s: float = -1e9
    to_s: float = 1e9

    def line(self) -> str:
        """Its line."""
        return (
            f"process {self.pid} {self.memory} {self.sm_util} {self.gi} {self.ci} "
            f"{self.from_s} {self.to_s}"
        )


@dataclass(frozen=True)
class FakeEvent:
    """What the driver reports at a second; those that are there before anybody asks are lost."""

    at_s: float
    type: int
    data: int = 0
    gi: int = -1
    ci: int = -1

    def line(self) -> str:
        """Its line."""
        return f"event {self.at_s} {self.type} {self.data} {self.gi} {self.ci}"


@dataclass
class FakeGpu:
    """The truth of one GPU: a loaded H100.

    `scoped` holds fields of another scope than 0, by (id, scope); `gpm` also takes `"5@1"`, a
    metric of a GPU instance; `timeline` is (second, line) with the lines of the state file
    that may stand after `at`.
    """

    bus: int = 0x1B
    domain: int = 0
    uuid: str = "GPU-00000000-0000-0000-0000-00000000001b"
    name: str = H100
    serial: str = "1652923034028"
    sets: dict[str, float] = field(default_factory=_sets)
    fields: dict[int, tuple[int, float]] = field(default_factory=_fields)
    field_errors: dict[int, int] = field(default_factory=dict[int, int])
    fails: dict[str, int] = field(default_factory=dict[str, int])
    gpm: dict[int | str, float] = field(default_factory=lambda: {2: 0.9, 5: 0.8, 10: 0.5})
    gpm_us: dict[int, float] = field(default_factory=dict[int, float])
    pci: int = H100_PCI
    scoped: dict[tuple[int, int], tuple[int, float]] = field(
        default_factory=dict[tuple[int, int], tuple[int, float]]
    )
    slow_us: dict[str, float] = field(default_factory=dict[str, float])
    hang_s: dict[str, float] = field(default_factory=dict[str, float])
    timeline: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    instances: list[FakeInstance] = field(default_factory=list[FakeInstance])
    processes: list[FakeProcess] = field(default_factory=list[FakeProcess])
    events: list[FakeEvent] = field(default_factory=list[FakeEvent])

    def lines(self) -> list[str]:
        """Its part of the state file."""
        errors = self.field_errors
        return [
            "gpu",
            f"bus {self.domain:x} {self.bus:x} 0",
            f"pci {self.pci:x}",
            f"uuid {self.uuid}",
            f"name {self.name}",
            f"serial {self.serial}",
            *(f"set {key} {value!r}" for key, value in self.sets.items()),
            *(f"field {k} {t} {v!r}" for k, (t, v) in self.fields.items() if k not in errors),
            *(f"field {k} {t} {v!r} {scope}" for (k, scope), (t, v) in self.scoped.items()),
            *(f"field_error {key} {code}" for key, code in errors.items()),
            *(f"fail {call} {code}" for call, code in self.fails.items()),
            *(f"slow {call} {us}" for call, us in self.slow_us.items()),
            *(f"hang {call} {seconds}" for call, seconds in self.hang_s.items()),
            *(f"gpm_us {key} {value:.3f}" for key, value in self.gpm_us.items()),
            *(f"gpm {key} {value}" for key, value in self.gpm.items()),
            *(one.line() for one in (*self.instances, *self.processes, *self.events)),
            *(f"at {second!r} {line}" for second, line in self.timeline),
        ]


def eight_gpus() -> list[FakeGpu]:
    """A node."""
    return [
        FakeGpu(bus=0x10 + index, uuid=f"GPU-00000000-0000-0000-0000-{index:012d}")
        for index in range(8)
    ]


def whole_h100(bus: int = 0x1B, minor: int = 0) -> FakeGpu:
    """An H100 that answers everything that a current driver of one does."""
    gpu = FakeGpu(bus=bus, uuid=f"GPU-00000000-0000-0000-0000-{bus:012x}")
    gpu.sets |= {
        "minor": minor, "architecture": 9, "cc_major": 9, "cc_minor": 0, "cores": 132 * 128,
        "sms": 132, "persistence": 1, "limit_default_mw": 700_000, "limit_min_mw": 200_000,
        "limit_max_mw": 700_000, "sm_clock_max": 1980, "memory_clock_max": 2619, "reasons": 4,
        "pcie_generation": 5, "pcie_width": 16, "pcie_generation_max": 5, "pcie_width_max": 16,
        "ecc_mode": 1, "mig": 0, "mig_pending": 0, "cycles": 1, "cycles_base": 10**9,
        "remap_corrected": 0, "remap_uncorrected": 0, "remap_pending": 0, "remap_failure": 0,
        "violation_0": 2_500_000, "violation_1": 7_000_999, "violation_2": 0, "nvlinks": 18,
        "integrate": 1,
    }  # fmt: skip
    gpu.fields |= {
        187: (UINT, 200_000), 188: (UINT, 700_000), 189: (UINT, 700_000), 193: (SINT, -8), 194: (SINT, -2), 195: (SINT, 0), 196: (SINT, 0), 142: (UINT, 0),
        143: (UINT, 0), 197: (ULONGLONG, 10**9), 198: (ULONGLONG, 2 * 10**9),
        138: (ULONGLONG, 10**6), 139: (ULONGLONG, 10**6), 38: (ULONGLONG, 0),
        45: (ULONGLONG, 0), 52: (ULONGLONG, 0), 59: (ULONGLONG, 0), 91: (UINT, 18),
    }  # fmt: skip
    gpu.gpm |= {1: 0.97, 3: 0.3, 4: 0.1, 6: 0.0, 7: 0.8, 8: 0.0, 9: 0.0, 11: 0.0, 12: 0.1, 13: 0.0}
    gpu.gpm |= {20: 1500.0, 21: 1200.0, 60: 90_000.0, 61: 91_000.0}
    return gpu


_THERMAL = (269, 270, 271)


def of_branch(gpu: FakeGpu, branch: tuple[int, int]) -> FakeGpu:
    """The same GPU under a driver of this branch, (580, 95): what that one lacks is taken out,
    and the thermal fields are where it has them.  Changes and returns `gpu`."""
    thermal = [gpu.fields.pop(number) for number in _THERMAL if number in gpu.fields]
    place = 269 if branch >= (580, 82) else 251 if branch >= (575, 0) else None
    if place is not None:
        gpu.fields |= {place + index: value for index, value in enumerate(thermal)}
    if branch < (570, 0):
        gpu.fields.pop(230, None)
        gpu.sets.pop("margin", None)
    if branch < (525, 0):
        for number in (185, 186, 187, 188, 189, 193, 194, 195, 196):
            gpu.fields.pop(number, None)
        gpu.sets.pop("gpm", None)
    if branch < (595, 0):
        gpu.sets.pop("cycles", None)
    return gpu


class FakeClock:
    """The truth's clock, in a file that the library has mapped: it moves without a new truth."""

    def __init__(self, path: Path, now_us: int = 0) -> None:
        self.path = path
        path.write_bytes(struct.pack("=q", now_us))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)

    @property
    def now_us(self) -> int:
        """The time."""
        return struct.unpack("=q", self._memory)[0]

    def set_us(self, now_us: int) -> None:
        """Sets the time."""
        self._memory[:] = struct.pack("=q", now_us)

    def move(self, seconds: float) -> None:
        """Lets time pass."""
        self.set_us(self.now_us + round(seconds * 1e6))


class FakeNvml:
    """Writes the state file; what is in use sees it at its next call."""

    def __init__(self, state: Path, library: Path) -> None:
        self.state, self.library = state, library
        self._clock: FakeClock | None = None

    @property
    def clock(self) -> FakeClock:
        """The truth's clock, at 0 when it is first asked for; from then on `write` names it."""
        if self._clock is None:
            self._clock = FakeClock(self.state.with_suffix(".clock"))
        return self._clock

    def write(
        self,
        gpus: Sequence[FakeGpu],
        *,
        driver: str = "580.95.05",
        init: int = 0,
        now_us: int | None = None,
        zero_us: int | None = None,
        system: Sequence[str] = (),
        still: bool = False,
    ) -> None:
        """Replaces the truth at once.

        `init` is what every call then returns, if not 0; `zero_us` the time of the timelines'
        second 0; `system` lines about the driver as a whole (`fail nvmlEventSetCreate 999`);
        a truth that is `still` never changes, and costs less to ask.
        """
        lines = [f"driver {driver}", f"init {init}"]
        if now_us is not None:
            lines.append(f"now_us {now_us}")
        elif self._clock is not None:
            lines.append(f"clock {self._clock.path}")
        if zero_us is not None:
            lines.append(f"zero_us {zero_us}")
        if still:
            lines.append("still")
        lines += system
        for gpu in gpus:
            lines += gpu.lines()
        fresh = self.state.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n", encoding="ascii")
        fresh.replace(self.state)
