"""A node with eight GPUs, second by second, in a process of its own: what it holds, as JSON.

Other tests of the same process keep pages and caches of theirs, so nothing could be said there of
what the agent leaves behind.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pynvml
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


def held(library: Any) -> dict[str, float]:
    """Megabytes, the library's samples, objects, threads and open files of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {
        "rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "samples": library.fakeLiveSamples(),
        "objects": len(gc.get_objects()),
        "threads": threading.active_count(),
        "files": len(list(Path("/proc/self/fd").iterdir())),
    }


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


async def soak(fake: FakeNvml, library: Any, seconds: int) -> dict[str, Any]:
    """What was held before, after ten minutes, at the end and after all was let go."""
    before = held(library)
    write_truth(fake)
    clock = ManualClock()
    backend = NvmlBackend(clock)
    backend.open()
    kinds: list[str] = []
    records = 0

    def on_record(record: NodeRecord) -> None:
        nonlocal records
        records += bool(encode(record))

    def on_event(event: Event) -> None:
        kinds.append(event.kind)

    settings = AgentSettings("soak", budget=60, rescan_s=60.0)
    agent = Agent(backend, clock, settings, on_record, on_event)
    settled = before
    for second in range(seconds):
        await agent.tick()
        clock.move(1)
        fake.clock.move(1)
        if second == SETTLED_S:
            settled = held(library)
    after = held(library)
    await agent.driver.end(5)
    backend.close()
    closed = held(library)
    states = {"before": before, "settled": settled, "after": after, "closed": closed}
    return {"records": records, "kinds": kinds} | states


def main(library_path: str, state: str, seconds: str) -> None:
    """Arguments: the fake library, its state file, seconds."""
    library = ctypes.CDLL(library_path)
    bindings: Any = pynvml
    bindings.nvmlLib = library
    fake = FakeNvml(Path(state), Path(library_path))
    print(json.dumps(asyncio.run(soak(fake, library, int(seconds)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
