"""What reading a fleet's exporters costs: CPU of the scraper alone, at the real period.

.venv/bin/python -m benchmarks.scrape [--exporters 500] [--period 15] [--seconds 60]

The exporters run in a process of their own, each on a port of its own, and
show pages of dcgm-exporter of 8 GPUs (31 series each, some 75 KB) whose values
change.  All is in the figure: HTTP, parsing, integrals, encoding, and sending
to the SQLite bus.  The first period, in which pages are learnt, is not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from collectors.contract.topics import topic_specs
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from collectors.scrape.names import DCGM_DEVICE, DCGM_PROFILING
from collectors.scrape.settings import ScrapeSettings
from collectors.scrape.source import ScrapeSource
from collectors.scrape.targets import TargetList

_GPUS, _SERIES, _VARIANTS = 8, 31, 4
_SKIPPED = ("_HERTZ", "_BYTES", "_JOULES_TOTAL", "_RATIO", "_CELSIUS", "_WATTS", "_SECONDS_TOTAL")


def page(node: int, variant: int) -> bytes:
    """A page as dcgm-exporter writes it."""
    names = [f"DCGM_FI_DEV_{name}" for name in DCGM_DEVICE if not name.endswith(_SKIPPED)]
    names = names[: _SERIES - 6] + [f"DCGM_FI_PROF_{name}" for name in list(DCGM_PROFILING)[:12:2]]
    lines: list[str] = []
    for position, name in enumerate(names):
        lines += [f"# HELP {name} What it is, in words (in its unit).", f"# TYPE {name} gauge"]
        for gpu in range(_GPUS):
            value = (position * 7 + gpu * 3 + variant + 1) % 90 + 1
            shown = f"{value / 100:.6f}" if "_PROF_" in name else str(value)
            lines.append(
                f'{name}{{gpu="{gpu}",UUID="GPU-{node:08x}-f55a-92a8-aa39-{gpu:012x}",'
                f'pci_bus_id="00000000:{gpu * 16 + 3:02X}:00.0",device="nvidia{gpu}",'
                f'modelName="NVIDIA A100-SXM4-80GB",Hostname="gpu{node:04d}.cluster.internal",'
                f'DCGM_FI_DRIVER_VERSION="580.105.08",container="main",namespace="team-{gpu}",'
                f'pod="train-{node}-worker-{gpu}"}} {shown}'
            )
    return ("\n".join(lines) + "\n").encode()


def serve(count: int, ports: Connection) -> None:
    """Shows pages on as many ports, until the process is ended."""
    asyncio.run(_serve(count, ports))


async def _serve(count: int, ports: Connection) -> None:
    servers: list[asyncio.Server] = []
    for node in range(count):
        shown = [page(node, variant) for variant in range(_VARIANTS)]
        servers.append(await asyncio.start_server(_handler(shown), "127.0.0.1", 0))
    ports.send([server.sockets[0].getsockname()[1] for server in servers])
    await asyncio.Event().wait()


def _handler(shown: Sequence[bytes]):  # noqa: ANN202 - a callback of asyncio's
    asked = [0]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            body = shown[asked[0] % len(shown)]
            asked[0] += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
                         b"Content-Length: %d\r\n\r\n" % len(body) + body)  # fmt: skip

    return answer


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(ports: Sequence[int], period_s: float, seconds: float) -> dict[str, float]:
    """CPU and counts of so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        bus = SqliteBus(Path(folder) / "bus.sqlite", clock=SystemClock())
        await bus.create_topics(topic_specs())
        targets = TargetList([f"127.0.0.1:{port}" for port in ports])
        source = ScrapeSource(targets, SystemClock(), ScrapeSettings(period_s, min(10.0, period_s)))
        producer, stop = bus.producer(), asyncio.Event()
        running = asyncio.create_task(source.run(producer, stop))
        await asyncio.sleep(period_s * 1.2)
        began_s, cpu_s = time.monotonic(), _cpu_s()
        await asyncio.sleep(seconds)
        elapsed_s, spent_s = time.monotonic() - began_s, _cpu_s() - cpu_s
        stop.set()
        await running
        await producer.stop()
        await bus.close()
    pages = len(ports) * elapsed_s / period_s
    return {
        "exporters": len(ports), "period_s": period_s, "page_bytes": len(page(0, 0)),
        "core": round(spent_s / elapsed_s, 4), "ms_per_page": round(spent_s * 1e3 / pages, 3),
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }  # fmt: skip


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exporters", type=int, default=500)
    parser.add_argument("--period", type=float, default=15.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(asked.exporters, theirs), daemon=True
    )
    server.start()
    ports: list[int] = ours.recv()
    try:
        print(json.dumps(asyncio.run(measure(ports, asked.period, asked.seconds))))
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
