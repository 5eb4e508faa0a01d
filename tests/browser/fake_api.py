"""A server of the API's contract over the deterministic fleet, for the pages' tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Annotated, Any

import httpx
import numpy as np
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
    }  # fmt: skip


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

    _add_socket(app, fleet)


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
