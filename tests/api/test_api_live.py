"""The live hub and its routes, on a real bus and through real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import websockets
from api_parts import NAMES, Centre, client_of, detail_bytes, frame_bytes, until
from fastapi import FastAPI
from websockets.asyncio.client import connect

from collectors.contract.topics import LIVE, topic_specs
from pipeline.api.live import LiveHub, Viewer
from pipeline.api.models import Layout, Live, LiveHistory, Nodes, Racks, Sites, Tenants
from pipeline.api.server import run_server
from pipeline.health import HealthBoard


@asynccontextmanager
async def served(app: FastAPI) -> AsyncGenerator[str]:
    """The application on a free port of loopback."""
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(run_server(app, "127.0.0.1", 0, stop, on_ready=port.set_result))
    try:
        yield f"127.0.0.1:{await port}"
    finally:
        stop.set()
        await serving


async def test_viewers_get_the_very_bytes(centre: Centre) -> None:
    async with (
        served(centre.app()) as address,
        connect(f"ws://{address}/api/v1/live/ws") as one,
        connect(f"ws://{address}/api/v1/live/ws") as two,
    ):
        sent = await centre.publish_frame()
        assert await one.recv() == sent
        assert await two.recv() == sent
        async with connect(f"ws://{address}/api/v1/live/ws") as late:
            assert await late.recv() == sent
        again = await centre.publish_frame()
        assert await one.recv() == again


async def test_viewers_are_sent_away_at_the_end(centre: Centre) -> None:
    async with served(centre.app()) as address:
        socket = await connect(f"ws://{address}/api/v1/live/ws")
        await centre.publish_frame()
        await socket.recv()
    with pytest.raises(websockets.ConnectionClosed):
        await socket.recv()


def test_slow_viewer_skips_the_oldest() -> None:
    viewer = Viewer(None)
    assert [viewer.offer(frame) for frame in (b"1", b"2", b"3", b"4")] == [True, True, False, False]
    assert viewer.waiting == (b"3", b"4")


async def test_slow_viewer_is_counted_and_holds_nobody_up(centre: Centre) -> None:
    app = centre.app()
    async with (
        served(app) as address,
        connect(f"ws://{address}/api/v1/live/ws", max_queue=1, close_timeout=0.01) as slow,
        connect(f"ws://{address}/api/v1/live/ws") as quick,
    ):
        await until(lambda: app.state.api.hub.viewers == 2)
        slow.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue]
        hub: LiveHub = app.state.api.hub
        # Few frames of this size fill what the network holds for one socket.
        big = frame_bytes(centre.clock.wall_us()) + bytes(2**19)
        for _ in range(60):
            hub.push(big)
            assert len(await quick.recv()) == len(big)
        assert centre.board.value("live_skipped")


async def test_snapshot_before_and_after_the_first_frame(centre: Centre) -> None:
    app = centre.app()
    async with client_of(app) as client:
        before = (await client.get("/api/v1/live")).json()
        assert (before["state"], before["origin"]) == ("starting", "none")
        assert before["pflops_delivered"] is None
        assert before["gpus_installed"] == 8
        Live.model_validate(before)
        time_us = centre.clock.wall_us()
        await centre.publish(frame=frame_bytes(time_us), detail=detail_bytes(time_us))
        await until(lambda: app.state.api.hub.frame is not None)
        after = (await client.get("/api/v1/live")).json()
        Live.model_validate(after)
        assert after["state"] == "live"
        assert (after["pflops_delivered"], after["time_us"]) == (1.25, time_us)
        assert len(after["tenants"]) == 14
        assert after["nodes_missing"] == ["b01n02"]
        assert "columns" not in after
        tenants = (await client.get("/api/v1/tenants")).json()
        assert len(Tenants.model_validate(tenants).tenants) == 14


async def test_states_by_age(centre: Centre) -> None:
    app = centre.app()
    async with client_of(app):
        hub: LiveHub = app.state.api.hub
        await centre.publish_frame(gpus_reporting=7)
        await until(lambda: hub.frame is not None)
        assert hub.state() == "partial"
        centre.clock.ahead_us += 3_000_000
        assert hub.state() == "stale"
        centre.clock.ahead_us += 13_000_000
        assert hub.state() == "down"
        first = hub.frame
        # A watch that has nothing new publishes the same moment again: that is no news.
        await centre.publish_frame(first.time_us if first else 0, gpus_reporting=8)
        await until(lambda: hub.frame is not first)
        assert hub.state() == "down"
        await centre.publish_frame()
        await until(lambda: hub.state() == "live")


async def test_what_comes_every_fifteen_seconds_is_not_stale_in_between(centre: Centre) -> None:
    app = centre.app()
    async with client_of(app):
        hub: LiveHub = app.state.api.hub
        await centre.publish_frame(origin="measured", gap_s=15.0)
        await until(lambda: hub.frame is not None)
        for more_us, state in ((16_000_000, "live"), (10_000_000, "stale"), (15_000_000, "down")):
            centre.clock.ahead_us += more_us
            assert hub.state() == state


async def test_simulated_time_is_judged_by_arrival_and_measured_by_itself(centre: Centre) -> None:
    app = centre.app()
    async with client_of(app):
        hub: LiveHub = app.state.api.hub
        hour_ago_us = centre.clock.wall_us() - 3_600_000_000
        await centre.publish_frame(hour_ago_us)
        await until(lambda: hub.state() == "live")
        await centre.publish_frame(hour_ago_us + 1, origin="measured")
        await until(lambda: hub.state() == "down")


async def test_history_reaches_back_before_the_start(centre: Centre) -> None:
    start_us = centre.clock.wall_us() - 100_000_000
    for second in range(5):
        await centre.publish_frame(start_us + second * 1_000_000, power_kw=float(second))
    app = centre.app()
    async with client_of(app) as client:
        last_us = start_us + 4_000_000
        await until(lambda: app.state.api.hub.now_us() is not None)
        await until(lambda: app.state.api.hub.frame.time_us == last_us)
        body = (await client.get("/api/v1/live/history")).json()
        LiveHistory.model_validate(body)
        assert body["power_kw"] == [0, 1, 2, 3, 4]
        assert body["temperature_max_c"] == [71.0] * 5
        short = (await client.get("/api/v1/live/history", params={"minutes": 0.05})).json()
        assert short["power_kw"] == [2, 3, 4]


async def test_broken_records_are_counted_and_passed(centre: Centre) -> None:
    app = centre.app()
    async with client_of(app):
        await centre.publish(frame=b"PWF1 no frame", labels=b"{", other=b"?")
        await centre.publish_frame()
        await until(lambda: app.state.api.hub.frame is not None)
    assert centre.board.value("live_broken") == 2


async def test_hub_waits_for_an_absent_topic(centre: Centre) -> None:
    await centre.bus.delete_topics(["t." + LIVE])
    board = HealthBoard("serve", "2", centre.clock)
    hub = LiveHub(centre.bus, "t." + LIVE, centre.clock, board)
    running = asyncio.create_task(hub.run())
    try:
        await until(lambda: bool(board.value("live_bus_errors")))
        await centre.bus.create_topics(topic_specs("t."))
        await centre.publish_frame()
        await until(lambda: hub.frame is not None)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_site_routes_state_silent_nodes(centre: Centre) -> None:
    app = centre.app()
    async with client_of(app) as client:
        empty = Nodes.model_validate((await client.get("/api/v1/nodes")).json())
        assert [node.gpus_reporting for node in empty.nodes] == [None] * 4
        time_us = centre.clock.wall_us()
        await centre.publish(frame=frame_bytes(time_us), detail=detail_bytes(time_us))
        await until(lambda: app.state.api.hub.frame is not None)
        nodes = Nodes.model_validate((await client.get("/api/v1/nodes")).json())
        assert [node.node for node in nodes.nodes] == list(NAMES)
        assert [node.gpus_reporting for node in nodes.nodes] == [2, 2, 2, 0]
        assert [node.gpus_down for node in nodes.nodes] == [0, 0, 0, 1]
        assert [node.temperature_max_c for node in nodes.nodes] == [71, 60, 50, None]
        racks = Racks.model_validate((await client.get("/api/v1/racks")).json()).racks
        assert [(rack.rack, rack.gpus_reporting) for rack in racks] == [("a01", 4), ("b01", None)]
        site = Sites.model_validate((await client.get("/api/v1/sites")).json()).sites[0]
        assert (site.gpus, site.racks, site.pflops_nameplate) == (8, 2, 4.0)
        layout = (await client.get("/api/v1/layout")).json()
        Layout.model_validate(layout)
        assert layout["halls"][0]["racks"][0]["nodes"][0]["slots"] == [
            "0000:1b:00.0",
            "0000:43:00.0",
        ]
