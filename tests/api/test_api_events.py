"""Events, agents and instances through the API, from the bus on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from api_parts import MINUTE_US, NAMES, SLOTS, Centre, client_of, minute_parts, store, until
from fastapi import FastAPI
from test_api_ops import parse

from collectors.contract.bus import Chunk, Message, Partition
from collectors.contract.facts import GpuFacts, NodeFacts
from collectors.contract.identity import Slot, pack_slot, slot_text
from collectors.contract.topics import EVENTS, FACTS, Event, dumps, topic_specs
from collectors.contract.xids import ACTIONS
from pipeline.api import fleet_log
from pipeline.api.fleet_log import FleetLog
from pipeline.api.models import NodeDetail
from pipeline.api.models_fleet import Agents, Events
from pipeline.series.port import GaugeSpan, MinuteParts

GPU = slot_text(SLOTS[0])
INSTANCE = pack_slot(Slot(0, 0x1B, 0, 0, 1, 0))


def event(time_us: int, **changes: Any) -> Event:
    first = Event(time_us, NAMES[0], "xid", GPU, "GPU-1", 13, "Graphics Exception", "kernel_log",
                  "restart_app", "tenant", "job 12")  # fmt: skip
    return msgspec.structs.replace(first, **changes)


def facts(node: str = NAMES[0], **changes: Any) -> NodeFacts:
    gpu = GpuFacts(GPU, "GPU-1", "NVIDIA H800", "s1", 0, sm_count=132, limits={"slowdown_margin_c": -2.0},
                   flop_method="gpm_pipe", flop_reason="the driver is older than R595",
                   unsupported={"fan_ratio": "passively cooled"})  # fmt: skip
    part = GpuFacts(slot_text(INSTANCE), "MIG-1", "NVIDIA H800", parent=GPU, profile="1g.10gb")
    told = NodeFacts(node, 5, "measured", "0.1.0", "nvml", "590.48.01", 1.0, (gpu, part),
                     {"kernel_log": "grant CAP_SYSLOG"}, 12, 3)  # fmt: skip
    return msgspec.structs.replace(told, **changes)


async def send(centre: Centre, *records: Event | NodeFacts) -> None:
    producer = centre.bus.producer()
    await producer.start()
    await producer.send(
        [
            Message("t." + (EVENTS if isinstance(one, Event) else FACTS), one.node.encode(), dumps(one))
            for one in records
        ]
    )  # fmt: skip
    await producer.stop()


def log_of(app: FastAPI) -> FleetLog:
    return app.state.api.fleet_log


async def held(centre: Centre, many: int) -> None:
    await until(lambda: (centre.board.value("fleet_records") or 0) >= many)


async def test_events_come_newest_first_with_their_meaning(centre: Centre) -> None:
    now_us = centre.clock.wall_us()
    await send(
        centre,
        event(now_us - 5_000_000),
        event(now_us, code=79, text="off", action="", concerns=""),
    )
    async with client_of(centre.app()) as client:
        await held(centre, 2)
        answer = (await client.get("/api/v1/events")).json()
    Events.model_validate(answer)
    assert answer["total"] == 2
    newest, oldest = answer["events"]
    assert (newest["code"], newest["name"]) == (79, "GPU has fallen off the bus")
    assert (newest["action"], newest["concerns"]) == ("reboot", "operator")
    assert newest["advice"] == ACTIONS["reboot"]
    assert (newest["severity"], newest["occupant"]) == ("critical", "job 12")
    assert (oldest["action"], oldest["concerns"], oldest["slot"]) == ("restart_app", "tenant", GPU)
    assert oldest["time_us"] == now_us - 5_000_000


@pytest.mark.parametrize(
    ("query", "codes"),
    [
        ({"node": NAMES[0]}, [79, 13]),
        ({"node": "elsewhere"}, [95]),
        ({"node": "nobody"}, []),
        ({"kind": "sxid"}, [20034]),
        ({"code": "13"}, [13]),
        ({"concerns": "tenant"}, [13]),
        ({"concerns": "operator"}, [20034, 95, 79]),
        ({"from": "2026-11-24T06:00:02Z"}, [20034, 95]),
        ({"from": "2026-11-24T06:00:01Z", "to": "2026-11-24T06:00:03Z"}, [95, 79]),
        ({"limit": "1"}, [20034]),
    ],
)
async def test_filters(centre: Centre, query: dict[str, str], codes: list[int]) -> None:
    start_us = 1_795_500_000_000_000
    operator = {"concerns": "operator"}
    await send(
        centre,
        event(start_us),
        event(start_us + 1_000_000, code=79, **operator),
        event(start_us + 2_000_000, code=95, node="elsewhere", **operator),
        event(start_us + 3_000_000, code=20034, kind="sxid", node="third", **operator),
    )
    async with client_of(centre.app()) as client:
        await held(centre, 4)
        answer = (await client.get("/api/v1/events", params=query)).json()
    assert [row["code"] for row in answer["events"]] == codes
    assert answer["total"] >= len(codes)


@pytest.mark.parametrize(
    "query",
    [{"nodes": "x"}, {"limit": "0"}, {"limit": "1001"}, {"concerns": "me"}, {"from": "now"}],
)
async def test_wrong_filters_are_refused(centre: Centre, query: dict[str, str]) -> None:
    async with client_of(centre.app()) as client:
        assert (await client.get("/api/v1/events", params=query)).status_code == 422


async def test_agents_are_told_with_silent_and_unknown_nodes(centre: Centre) -> None:
    await send(centre, facts(), facts("stranger"), facts(version="0.2.0"))
    async with client_of(centre.app()) as client:
        await held(centre, 3)
        centre.clock.ahead_us += 90_000_000
        answer = (await client.get("/api/v1/agents")).json()
        one = (await client.get("/api/v1/agents", params={"node": NAMES[0]})).json()
    Agents.model_validate(answer)
    rows = {row["node"]: row for row in answer["agents"]}
    assert set(rows) == {*NAMES, "stranger"}
    first = rows[NAMES[0]]
    assert (first["version"], first["driver"], first["source"]) == ("0.2.0", "590.48.01", "nvml")
    assert (first["known"], first["installed"], first["spooled"], first["dropped"]) == (
        True,
        True,
        12,
        3,
    )
    assert 90 <= first["age_s"] < 120
    assert first["missing"] == {"kernel_log": "grant CAP_SYSLOG"}
    assert first["gpus"][0]["unsupported"] == {"fan_ratio": "passively cooled"}
    assert first["gpus"][0]["flop_method"] == "gpm_pipe"
    assert (rows[NAMES[1]]["known"], rows[NAMES[1]]["installed"]) == (False, True)
    assert "version" not in rows[NAMES[1]]
    assert rows["stranger"]["installed"] is False
    assert [row["node"] for row in one["agents"]] == [NAMES[0]]


async def test_a_stranger_is_forgotten_after_a_day_and_an_installed_node_is_not(
    centre: Centre,
) -> None:
    await send(centre, facts(), facts("stranger"))
    async with client_of(centre.app()) as client:
        await held(centre, 2)
        assert 'node="stranger"' in (await client.get("/metrics")).text
        centre.clock.ahead_us += 86_500_000_000
        names = [row["node"] for row in (await client.get("/api/v1/agents")).json()["agents"]]
        assert names == sorted(NAMES)
        text = (await client.get("/metrics")).text
    assert f'petawatch_agent_info{{node="{NAMES[0]}"' in text
    assert 'node="stranger"' not in text


def instance_minutes(minute: int) -> MinuteParts:
    """Both rows of `minute_parts`, of which the second is an instance with less."""
    parts = minute_parts(minute, 1)
    object.__setattr__(parts, "slot", np.array([SLOTS[0], INSTANCE], np.uint64))
    power = np.array([315, np.nan], np.float32)
    end_us = np.array([parts.minute[0] * MINUTE_US + 59_000_000, 0], np.int64)
    gauges = {**parts.gauges, "power_w": GaugeSpan(power, power, power, end_us)}
    object.__setattr__(parts, "gauges", gauges)
    return parts


async def test_instances_stand_apart_from_what_they_share(centre: Centre) -> None:
    now_us = centre.clock.wall_us()
    await store(centre, instance_minutes(now_us // MINUTE_US))
    await send(centre, facts())
    async with client_of(centre.app()) as client:
        await held(centre, 1)
        await centre.publish_frame(now_us)
        await until(lambda: bool(centre.board.value("live_frames")))
        body = (await client.get(f"/api/v1/nodes/{NAMES[0]}")).json()
        silent = (await client.get(f"/api/v1/nodes/{NAMES[1]}")).json()
    NodeDetail.model_validate(body)
    [row] = body["instances"]
    assert (row["slot"], row["parent"], row["profile"]) == (f"{GPU}/1/0", GPU, "1g.10gb")
    assert row["uuid"] == "MIG-1"
    assert "power_w" not in row["values"]
    assert row["values"]["gflop"] > 0
    assert row["shared"] == {"power_w": 315.0}
    assert body["agent"]["driver"] == "590.48.01"
    assert [gpu["slot"] for gpu in body["gpus"]] == [slot_text(slot) for slot in SLOTS]
    assert silent["agent"] is None
    assert silent["instances"] == []


async def test_an_instance_that_is_gone_is_shown_no_longer(centre: Centre) -> None:
    now_us = centre.clock.wall_us()
    parts = instance_minutes(now_us // MINUTE_US)
    before = np.array([0, 1], np.int64)
    object.__setattr__(parts, "minute", parts.minute - before)
    before_us = before * MINUTE_US
    counters = {
        name: replace(span, first_us=span.first_us - before_us, last_us=span.last_us - before_us)
        for name, span in parts.counters.items()
    }
    object.__setattr__(parts, "counters", counters)
    await store(centre, parts)
    async with client_of(centre.app()) as client:
        await centre.publish_frame(now_us)
        await until(lambda: bool(centre.board.value("live_frames")))
        body = (await client.get(f"/api/v1/nodes/{NAMES[0]}")).json()
        assert body["gpus"][0]["values"]["power_w"] == 315.0
        assert body["instances"] == []
        await send(centre, facts())
        await held(centre, 1)
        body = (await client.get(f"/api/v1/nodes/{NAMES[0]}")).json()
    [told] = body["instances"]
    assert (told["profile"], told["values"], told["age_s"]) == ("1g.10gb", {}, None)


async def test_metrics_count_events_and_name_agents(centre: Centre) -> None:
    app = centre.app()
    async with client_of(app) as client:
        now_us = centre.clock.wall_us()
        await send(
            centre, event(now_us), event(now_us + 1, count=628), event(now_us + 2, code=43), facts()
        )
        await held(centre, 4)
        found = parse((await client.get("/metrics")).text)
    counts = {labels["code"]: value for labels, value in found["petawatch_events_total"]}
    assert counts == {"13": 629, "43": 1}
    [(labels, one)] = found["petawatch_agent_info"]
    assert one == 1
    assert (labels["node"], labels["driver"], labels["version"]) == (NAMES[0], "590.48.01", "0.1.0")
    assert found["petawatch_agent_spooled_records"] == [({"node": NAMES[0]}, 12)]
    assert found["petawatch_agent_dropped_records"] == [({"node": NAMES[0]}, 3)]


async def test_broken_and_repeated_records_are_counted_and_passed_over(centre: Centre) -> None:
    now_us = centre.clock.wall_us()
    good, bad_slot = event(now_us), facts(gpus=(GpuFacts("not a slot"),))
    await send(centre, good, good, event(-5), bad_slot, event(now_us, text="x" * 20_000))
    producer = centre.bus.producer()
    await producer.start()
    await producer.send([Message("t." + EVENTS, b"n", b"{"), Message("t." + FACTS, b"n", b"[]")])
    await producer.stop()
    async with client_of(centre.app()) as client:
        await until(lambda: centre.board.total("fleet_broken") == 5)
        assert (await client.get("/api/v1/events")).json()["total"] == 1
        assert (await client.get(f"/api/v1/nodes/{NAMES[0]}")).json()["agent"] is None
    assert centre.board.value("fleet_repeated") == 1


def chunk(values: Sequence[Event], first: int = 0) -> Chunk:
    count = range(first, first + len(values))
    return Chunk(
        Partition("t." + EVENTS, 0),
        count,
        [0] * len(values),
        [b""] * len(values),
        [dumps(one) for one in values],
    )


def test_memory_is_bounded(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_log, "MAX_EVENTS", 100)
    monkeypatch.setattr(fleet_log, "MAX_LABELS", 10)
    log = FleetLog(centre.bus, "t.", centre.clock, centre.board)
    log.take([chunk([event(time_us, code=time_us) for time_us in range(250)])])
    total, newest = log.events(lambda _: True, 3)
    assert total == 100
    assert [one.time_us for one in newest] == [249, 248, 247]
    assert log.counts.total() == 0  # they are older than this process


def test_what_agents_drop_from_now_on_is_counted(centre: Centre) -> None:
    """What they dropped before is known already; a spool's file made anew counts from zero."""
    log = FleetLog(centre.bus, "t.", centre.clock, centre.board)
    assert centre.board.value("agents_dropped") == 0
    now_us = centre.clock.wall_us()
    told = [
        (facts(dropped=1), 1), (facts(dropped=3), 2), (facts(NAMES[1], dropped=100), now_us),
        (facts(dropped=10), now_us), (facts(dropped=0), now_us), (facts(dropped=2), now_us),
    ]  # fmt: skip
    values, times = [dumps(one) for one, _ in told], [bus_us for _, bus_us in told]
    topic = Partition("t." + FACTS, 0)
    log.take([Chunk(topic, range(len(told)), times, [b"n"] * len(told), values)])
    assert centre.board.value("agents_dropped") == 9


async def test_only_the_newest_are_read_at_the_start(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_log, "MAX_EVENTS", 10)
    await send(centre, *[event(time_us) for time_us in range(30)], facts())
    async with client_of(centre.app()) as client:
        await held(centre, 11)
        assert (await client.get("/api/v1/events")).json()["total"] == 10
        assert (await client.get("/api/v1/agents", params={"node": NAMES[0]})).json()["agents"][0][
            "known"
        ]
    assert centre.board.value("fleet_records") == 11


async def test_the_log_goes_on_after_the_bus_was_away(centre: Centre) -> None:
    await centre.bus.delete_topics(["t." + EVENTS])
    async with client_of(centre.app()) as client:
        await until(lambda: (centre.board.value("fleet_bus_errors") or 0) > 0)
        assert (await client.get("/api/v1/events")).json() == {"total": 0, "events": []}
        await centre.bus.create_topics(topic_specs("t."))
        await send(centre, event(centre.clock.wall_us()))
        await held(centre, 1)
        assert (await client.get("/api/v1/events")).json()["total"] == 1
