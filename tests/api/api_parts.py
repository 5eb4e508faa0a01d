"""A small centre for the API's tests: its inventory, its frames, its stored samples."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
from fastapi import FastAPI

from collectors.contract.bus import Message
from collectors.contract.catalogue import CATALOGUE
from collectors.contract.identity import Slot, pack_slot
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.record import SlotLabels
from collectors.contract.topics import LIVE, topic_specs
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from pipeline.api.app import create_app
from pipeline.api.deps import ApiDeps, UsageReader
from pipeline.api.settings import ApiSettings
from pipeline.books.acts import Outbox
from pipeline.health import HealthBoard
from pipeline.series.columns import absent_counter, absent_gauge
from pipeline.series.duck import DuckStore
from pipeline.series.port import CounterSpan, GaugeSpan, MinuteParts, RawSamples, WriteBatch
from pipeline.watch.frame import encode_frame

SLOTS = tuple(pack_slot(Slot(0, bus, 0, 0)) for bus in (0x1B, 0x43))
NAMES = ("a01n01", "a01n02", "b01n01", "b01n02")
MINUTE_US = 60_000_000


def inventory() -> Inventory:
    """Two halls with a rack of two nodes with two GPUs each."""
    nodes = tuple(
        InstalledNode(name, f"hall {name[0]}", name[:3], "H800" if name[0] == "a" else "A800", SLOTS, 0.5)
        for name in NAMES
    )  # fmt: skip
    return Inventory(
        "little", "The little centre", "Asia/Hong_Kong", "fp16", "dense", "boost", nodes
    )


class SetClock(SystemClock):
    """The machine's clocks, moved on by hand."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def wall_us(self) -> int:
        """µs since 1970 UTC, and what was added."""
        return super().wall_us() + self.ahead_us

    def monotonic_us(self) -> int:
        """µs, and what was added."""
        return super().monotonic_us() + self.ahead_us


def header(time_us: int, **changes: Any) -> dict[str, Any]:
    """A frame's header in which all eight GPUs report."""
    return {
        "time_us": time_us, "time": "2026-11-24T06:00:00.000Z", "site": "little", "title": "The little centre",
        "origin": "simulated", "layout": inventory().layout_id, "frame": 1,
        "gpus_installed": 8, "gpus_reporting": 8, "gpus_active": 6, "nodes_installed": 4, "nodes_reporting": 4,
        "pflops_nameplate": 4.0, "pflops_allocated": 3.5, "pflops_delivered": 1.25, "pflops_lo": 1.2, "pflops_hi": 1.3,
        "coverage": 1.0, "power_kw": 3.3, "temperature_c": {"max": 71.0, "p99": 70.0, "median": 60.0},
        "hottest": [], "tenants": [{"tenant": "Lantau Vision", "gpus": 4, "pflops": 1.0}], "lag_s": 0.2,
        **changes,
    }  # fmt: skip


def frame_bytes(time_us: int, **changes: Any) -> bytes:
    """A frame of the little centre: the first node's second GPU is hottest, the last node is silent."""
    state = np.array([19, 19, 19, 19, 1, 5, 0, 8], np.uint8)
    columns = {
        "temperature_c": np.array([60, 71, 60, 60, 50, 50, 255, 255], np.uint8),
        "utilization": np.full(8, 180, np.uint8),
        "power_w": np.full(8, 100, np.uint8),
        "delivered": np.full(8, 90, np.uint8),
        "state": state,
        "tenant": np.array([0, 0, 0, 0, 255, 254, 255, 255], np.uint8),
    }
    return encode_frame(header(time_us, **changes), columns)


def detail_bytes(time_us: int) -> bytes:
    """The detail beside it."""
    rack = {
        "hall": "hall a",
        "rack": "a01",
        "gpus_installed": 4,
        "gpus_reporting": 4,
        "pflops": 1.0,
    }
    tenants = [{"tenant": f"tenant {n}", "gpus": 1, "pflops": 0.1} for n in range(14)]
    lists = {"tenants": tenants, "racks": [rack], "halls": [], "nodes_missing": ["b01n02"]}
    return msgspec.json.encode({**header(time_us), **lists})


@dataclass
class Centre:
    """The parts behind an API under test, all of them real."""

    bus: SqliteBus
    series: DuckStore
    clock: SetClock
    board: HealthBoard
    books: UsageReader | None = None
    acts: Outbox | None = None

    def app(self, settings: ApiSettings | None = None) -> FastAPI:
        """An application on these parts."""
        deps = ApiDeps(
            self.bus, self.series, inventory, self.clock, self.board, self.books, self.acts, "t."
        )
        return create_app(deps, settings or ApiSettings())

    async def publish(self, **payloads: bytes) -> None:
        """Sends records to the live topic, the keyword being the key."""
        producer = self.bus.producer()
        await producer.start()
        await producer.send(
            [Message("t." + LIVE, key.encode(), value) for key, value in payloads.items()]
        )
        await producer.stop()

    async def publish_frame(self, time_us: int | None = None, **changes: Any) -> bytes:
        """Sends a frame of now, or of a time; returns its bytes."""
        payload = frame_bytes(self.clock.wall_us() if time_us is None else time_us, **changes)
        await self.publish(frame=payload)
        return payload


@asynccontextmanager
async def open_centre(folder: Path) -> AsyncGenerator[Centre]:
    """The parts in a folder, closed at the end."""
    clock = SetClock()
    bus, series = SqliteBus(folder / "bus.db", clock=clock), DuckStore(folder / "series.duckdb")
    await bus.create_topics(topic_specs("t."))
    await series.start()
    try:
        yield Centre(bus, series, clock, HealthBoard("serve", "1", clock))
    finally:
        await series.close()
        await bus.close()


@asynccontextmanager
async def client_of(
    app: FastAPI, host: str = "127.0.0.1:8080"
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a running application, without a network."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            yield client


async def until(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Waits for a condition; fails when it does not come true."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 (what holds is not told by an event)
            await asyncio.sleep(0.01)


def raw_samples(
    first_us: int, seconds: int, *, node: str = NAMES[0], step_us: int = 1_000_000
) -> RawSamples:
    """A sample each step of both GPUs; the second GPU has no temperature in every fourth."""
    count = seconds * 1_000_000 // step_us
    times = first_us + np.arange(count, dtype=np.int64) * step_us
    power = (300 + np.arange(count) % 50 + 0.78).astype(np.float32)
    temperature = np.full(2 * count, 61.5, np.float32)
    temperature[count::4] = np.nan
    gflop = np.tile(np.arange(count, dtype=np.uint64) * np.uint64(500_000) + np.uint64(2**52), 2)
    return RawSamples(
        (node,), np.zeros(2 * count, np.int32), np.repeat(np.array(SLOTS, np.uint64), count), np.tile(times, 2),
        np.full(2 * count, 3, np.uint8),
        {"power_w": np.tile(power, 2), "gpu_temperature_c": temperature, "gflop": gflop},
    )  # fmt: skip


def minute_parts(first_minute: int, minutes: int, *, node: str = NAMES[0]) -> MinuteParts:
    """A part per GPU and minute: power 300–330 W, 30 TFLOP/s, 400 W by the energy counter."""
    rows = 2 * minutes
    minute = np.tile(np.arange(first_minute, first_minute + minutes, dtype=np.int64), 2)
    since = np.tile(np.arange(minutes, dtype=np.uint64), 2)
    start_us, end_us = minute * MINUTE_US, minute * MINUTE_US + 59_000_000

    def counter(per_s: int, base: int) -> CounterSpan:
        first = since * np.uint64(60 * per_s) + np.uint64(base)
        return CounterSpan(start_us, first, end_us, first + np.uint64(59 * per_s))

    power = np.full(rows, 315, np.float32)
    gauges = {metric.name: absent_gauge(rows) for metric in CATALOGUE.gauges}
    gauges["power_w"] = GaugeSpan(power - 15, power + 15, power, end_us)
    counters = {metric.name: absent_counter(rows) for metric in CATALOGUE.counters}
    counters["gflop"] = counter(30_000, 10**12)
    counters["energy_mj"] = counter(400_000, 2**52)
    none = np.zeros(rows, np.uint64)
    return MinuteParts(
        (node,), np.zeros(rows, np.int32), np.repeat(np.array(SLOTS, np.uint64), minutes), minute,
        none + np.uint64(7), none, none + np.uint64(1), none.astype(np.int32), np.full(rows, 3, np.uint8),
        none + np.uint64(11), counters, gauges,
    )  # fmt: skip


def labels_bytes(node: str = NAMES[0]) -> bytes:
    """Who sits in the first node's slots."""
    seats = [SlotLabels(slot, f"GPU-{slot}", "NVIDIA H800", "s1", "job 12") for slot in SLOTS]
    return msgspec.json.encode({node: seats})


async def store(centre: Centre, *sets: RawSamples | MinuteParts) -> None:
    """Writes rows."""
    for one in sets:
        batch = WriteBatch(raw=[one]) if isinstance(one, RawSamples) else WriteBatch(minutes=one)
        await centre.series.write(batch)
