"""What a viewer of the live page costs the server, and how old a sample is when it is seen.

    python -m benchmarks.live [--viewers 1,100,500] [--seconds 10] [--gpus 1952] [--json]

The server is a process of its own, the viewers are WebSocket clients on
loopback in this one.  Two runs per size: in one the server gets a ready frame
a second, so that its CPU beyond that without viewers is what the viewers cost
(`ms_per_viewer_s`; `server_ms_s` is all of it); in the other it runs the
simulator, `watch` and the API in real time, and `age` is from the newest
sample's event time to the frame's arrival at a client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.records import SITES
from collectors.contract.bus import Message
from collectors.contract.inventory import Inventory
from collectors.contract.source import Source, SourceOptions
from collectors.contract.topics import LIVE, topic_specs
from collectors.kit import plugins
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from pipeline.api.app import create_app
from pipeline.api.deps import ApiDeps
from pipeline.api.frames import parse_frame
from pipeline.api.server import run_server
from pipeline.api.settings import ApiSettings
from pipeline.commands.stages import run_until_done
from pipeline.health import HealthBoard
from pipeline.series.duck import DuckStore
from pipeline.watch.frame import COLUMNS, encode_frame
from pipeline.watch.role import Watch, WatchOptions

_CLOCK = SystemClock()
_SETTLE_S = 3.0
"""Until connections are made and caches are warm."""


async def _ready_frames(bus: SqliteBus, inventory: Inventory, stop: asyncio.Event) -> None:
    """A frame a second with noise in each column, as a live fleet has it."""
    random = np.random.default_rng(1)
    gpus = inventory.gpus(_CLOCK.wall_us())
    columns = {name: random.integers(50, 90, gpus).astype(np.uint8) for name in COLUMNS}
    header = {"layout": inventory.layout_id, "origin": "simulated", "filler": "x" * 3_000}
    producer = bus.producer()
    await producer.start()
    while not stop.is_set():
        payload = encode_frame({**header, "time_us": _CLOCK.wall_us()}, columns)
        await producer.send([Message(LIVE, b"frame", payload)])
        await _CLOCK.sleep(1.0)
    await producer.stop()


async def _simulated(
    bus: SqliteBus, source: Source, board: HealthBoard, stop: asyncio.Event
) -> None:
    """The simulator in real time, and `watch` behind it."""
    producer = bus.producer()
    await producer.start()
    watch = Watch(bus, lambda: source.inventory, WatchOptions(), _CLOCK, board)
    await asyncio.gather(watch.run(stop), source.run(producer, stop))
    await producer.stop()


async def serve(site: str, *, simulate: bool) -> None:
    """The server's process: prints its port, ends when its standard input does."""
    with tempfile.TemporaryDirectory() as folder:
        bus = SqliteBus(Path(folder) / "bus.db", clock=_CLOCK)
        series = DuckStore(Path(folder) / "series.duckdb")
        await bus.create_topics(topic_specs())
        await series.start()
        create: Any = plugins.load("petawatch.sources", "sim")
        source: Source = create(SourceOptions(site=site), _CLOCK)
        board, stop = HealthBoard("serve", "1", _CLOCK), asyncio.Event()
        deps = ApiDeps(bus, series, lambda: source.inventory, _CLOCK, board)
        app = create_app(deps, ApiSettings())
        feed = (
            _simulated(bus, source, board, stop)
            if simulate
            else _ready_frames(bus, source.inventory, stop)
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(feed)
            group.create_task(
                run_server(app, "127.0.0.1", 0, stop, on_ready=lambda port: print(port, flush=True))
            )
            await asyncio.to_thread(sys.stdin.read)
            stop.set()
        await series.close()
        await bus.close()


@asynccontextmanager
async def _server(site: str, *, simulate: bool) -> AsyncGenerator[tuple[int, int]]:
    """A server process: its pid and its port."""
    command = [sys.executable, "-m", "benchmarks.live", "--site", site, "--serve"]
    process = await asyncio.create_subprocess_exec(
        *command, "simulate" if simulate else "ready", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process.pid, int(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()


def _cpu_ms(pid: int) -> float:
    """CPU time of all threads of a process, to the ns where Linux tells it so."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e6


async def _look(socket: ClientConnection, ages_ms: list[float]) -> None:
    async for payload in socket:
        arrived_us = _CLOCK.wall_us()
        assert isinstance(payload, bytes)
        ages_ms.append((arrived_us - parse_frame(payload, 0).time_us) / 1e3)


async def _count(socket: ClientConnection, seen: Counter[str]) -> None:
    async for payload in socket:
        seen["frames"] += 1
        seen["bytes"] += len(payload)


@asynccontextmanager
async def _viewers(port: int, number: int) -> AsyncGenerator[list[ClientConnection]]:
    url = f"ws://127.0.0.1:{port}/api/v1/live/ws"
    sockets = [await connect(url, compression=None, close_timeout=1) for _ in range(number)]
    try:
        yield sockets
    finally:
        await asyncio.gather(*(socket.close() for socket in sockets))


async def _cpu_ms_s(pid: int, seconds: float) -> float:
    """CPU in ms that a process uses per second, over some seconds from now."""
    began_us, began_ms = _CLOCK.monotonic_us(), _cpu_ms(pid)
    await _CLOCK.sleep(seconds)
    return (_cpu_ms(pid) - began_ms) / ((_CLOCK.monotonic_us() - began_us) / 1e6)


async def _run(
    site: str, viewers: int, seconds: float, *, simulate: bool
) -> tuple[float, float, list[float], Counter[str]]:
    """The server's CPU in ms per second without and with viewers, the ages of the first ten
    viewers' frames, and how many frames and bytes the others got."""
    ages_ms: list[float] = []
    seen = Counter[str]()
    async with _server(site, simulate=simulate) as (pid, port):
        await _CLOCK.sleep(_SETTLE_S)
        alone_ms = 0.0 if simulate else await _cpu_ms_s(pid, seconds)
        async with _viewers(port, viewers) as sockets:
            looks = [asyncio.create_task(_look(socket, ages_ms)) for socket in sockets[:10]]
            looks += [asyncio.create_task(_count(socket, seen)) for socket in sockets[10:]]
            await _CLOCK.sleep(_SETTLE_S)
            ages_ms.clear()
            seen.clear()
            used_ms = await _cpu_ms_s(pid, seconds)
            for look in looks:
                look.cancel()
            await asyncio.gather(*looks, return_exceptions=True)
    return alone_ms, used_ms, ages_ms, seen


async def measure(site: str, sizes: list[int], seconds: float) -> list[dict[str, Any]]:
    """A row per number of viewers."""
    rows: list[dict[str, Any]] = []
    for viewers in sizes:
        alone_ms, used_ms, push_ms, seen = await _run(site, viewers, seconds, simulate=False)
        _, _, ages_ms, _ = await _run(site, viewers, seconds, simulate=True)
        rows.append(
            {
                "viewers": viewers,
                "frames_per_s": round((len(push_ms) + seen["frames"]) / seconds, 1),
                "server_ms_s": round(used_ms, 2),
                "server_alone_ms_s": round(alone_ms, 2),
                "ms_per_viewer_s": round((used_ms - alone_ms) / viewers, 4),
                "push_p50_ms": _percentile(push_ms, 50),
                "push_p99_ms": _percentile(push_ms, 99),
                "age_p50_ms": _percentile(ages_ms, 50),
                "age_p99_ms": _percentile(ages_ms, 99),
            }
        )
    return rows


def _percentile(values: list[float], share: float) -> float | None:
    return round(float(np.percentile(values, share)), 2) if values else None


def main() -> None:
    """Prints a line per size; with --json the last line is one object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--viewers", default="1,100,500")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--gpus", default="1952", help="sizes of site, by commas")
    parser.add_argument("--site", default="aisc-phase1", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--serve", choices=("ready", "simulate"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        run_until_done(serve(given.site, simulate=given.serve == "simulate"))
        return
    sizes = [int(size) for size in given.viewers.split(",")]
    rows: list[dict[str, Any]] = []
    for text in given.gpus.split(","):
        site = SITES.get(int(text), f"synthetic:{text}")
        for row in asyncio.run(measure(site, sizes, given.seconds)):
            rows.append({"gpus": int(text), **row})
            print("  ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
    if given.as_json:
        print(json.dumps({"benchmark": "live", "results": rows}))


if __name__ == "__main__":
    main()
