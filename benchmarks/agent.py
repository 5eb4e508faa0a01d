"""What an agent costs its node: CPU per second, memory, start to first record.

    python -m benchmarks.agent [--gpus 1,8] [--seconds S] [--bus URL] [--json]

The driver is the tests' C library with NVML's names, which costs next to
nothing, so that what is seen is ours.  "Tick" is the agent's own work alone, in
this process; the rest is a real `petawatch agent` at one reading a second
after it has sent for a while, to Kafka where `--bus` names one, else to the
SQLite log: CPU of all its threads by the kernel's own accounts (ns), waits that
ended (wake-ups), resident memory, and the time from its start to the first
record on its standard output.  Other load on the machine makes CPU dearer:
caches and frequency are shared.
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

from benchmarks import yardstick
from collectors.agent.agent import Agent
from collectors.agent.around import AgentSettings
from collectors.contract.record import NodeRecord
from collectors.contract.topics import Event, topic_specs
from collectors.contract.wire import encode
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from collectors.nvml.backend import NvmlBackend

_TICKS = 300
_PREFIX = "bench-agent."
_SETTLED_S = 12.0
"""By then everything has been loaded, and asked for once."""
_PETAWATCH = Path(sys.executable).with_name("petawatch")


@dataclass(frozen=True, slots=True)
class Result:
    """One size: CPU in µs, memory in MB, times in seconds."""

    gpus: int
    tick_cpu_us: float
    record_bytes: int
    bus: str
    process_cpu_us_per_s: float
    wake_ups_per_s: float
    threads: int
    rss_mb: float
    anonymous_mb: float
    first_record_s: float
    yardstick_us_per_s: float
    """CPU of the fixed work once a second, in a process beside the agent."""
    yardstick_loop_us: float
    """The same work with warm caches."""

    @property
    def yardsticks(self) -> float:
        """CPU of the agent's process as a multiple of the fixed work's."""
        return self.process_cpu_us_per_s / self.yardstick_us_per_s


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


@dataclass(frozen=True, slots=True)
class _Usage:
    """A process since its start."""

    cpu_ns: int
    wake_ups: int
    threads: int
    rss_mb: float
    anonymous_mb: float


def _usage(pid: int) -> _Usage:
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    cpu_ns = wake_ups = 0
    for task in tasks:
        cpu_ns += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        wake_ups += _number(task / "status", "voluntary_ctxt_switches:")
    status = Path(f"/proc/{pid}/status")
    rss, anonymous = (_number(status, key) * 1024 / 1e6 for key in ("VmRSS:", "RssAnon:"))
    return _Usage(cpu_ns, wake_ups, len(tasks), rss, anonymous)


def _number(path: Path, key: str) -> int:
    text = path.read_text(encoding="ascii", errors="replace")
    return int(text.partition("\n" + key)[2].split()[0])


def _process(url: str, folder: Path, seconds: float) -> tuple[_Usage, _Usage, int]:
    """A real agent that sends every second, once it has settled and `seconds` later; and what the
    fixed work has taken meanwhile, in CPU ns."""
    command = [
        _PETAWATCH, "agent", "--bus", url, "--node", "bench", "--topic-prefix", _PREFIX,
        "--spool", folder / "spool.sqlite", "--metrics-port", "0",
    ]  # fmt: skip
    environ = _installed(folder)
    with (
        subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environ) as process,
        yardstick.start() as fixed,
    ):
        try:
            time.sleep(_SETTLED_S)
            before, fixed_ns = _usage(process.pid), _usage(fixed.pid).cpu_ns
            time.sleep(seconds)
            after, fixed_ns = _usage(process.pid), _usage(fixed.pid).cpu_ns - fixed_ns
        finally:
            fixed.kill()
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
    return before, after, fixed_ns


def _installed(folder: Path) -> dict[str, str]:
    """As where a package is installed: its bytecode is there from the second start on."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return environ | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


def _first_record_s(folder: Path) -> float:
    """From the process's start to its first line."""
    began = time.monotonic()
    with subprocess.Popen(
        [_PETAWATCH, "agent", "--node", "bench", "--stdout", "--metrics-port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_installed(folder),
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            if '"event"' not in line.partition(":")[0]:
                break
        took_s = time.monotonic() - began
        process.send_signal(signal.SIGTERM)
    return took_s


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
    truth = [fake.whole_h100(0x10 + number, number) for number in range(gpus)]
    fake.FakeNvml(state, library).write(truth, still=True)
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
        first_s = min(_first_record_s(folder) for _ in range(4))
        try:
            before, after, fixed_ns = _process(target, folder, seconds)
        finally:
            asyncio.run(_topics(url, folder, create=False))
    return Result(
        gpus, round(cpu_us, 1), size, target.partition(":")[0],
        round((after.cpu_ns - before.cpu_ns) / 1e3 / seconds, 1),
        round((after.wake_ups - before.wake_ups) / seconds, 1),
        after.threads, round(after.rss_mb, 1), round(after.anonymous_mb, 1), round(first_s, 2),
        round(fixed_ns / 1e3 / seconds, 1), round(yardstick.in_a_loop_us(), 1),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, or with `--json` one object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpus", default="8", help="sizes, at most 8")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--bus", default=os.environ.get("PETAWATCH_BUS", ""))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    results = [measure(int(size), given.bus, given.seconds) for size in given.gpus.split(",")]
    if given.json:
        print(json.dumps({"benchmark": "agent", "results": [asdict(one) for one in results]}))
        return
    for one in results:
        print(
            f"{one.gpus} GPUs: {one.tick_cpu_us:,.0f} µs CPU per tick, {one.record_bytes:,} bytes; "
            f"process on {one.bus}: {one.process_cpu_us_per_s:,.0f} µs CPU per second, "
            f"{one.wake_ups_per_s:.0f} wake-ups, {one.threads} threads, {one.rss_mb:.1f} MB "
            f"({one.anonymous_mb:.1f} anonymous), first record after {one.first_record_s:.2f} s; "
            f"{one.yardsticks:.2f} yardsticks of {one.yardstick_us_per_s:,.0f} µs "
            f"({one.yardstick_loop_us:,.0f} in a loop)"
        )


if __name__ == "__main__":
    main()
