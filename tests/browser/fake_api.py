"""A server of the API's contract over the deterministic fleet, for the pages' tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Annotated, Any

import fake_usage
import httpx
import numpy as np
from fake_alerts import routes
from fake_fleet import GPUS, FakeFleet, iso, layout, node_name
from fastapi import FastAPI, HTTPException, Query, WebSocket, WebSocketDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.app import create_pages, warm_up

POLICY = (
    b"default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    b"worker-src 'self' blob:; object-src 'none'; base-uri 'self'; frame-ancestors 'none'"
)


def series(node: str, metrics: list[str], start_us: int, end_us: int) -> dict[str, Any]:
    """Every GPU's values once a second, or once a minute for more than 20 minutes."""
    raw = end_us - start_us <= 1_200_000_000
    step_us = 1_000_000 if raw else 60_000_000
    times = np.arange(start_us, end_us, step_us)
    slots = layout()["halls"][0]["racks"][0]["nodes"][0]["slots"]
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        base, swing, unit = _SHAPES.get(metric, (0.0, 0.0, ""))
        for slot in range(8):
            noise = np.random.default_rng(slot).normal(0, 0.08, len(times))
            values = base + swing * (np.sin(times / 90e6 + slot) + noise) + slot * swing * 0.12
            hole = (times > start_us + 300_000_000) & (times < start_us + 330_000_000) & (slot == 3)
            row: dict[str, Any] = {
                "slot": slots[slot], "metric": metric, "unit": unit,
                "time_us": times[~hole].tolist(), "value": values[~hole].tolist(),
            }  # fmt: skip
            if metric.endswith("_us") or metric.startswith("gflop"):
                row["rate"] = (np.maximum(values, 0) * (1e-6 if unit == "µs" else 1e-3))[
                    ~hole
                ].tolist()
                row["value"] = (
                    np.cumsum(np.maximum(values, 0) * step_us / 1e6).round()[~hole].tolist()
                )
            rows.append(row)
    return {
        "node": node,
        "resolution": "raw" if raw else "minute",
        "from": iso(start_us),
        "to": iso(end_us),
        "series": rows,
    }


_SHAPES = {
    "gpu_temperature_c": (64.0, 4.0, "°C"),
    "power_w": (540.0, 60.0, "W"),
    "sm_clock_mhz": (1_755.0, 45.0, "MHz"),
    "gpu_utilization": (0.9, 0.06, "ratio"),
    "tensor_activity": (0.5, 0.1, "ratio"),
    "gflop": (480_000.0, 60_000.0, "GFLOP"),
    "throttle_power_cap_us": (20_000.0, 30_000.0, "µs"),
}


def node_detail(index: int) -> dict[str, Any]:
    """`GET /api/v1/nodes/{node}`."""
    slots = layout()["halls"][0]["racks"][0]["nodes"][0]["slots"]
    name = node_name(index)
    return {
        "node": name, "hall": "Hall 1" if index < 128 else "Hall 2", "rack": name[:3].upper(),
        "model": "H800" if index < 128 else "A800", "tenants": ["Meridian Language Models"], "age_s": 0.8,
        "gpus": [
            {"slot": slot, "uuid": f"GPU-{index:04d}-{number}", "model": "NVIDIA H800", "tenant": "Meridian Language Models",
             "occupant": f"job 48{index:03d}", "age_s": 0.8, "down": False,
             "values": {"gpu_temperature_c": 63.0 + number, "thermal_margin_c": 24.0 - number, "power_w": 541.2 + 7 * number,
                        "power_limit_w": 700.0, "sm_clock_mhz": 1755.0, "gpu_utilization": 0.97, "tensor_activity": 0.52,
                        "memory_used_bytes": 61e9, "memory_total_bytes": 85.9e9}}
            for number, slot in enumerate(slots)
        ],
        "instances": instances(slots[1]) if index == DIVIDED else [],
        "agent": None if index == SILENT else agent(name, slots, divided=index == DIVIDED),
    }  # fmt: skip


DIVIDED, SILENT = 9, 12
"""Places of the node whose second GPU has MIG instances, and of one whose agent never spoke."""


def instances(parent: str) -> list[dict[str, Any]]:
    """Three parts of a GPU, the last one idle and without a measured activity."""
    shared = {"power_w": 541.2, "gpu_temperature_c": 64.0, "sm_clock_mhz": 1755.0}
    return [
        {"slot": f"{parent}/{part}/0", "parent": parent, "profile": profile, "uuid": f"MIG-{part}",
         "occupant": occupant, "origin": "measured", "age_s": 0.8, "shared": shared,
         "values": {} if activity is None else {
             "tensor_activity": activity, "sm_activity": activity + 0.2, "memory_used_bytes": 8e9 * part,
             "power_allocated_w": 400 * activity, "gflop_measured_us": 990, "observed_us": 1_000}}
        for part, profile, occupant, activity in (
            (1, "3g.40gb", "pod inference-7", 0.44), (2, "2g.20gb", "pod notebook-3", 0.12), (3, "1g.10gb", None, None))
    ]  # fmt: skip


def agent(name: str, slots: list[str], *, divided: bool) -> dict[str, Any]:
    """What the node's agent says of itself."""
    bare: dict[str, Any] = {
        "model": "NVIDIA H800",
        "serial": "",
        "sm_count": 132,
        "limits": {},
        "state": "ok",
        "uuid": "",
    }
    gpus: list[dict[str, Any]] = [
        {**bare, "slot": slot, "number": place, "parent": "", "profile": "", "flop_method": "gpm_pipe",
         "flop_reason": "cycle counters come with driver R595",
         "unsupported": {"fan_speed": "passively cooled"}}
        for place, slot in enumerate(slots)
    ]  # fmt: skip
    gpus[5] |= {"flop_method": "util_clock", "flop_reason": "GPM needs leave: NVreg_RestrictProfilingToAdminUsers=0",
                "unsupported": {"fan_speed": "passively cooled", "sm_activity": "no permission"}}  # fmt: skip
    gpus[7]["state"] = "lost"
    if divided:
        gpus[1]["flop_method"] = "none"
        gpus += [{**gpus[0], "slot": one["slot"], "parent": slots[1], "profile": one["profile"]}
                 for one in instances(slots[1])]  # fmt: skip
    return {
        "node": name, "known": True, "installed": True, "version": "0.1.0", "source": "nvml", "origin": "measured",
        "driver": "590.48.01", "interval_s": 1.0, "age_s": 212.0, "clock_offset_us": 1_840.0, "spooled": 0,
        "dropped": 0, "missing": {"kubernetes": "there is no kubelet here"}, "gpus": gpus,
    }  # fmt: skip


def events(node: str) -> dict[str, Any]:
    """`GET /api/v1/events`: a storm, a page fault, a GPU off the bus, an NVSwitch."""
    slots = layout()["halls"][0]["racks"][0]["nodes"][0]["slots"]
    base = {"node": node, "kind": "xid", "uuid": None, "source": "kernel_log", "severity": "warning",
            "action": "restart_app", "advice": "Start the program again; the GPU itself goes on.",
            "concerns": "tenant", "occupant": "job 48009", "count": 1, "time_us": 0}  # fmt: skip
    operator = {"concerns": "operator", "occupant": None, "severity": "critical"}
    rows = [
        {**base, **operator, "time": "2026-11-24T05:58:31.204000Z", "slot": slots[7], "code": 79,
         "name": "GPU has fallen off the bus", "text": "GPU has fallen off the bus.", "source": "driver",
         "advice": "Take the work off the node and reboot it."},
        {**base, **operator, "time": "2026-11-24T05:58:30.900000Z", "slot": "0000:05:00.0", "code": 20034, "kind": "sxid",
         "name": "NVSwitch error", "text": "NVSwitch 1: Fatal, Link 48 LTSSM Fault Up",
         "advice": "Take the work off the node, reset its GPUs and NVSwitches together, and start Fabric Manager again."},
        {**base, "time": "2026-11-24T05:41:59.000000Z", "slot": slots[2], "code": 13, "count": 628,
         "name": "Graphics engine exception", "text": "628 more, the last after 14 s: Graphics Exception: ESR 0x546f30=0x124000e"},
        {**base, "time": "2026-11-24T05:41:45.000000Z", "slot": slots[2], "code": 13, "name": "Graphics engine exception",
         "text": "Graphics SM Warp Exception on (GPC 8, TPC 5, SM 0): Out Of Range Address"},
        {**base, **operator, "time": "2026-11-23T19:02:11.000000Z", "slot": f"{slots[1]}/1/0", "code": None, "kind": "mig_changed",
         "severity": "info", "name": "MIG instances changed", "text": "", "advice": "", "source": "driver"},
    ]  # fmt: skip
    return {"total": 5 if node != "a01n02" else 0, "events": rows if node != "a01n02" else []}


def create_app(fleet: FakeFleet) -> FastAPI:
    """The API's routes that the pages use, with the pages on top."""
    client: list[httpx.AsyncClient] = []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        frames = asyncio.create_task(fleet.run())
        await warm_up(app)
        yield
        frames.cancel()
        with suppress(asyncio.CancelledError):
            await frames
        await client[0].aclose()

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(_Policy)
    _add_routes(app, fleet)
    app.include_router(routes(fleet.alerts))
    app.include_router(fake_usage.routes())
    client.append(
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://pages")
    )
    create_pages(app, api_base="", client=client[0])
    return app


class _Policy:
    """Sends the strict policy that the real server sends, so that a breach fails a test."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        await self.app(scope, receive, with_policy)


def _add_routes(app: FastAPI, fleet: FakeFleet) -> None:
    names = {node_name(index): index for index in range(GPUS // 8)}

    @app.get("/api/v1/layout")
    async def _layout() -> dict[str, Any]:
        return layout()

    @app.get("/api/v1/live")
    async def _live() -> dict[str, Any]:
        if fleet.variant == "starting":
            return {"state": "starting"}
        return {**fleet.header(), "age_s": 0.2, "state": "live", "nodes_missing": ["a24n01"]}

    @app.get("/api/v1/live/history")
    async def _history(minutes: int = 15) -> dict[str, Any]:
        return fleet.history() if fleet.variant != "starting" and minutes else {"time_us": []}

    @app.get("/api/v1/nodes")
    async def _nodes() -> dict[str, Any]:
        rows = [{"node": name, "rack": name[:3].upper(), "hall": f"Hall {1 + (index >= 128)}",
                 "model": "H800" if index < 128 else "A800", "gpus": 8,
                 "gpus_reporting": 8, "gpus_active": 7, "gpus_throttled": 0, "gpus_down": 0, "temperature_max_c": 66.0} for name, index in names.items()]  # fmt: skip
        return {"nodes": rows}

    @app.get("/api/v1/nodes/{node}")
    async def _node(node: str) -> dict[str, Any]:
        if node not in names:
            raise HTTPException(404, f"There is no node {node!r}.")
        return node_detail(names[node])

    @app.get("/api/v1/series")
    async def _series(
        node: str,
        metric: Annotated[list[str], Query()],
        start: Annotated[str, Query(alias="from")],
        end: Annotated[str, Query(alias="to")],
    ) -> dict[str, Any]:
        if node == "b29n04":
            return {"node": node, "resolution": "raw", "from": start, "to": end, "series": []}
        return series(node, metric, _us(start), _us(end))

    _add_events(app)
    _add_socket(app, fleet)


def _add_events(app: FastAPI) -> None:
    @app.get("/api/v1/events")
    async def _events(node: str, limit: int) -> dict[str, Any]:
        if node == "a01n03":
            raise HTTPException(503, "The bus does not answer now.")
        assert limit == 50
        return events(node)


def _add_socket(app: FastAPI, fleet: FakeFleet) -> None:
    @app.websocket("/api/v1/live/ws")
    async def _socket(socket: WebSocket) -> None:
        await socket.accept()
        queue: asyncio.Queue[bytes] = asyncio.Queue(2)
        fleet.queues.add(queue)
        gone = asyncio.create_task(socket.receive())
        try:
            while not gone.done():
                waiting = asyncio.create_task(queue.get())
                await asyncio.wait({gone, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                    break
                if not waiting.result():
                    await socket.close()
                    break
                await socket.send_bytes(waiting.result())
        except WebSocketDisconnect:
            pass
        finally:
            gone.cancel()
            fleet.queues.discard(queue)


def _us(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1e6)
