"""A programme of activity and clock for one fake GPU, read by the backend and the agent's
assembler tick by tick, and its integral by plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fake_nvml import FakeGpu, FakeNvml
from manual_clock import ManualClock

from collectors.agent.assembler import NodeAssembler, Reading
from collectors.contract.identity import new_run
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.source import Sample
from collectors.nvml.backend import NvmlBackend

SMS, FLOP_PER_SM_CLOCK = 132, 4096
Step = tuple[float, float, float]
"""From second on: tensor activity (ratio), SM clock (MHz)."""


def programme(gpu: FakeGpu, steps: Sequence[Step], gi: int | None = None) -> None:
    """Writes steps into a GPU's timeline: metric 5 with its HMMA pipe, and the clock."""
    at = "" if gi is None else f"@{gi}"
    for second, activity, mhz in steps:
        for metric, value in ((2, max(activity, 0.01)), (5, activity), (7, activity)):
            gpu.timeline.append((second, f"gpm {metric}{at} {value}"))
        if gi is None:
            gpu.timeline.append((second, f"set sm_clock {mhz}"))


def integral_gflop(steps: Sequence[Step], start_s: float, end_s: float, sms: int = SMS) -> float:
    """∫ activity × clock dt of the steps, in GFLOP."""
    total = 0.0
    ends = [*(second for second, _, _ in steps[1:]), float("inf")]
    for (begin, activity, mhz), end in zip(steps, ends, strict=True):
        seconds = min(end, end_s) - max(begin, start_s)
        total += max(0.0, seconds) * activity * mhz
    return total * 1e6 * sms * FLOP_PER_SM_CLOCK / 1e9


def wave(
    seconds: int, of: Callable[[float], tuple[float, float]], step_s: float = 0.05
) -> list[Step]:
    """Steps that follow a function of time."""
    count = round(seconds / step_s)
    return [(i * step_s, *of((i + 0.5) * step_s)) for i in range(count)]


class Scene:
    """A node of fake GPUs whose clock moves in ticks."""

    def __init__(self, fake: FakeNvml, gpus: Sequence[FakeGpu], interval_s: float = 1.0) -> None:
        self.fake, self.gpus = fake, gpus
        fake.clock.set_us(0)
        fake.write(gpus)
        self.clock = ManualClock()
        self.backend = NvmlBackend(self.clock, interval_s=interval_s)
        self.backend.open()
        self._assembler = NodeAssembler(
            "n1", Origin.MEASURED, new_run(self.clock.wall_us(), 1),
            longest_gap_us=int(5 * interval_s * 1e6),
        )  # fmt: skip
        self.samples: list[list[Sample]] = []
        self.records: list[NodeRecord] = []

    def move(self, seconds: float) -> None:
        """Lets time pass."""
        self.fake.clock.move(seconds)
        self.clock.move(seconds)

    def tick(self) -> list[Sample]:
        """Reads all devices and makes a record of it."""
        samples = [sample for device in self.backend.devices() for sample in device.read()]
        self.samples.append(samples)
        readings = [Reading(s.labels, s.energy_epoch, s.values, s.flop) for s in samples]
        readings.sort(key=lambda reading: reading.labels.slot)
        self.records.append(self._assembler.assemble(self.clock.wall_us(), readings))
        return samples

    def run(self, ticks: int, interval_s: float = 1.0) -> None:
        """So many ticks, the first one now."""
        for _ in range(ticks):
            self.tick()
            self.move(interval_s)

    def last(self, name: str, slot_index: int = 0) -> float:
        """A metric in the last record."""
        return self.records[-1].values[name][slot_index]
