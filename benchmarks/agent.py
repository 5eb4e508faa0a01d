"""What an agent costs its node: CPU per tick of eight GPUs, and memory when connected.

    python -m benchmarks.agent [--gpus 1,8] [--seconds S] [--bus URL] [--json]

CPU is that of the agent's own work on a driver that costs next to nothing (a
C library with NVML's names), so that what is seen is ours.  Memory is that of
a real `petawatch agent` process after it has sent for a while, to Kafka where
`--bus` names one, else to the SQLite log.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from collectors.agent.agent import Agent, AgentSettings
from collectors.contract.record import NodeRecord
from collectors.contract.topics import Event, topic_specs
from collectors.contract.wire import encode
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from collectors.nvml.backend import NvmlBackend

_TICKS = 300
_PREFIX = "bench-agent."


@dataclass(frozen=True, slots=True)
class Result:
    """One size: CPU in µs per tick of all GPUs, bytes per record, MB of a process."""

    gpus: int
    cpu_us_per_tick: float
    record_bytes: int
    rss_mb: float
    process_cpu_us_per_tick: float
    bus: str


class _SteppedClock(SystemClock):
    """A second passes between ticks, without waiting for it."""

    def __init__(self) -> None:
        self._offset_us = 0

    def step(self) -> None:
        self._offset_us += 1_000_000

    def wall_us(self) -> int:
        return super().wall_us() + self._offset_us

    def monotonic_us(self) -> int:
        return super().monotonic_us() + self._offset_us


def _cpu_us() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e6


async def _ticks(clock: _SteppedClock) -> tuple[float, int]:
    """CPU µs per tick and the bytes of a usual record."""
    backend = NvmlBackend(clock)
    backend.open()
    encoded: list[bytes] = []

    def keep(record: NodeRecord) -> None:
        encoded.append(encode(record))

    def ignore(_: Event) -> None:
        """Events are no part of a usual tick."""

    agent = Agent(backend, clock, AgentSettings("bench"), keep, ignore)
    for _ in range(3):
        clock.step()
        await agent.tick()
    began_us = _cpu_us()
    for _ in range(_TICKS):
        clock.step()
        await agent.tick()
    cpu_us = (_cpu_us() - began_us) / _TICKS
    backend.close()
    return cpu_us, sorted(len(data) for data in encoded)[len(encoded) // 2]


async def _topics(url: str, folder: Path, *, create: bool) -> str:
    """Makes or removes the topics; returns the URL to send to."""
    specs = topic_specs(_PREFIX, gpu_partitions=2)
    if not url:
        url = f"sqlite:///{folder / 'bus.sqlite'}"
        bus: Any = SqliteBus(folder / "bus.sqlite", clock=SystemClock())
    else:
        bus = importlib.import_module("pipeline.bus").open_bus(url, SystemClock())
    try:
        if create:
            await bus.create_topics(specs)
        else:
            await bus.delete_topics([spec.name for spec in specs])
    finally:
        await bus.close()
    return url


def _process(url: str, folder: Path, seconds: float) -> tuple[float, float]:
    """Memory in MB and CPU in µs per tick of a real agent that sends every second."""
    petawatch = Path(sys.executable).with_name("petawatch")
    with subprocess.Popen(
        [petawatch, "agent", "--bus", url, "--node", "bench", "--topic-prefix", _PREFIX,
         "--spool", folder / "spool.sqlite"],
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            time.sleep(5)
            before_s = _process_cpu_s(process.pid)
            time.sleep(seconds)
            cpu_s = _process_cpu_s(process.pid) - before_s
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
    kib = int(status.partition("VmRSS:")[2].split()[0])
    return kib * 1024 / 1e6, cpu_s / seconds * 1e6


def _process_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _fake_driver(folder: Path, gpus: int) -> None:
    """The tests' library behind nvidia-ml-py, here and in child processes."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "agent"))
    fake: Any = importlib.import_module("fake_nvml")
    library = fake.build(folder)
    if library is None:
        sys.exit("benchmarks.agent needs a C compiler for its driver: install gcc")
    state = folder / "nvml.state"
    os.environ["FAKE_NVML_STATE"] = str(state)
    os.environ["LD_LIBRARY_PATH"] = str(folder)
    fake.FakeNvml(state, library).write(fake.eight_gpus()[:gpus])
    pynvml: Any = importlib.import_module("pynvml")
    if pynvml.nvmlLib is None:
        pynvml.nvmlLib = ctypes.CDLL(str(library))


def measure(gpus: int, url: str, seconds: float) -> Result:
    """One size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _fake_driver(folder, gpus)
        cpu_us, size = asyncio.run(_ticks(_SteppedClock()))
        target = asyncio.run(_topics(url, folder, create=True))
        try:
            rss_mb, process_us = _process(target, folder, seconds)
        finally:
            asyncio.run(_topics(url, folder, create=False))
    kind = target.partition(":")[0]
    return Result(gpus, round(cpu_us, 1), size, round(rss_mb, 1), round(process_us, 1), kind)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, or with `--json` one object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpus", default="8", help="sizes, at most 8")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--bus", default=os.environ.get("PETAWATCH_BUS", ""))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    results = [measure(int(size), given.bus, given.seconds) for size in given.gpus.split(",")]
    if given.json:
        print(json.dumps({"benchmark": "agent", "results": [asdict(one) for one in results]}))
        return
    for one in results:
        print(
            f"{one.gpus} GPUs: {one.cpu_us_per_tick:,.0f} µs CPU per tick, {one.record_bytes:,} bytes; "
            f"process on {one.bus}: {one.rss_mb:.1f} MB, {one.process_cpu_us_per_tick:,.0f} µs per tick"
        )


if __name__ == "__main__":
    main()
