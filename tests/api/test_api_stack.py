"""The live hub on a real Kafka: history, push and health as on the embedded log."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from api_parts import Centre, frame_bytes, until

from collectors.contract.bus import Message
from collectors.contract.topics import LIVE, topic_specs
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
