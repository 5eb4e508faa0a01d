"""The live hub and the fleet's log on a real Kafka, as on the embedded log."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from api_parts import Centre, frame_bytes, until

from collectors.contract.bus import Message
from collectors.contract.facts import NodeFacts
from collectors.contract.topics import EVENTS, FACTS, LIVE, Event, dumps, topic_specs
from pipeline.api import fleet_log
from pipeline.api.fleet_log import FleetLog
from pipeline.api.live import LiveHub
from pipeline.bus import open_bus
from pipeline.health import HealthBoard, publish_health

pytestmark = pytest.mark.stack


async def test_hub_on_kafka(kafka_url: str, centre: Centre) -> None:
    prefix = f"t{secrets.token_hex(4)}."
    bus, board = open_bus(kafka_url, centre.clock), HealthBoard("serve", "1", centre.clock)
    live = [spec for spec in topic_specs(prefix) if spec.name == prefix + LIVE]
    await bus.create_topics(live)
    producer = bus.producer()
    await producer.start()
    start_us = centre.clock.wall_us() - 2_000_000
    before = [Message(prefix + LIVE, b"frame", frame_bytes(start_us + n)) for n in range(3)]
    await producer.send(before)
    hub = LiveHub(bus, prefix + LIVE, centre.clock, board)
    running, stop = asyncio.create_task(hub.run()), asyncio.Event()
    store = HealthBoard("store", "1", centre.clock)
    publishing = asyncio.create_task(publish_health(store, bus, prefix + LIVE, stop))
    try:
        await until(lambda: len(hub.history.columns(15)["time_us"]) == 3, 20)
        now = frame_bytes(centre.clock.wall_us())
        await producer.send([Message(prefix + LIVE, b"frame", now)])
        await until(lambda: hub.frame is not None and hub.frame.payload == now, 20)
        assert hub.state() == "live"
        await until(lambda: len(hub.health()) == 2, 20)
    finally:
        stop.set()
        hub.stop()
        await asyncio.gather(running, publishing)
        await producer.stop()
        await bus.delete_topics([prefix + LIVE])
        await bus.close()


async def test_fleet_log_on_kafka(
    kafka_url: str, centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_log, "MAX_EVENTS", 20)
    prefix = f"t{secrets.token_hex(4)}."
    bus, board = open_bus(kafka_url, centre.clock), HealthBoard("serve", "1", centre.clock)
    names = [prefix + EVENTS, prefix + FACTS]
    await bus.create_topics([spec for spec in topic_specs(prefix) if spec.name in names])
    producer = bus.producer()
    await producer.start()
    events = [Event(time_us, "n1", "xid", code=13) for time_us in range(50)]
    facts = NodeFacts("n1", 1, "measured", "0.1.0", "nvml")
    await producer.send([Message(names[0], b"n1", dumps(one)) for one in events])
    await producer.send([Message(names[1], facts.key, dumps(facts))])
    log = FleetLog(bus, prefix, centre.clock, board)
    running = asyncio.create_task(log.run())
    try:
        await until(lambda: bool(log.facts) and log.events(lambda _: True, 1)[0] == 20, 20)
        assert [one.time_us for one in log.events(lambda _: True, 2)[1]] == [49, 48]
        await producer.send([Message(names[0], b"n1", dumps(Event(60, "n1", "xid", code=79)))])
        await until(lambda: log.events(lambda one: one.code == 79, 1)[0] == 1, 20)
        assert log.counts == {("xid", "79", ""): 1}
        assert board.value("fleet_records") == 22
    finally:
        log.stop()
        await running
        await producer.stop()
        await bus.delete_topics(names)
        await bus.close()
