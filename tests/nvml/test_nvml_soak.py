"""An hour of a node with eight GPUs, or a part of it: nothing grows, whatever comes and goes."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_nvml import FakeInstance, FakeNvml, FakeProcess, whole_h100
from manual_clock import ManualClock

from collectors.agent.agent import Agent
from collectors.agent.around import AgentSettings
from collectors.contract.record import NodeRecord
from collectors.contract.topics import Event
from collectors.contract.wire import encode
from collectors.nvml.backend import NvmlBackend

HOUR_S, SETTLED_S = 3600, 600
LOST_S = (700, 1900, 3100)
MARGIN_MB = 3.0
"""Pages that the allocator keeps back and forth; a leak of 1 kB a tick would be as much."""


@dataclass(frozen=True)
class Held:
    """What the process holds."""

    rss_mb: float
    samples: int
    objects: int
    threads: int
    files: int


def held(fake: FakeNvml) -> Held:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    library = ctypes.CDLL(str(fake.library))
    return Held(
        pages * os.sysconf("SC_PAGE_SIZE") / 1e6, library.fakeLiveSamples(), len(gc.get_objects()),
        threading.active_count(), len(list(Path("/proc/self/fd").iterdir())),
    )  # fmt: skip


def write_truth(fake: FakeNvml) -> None:
    """Eight GPUs that work; one is lost three times an hour, one is divided anew each ten
    minutes, and processes come and go."""
    gpus = [whole_h100(0x10 + number, number) for number in range(8)]
    for second in range(0, HOUR_S, 20):
        for gpu in gpus:
            gpu.timeline.append((second, f"set sm_clock {1500 + second % 97}"))
    for second in LOST_S:
        gpus[3].timeline += [(second, "fail all 15"), (second + 90, "fail all 0")]
    gpus[5].sets["mig"] = 1
    gpus[5].gpm |= {f"5@{instance}": 0.5 for instance in (1, 2)}
    gpus[5].instances = [
        FakeInstance(0, 1 + turn % 2, f"MIG-{turn}", from_s=600 * turn, to_s=600 * (turn + 1) - 30)
        for turn in range(6)
    ]
    for gpu in gpus:
        gpu.processes = [
            FakeProcess(100 + turn, sm_util=50, from_s=300 * turn, to_s=300 * turn + 200)
            for turn in range(12)
        ]
    fake.clock.set_us(0)
    fake.write(gpus)


@pytest.mark.parametrize("seconds", [1000, pytest.param(HOUR_S, marks=pytest.mark.long)])
async def test_it_leaves_nothing_behind(fake_nvml: FakeNvml, seconds: int) -> None:
    before = held(fake_nvml)
    write_truth(fake_nvml)
    clock = ManualClock()
    backend = NvmlBackend(clock)
    backend.open()
    kinds: list[str] = []
    sizes = [0, 0]

    def on_record(record: NodeRecord) -> None:
        sizes[0] += 1
        sizes[1] = max(sizes[1], len(encode(record)))

    def on_event(event: Event) -> None:
        kinds.append(event.kind)

    settings = AgentSettings("soak", budget=60, rescan_s=60.0)
    agent = Agent(backend, clock, settings, on_record, on_event)
    settled = None
    for second in range(seconds):
        await agent.tick()
        clock.move(1)
        fake_nvml.clock.move(1)
        if second == SETTLED_S:
            settled = held(fake_nvml)
    after = held(fake_nvml)
    assert settled is not None
    assert sizes[0] == seconds
    assert kinds == ["gpu_lost", "gpu_recovered"] * sum(second < seconds for second in LOST_S)
    assert after.rss_mb - settled.rss_mb < MARGIN_MB
    assert after.objects - settled.objects < 2_000
    assert after.samples <= settled.samples + 2  # of an instance
    assert after.threads <= settled.threads + 1
    assert after.files <= settled.files
    await agent.driver.end(5)
    backend.close()
    assert held(fake_nvml).samples == before.samples
