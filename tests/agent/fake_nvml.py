"""Builds the fake NVML and writes the truth that it tells; see fake_nvml.c."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_nvml.c")
UINT, ULONGLONG, SINT = 1, 3, 5
H100 = "NVIDIA H100 80GB HBM3"


def build(folder: Path) -> Path | None:
    """The library in a folder of its own, for LD_LIBRARY_PATH; None without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wl,-soname,libnvidia-ml.so.1",
         "-o", library, SOURCE],
        check=True,
    )  # fmt: skip
    return library


def _sets() -> dict[str, int]:
    return {
        "power_mw": 390_780, "energy_mj": 5_000_000, "temperature": 61, "margin": 26,
        "sm_clock": 1755, "memory_clock": 2619, "gpu_util": 97, "memory_util": 40,
        "used": 40 * 2**30, "total": 80 * 2**30, "limit_mw": 700_000, "pstate": 0,
        "ecc_corrected": 2, "ecc_uncorrected": 0, "gpm": 1,
    }  # fmt: skip


def _fields() -> dict[int, tuple[int, int]]:
    return {
        186: (UINT, 390_780), 185: (UINT, 389_100), 82: (UINT, 70), 83: (ULONGLONG, 5_000_000),
        74: (ULONGLONG, 2_500_000), 76: (ULONGLONG, 0), 94: (UINT, 3),
        269: (ULONGLONG, 7_000_999), 270: (ULONGLONG, 0), 271: (ULONGLONG, 0),
        144: (UINT, 0), 145: (UINT, 0), 230: (UINT, 0),
    }  # fmt: skip


@dataclass
class FakeGpu:
    """The truth of one GPU: a loaded H100."""

    bus: int = 0x1B
    domain: int = 0
    uuid: str = "GPU-00000000-0000-0000-0000-00000000001b"
    name: str = H100
    serial: str = "1652923034028"
    sets: dict[str, int] = field(default_factory=_sets)
    fields: dict[int, tuple[int, int]] = field(default_factory=_fields)
    field_errors: dict[int, int] = field(default_factory=dict[int, int])
    fails: dict[str, int] = field(default_factory=dict[str, int])
    gpm: dict[int, float] = field(default_factory=lambda: {2: 0.9, 5: 0.8, 10: 0.5})
    gpm_us: dict[int, float] = field(default_factory=dict[int, float])

    def lines(self) -> list[str]:
        """Its part of the state file."""
        errors = self.field_errors
        return [
            "gpu",
            f"bus {self.domain:x} {self.bus:x} 0",
            f"uuid {self.uuid}",
            f"name {self.name}",
            f"serial {self.serial}",
            *(f"set {key} {value}" for key, value in self.sets.items()),
            *(f"field {k} {t} {v}" for k, (t, v) in self.fields.items() if k not in errors),
            *(f"field_error {key} {code}" for key, code in errors.items()),
            *(f"fail {call} {code}" for call, code in self.fails.items()),
            *(f"gpm_us {key} {value:.3f}" for key, value in self.gpm_us.items()),
            *(f"gpm {key} {value}" for key, value in self.gpm.items()),
        ]


def eight_gpus() -> list[FakeGpu]:
    """A node."""
    return [
        FakeGpu(bus=0x10 + index, uuid=f"GPU-00000000-0000-0000-0000-{index:012d}")
        for index in range(8)
    ]


class FakeNvml:
    """Writes the state file; what is in use sees it at its next call."""

    def __init__(self, state: Path, library: Path) -> None:
        self.state, self.library = state, library

    def write(
        self,
        gpus: Sequence[FakeGpu],
        *,
        driver: str = "580.95.05",
        init: int = 0,
        now_us: int | None = None,
    ) -> None:
        """Replaces the truth at once.  `init` is what every call then returns, if not 0."""
        lines = [f"driver {driver}", f"init {init}"]
        if now_us is not None:
            lines.append(f"now_us {now_us}")
        for gpu in gpus:
            lines += gpu.lines()
        fresh = self.state.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n", encoding="ascii")
        fresh.replace(self.state)
