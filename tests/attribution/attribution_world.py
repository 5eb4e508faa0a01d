"""A made-up node: its /proc, cgroups, pods, mapping files and GPUs, under one folder."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manual_clock import ManualClock

from collectors.attribution.attributor import Attributed, Attributor, Place
from collectors.attribution.settings import AttributionSettings
from collectors.contract.identity import Slot, pack_slot, slot_text
from collectors.contract.source import GpuProcess
from collectors.contract.topics import Allocation
from collectors.kit.clock import SystemClock

BOOT = "4f5fdb4c-7a5b-4d5e-9a60-9dd0b7a2c9aa"
DAY_US = 86_400_000_000
SLOTS = [pack_slot(Slot(0, 0x10 + number, 0, 0)) for number in range(8)]
GPUS = [
    Place(slot, f"GPU-{number:08x}-0000-4000-8000-0000000000aa", number, None)
    for number, slot in enumerate(SLOTS)
]
TEXTS = [slot_text(slot) for slot in SLOTS]
PODS = "0123abcd-1111-4222-8333-{:012x}"
SLUID = "sEKNKTV3WPV500"


def instances(gpu: int, *gis: int) -> list[Place]:
    """MIG instances of a GPU."""
    return [
        Place(
            pack_slot(Slot(0, 0x10 + gpu, 0, 0, gi, 0)),
            f"MIG-{gpu:08x}-0000-4000-8000-{gi:012x}",
            None,
            SLOTS[gpu],
        )
        for gi in gis
    ]


class World:
    """The node, and an agent's attributor that can be started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(SystemClock().wall_us())
        self.places: list[Place] = list(GPUS)
        self.proc = folder / "proc"
        self.cgroups = folder / "cgroup"
        self.logs = folder / "pods"
        self.jobs = folder / "jobs"
        for path in (self.proc / "2", self.proc / "sys/kernel/random", self.cgroups, self.jobs):
            path.mkdir(parents=True)
        self.logs.mkdir()
        (self.proc / "2/comm").write_text("kthreadd\n")
        self.boot(BOOT, self.clock.wall - DAY_US)
        self.settings = AttributionSettings(
            proc=self.proc,
            cgroups=self.cgroups,
            pod_resources=folder / "kubelet.sock",
            pod_logs=self.logs,
            job_mappings=(self.jobs,),
            state=folder / "state/claims.json",
            timeout_s=30.0,
        )
        self.told: dict[bytes, Allocation] = {}
        self.records: list[Allocation] = []
        self.missing: Mapping[str, str] = {}
        self.start()

    def boot(self, name: str, time_us: int) -> None:
        (self.proc / "sys/kernel/random/boot_id").write_text(name + "\n")
        (self.proc / "stat").write_text(f"cpu 1 2 3\nbtime {time_us // 1_000_000}\nprocs 3\n")

    def start(self) -> None:
        """Another life of the agent."""
        self.attributor = Attributor("n1", self.settings, self.clock)

    def process(
        self,
        pid: int,
        cgroup: str,
        *,
        start: int = 1_000,
        comm: str = "python",
        uid: int = 1_234,
        state: str = "S",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        place = self.proc / str(pid)
        place.mkdir(exist_ok=True)
        after = " ".join([state, *["0"] * 18, str(start), "0", "0"])
        (place / "stat").write_text(f"{pid} ({comm}) {after}\n")
        (place / "cgroup").write_text(cgroup + "\n")
        (place / "status").write_text(f"Name:\t{comm}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        pairs = [f"{name}={value}" for name, value in (environ or {}).items()]
        (place / "environ").write_bytes("\0".join([*pairs, ""]).encode())

    def ends(self, pid: int) -> None:
        for file in (self.proc / str(pid)).iterdir():
            file.unlink()
        (self.proc / str(pid)).rmdir()

    def record(self, name: str, **fields: Any) -> Path:
        """A mapping file of our form, put in place as a prolog does."""
        beside = self.jobs / f".{name}"
        beside.write_text(json.dumps(fields))
        return beside.replace(self.jobs / f"{name}.json")

    def lines(self, gpu: str, *jobs: str, end: str = "\n") -> Path:
        path = self.jobs / gpu
        path.write_text("\n".join(jobs) + end)
        return path

    def poll(self, *processes: GpuProcess, seconds: float = 10.0) -> Attributed:
        """Polls after some time, and keeps what a compacted topic would."""
        self.clock.move(seconds)
        found = self.attributor.poll(self.places, processes)
        self.told.update({one.key: one for one in found.allocations})
        self.records += found.allocations
        self.missing = found.missing
        return found

    def holds(self) -> dict[str, list[str]]:
        """By job the numbers or texts of the slots of its open claims."""
        return self._slots([one for one in self.told.values() if one.to_us is None])

    def _slots(self, claims: Sequence[Allocation]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for one in claims:
            (subject,) = one.subjects
            assert subject.node == "n1"
            found.setdefault(one.job, []).extend(subject.slots)
        return {job: sorted(slots) for job, slots in sorted(found.items())}

    def claims(self, job: str) -> list[Allocation]:
        """The last word on all claims of a job, in order of their start."""
        mine = [one for one in self.told.values() if one.job == job]
        return sorted(mine, key=lambda one: (one.from_us, one.id))


def iso(time_us: int) -> str:
    """As a mapping file writes a time."""
    return dt.datetime.fromtimestamp(time_us / 1e6, dt.UTC).isoformat()


def on(gpu: int, pid: int, sm: float | None = None) -> GpuProcess:
    return GpuProcess(SLOTS[gpu], pid, None, sm)
