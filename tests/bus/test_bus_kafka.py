"""What is Kafka's own: refusals by the broker, an absent broker, addresses."""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path

import pytest
from bus_place import Place
from bus_reading import read_all

from collectors.contract.bus import BusUnavailableError, Message, RefusedError
from collectors.kit.clock import SystemClock
from collectors.kit.kafka_producer import KafkaProducer, open_producer
from collectors.kit.sqlite_log import SqliteBus
from pipeline.bus import open_bus
from pipeline.bus.kafka import MAX_MESSAGE_BYTES, KafkaBus


@pytest.mark.stack
async def test_what_the_broker_refuses_is_found_among_the_others(kafka_url: str) -> None:
    place = Place("kafka", kafka_url, f"test-{uuid.uuid4().hex[:12]}")
    topic = place.topic(partitions=2)
    big = [Message(topic.name, b"b%d" % i, os.urandom(MAX_MESSAGE_BYTES + 1000)) for i in range(2)]
    small = [Message(topic.name, b"%d" % (i % 9), b"%d" % i) for i in range(90)]
    async with place.bus(topic) as bus:
        producer = bus.producer(max_request_bytes=32 * 2**20)
        await producer.start()
        with pytest.raises(RefusedError, match="MessageSizeTooLarge") as refused:
            await producer.send([*small[:30], big[0], *small[30:60], big[1], *small[60:]])
        assert sorted(one.key for one in refused.value.refused) == [b"b0", b"b1"]
        await producer.send([Message(topic.name, b"0", b"90")])
        await producer.stop()
        chunks = await read_all(bus, topic.name, 91)
    of_key: dict[bytes, list[int]] = {}
    for chunk in chunks:
        for key, value in zip(chunk.keys, chunk.values, strict=True):
            of_key.setdefault(key, []).append(int(value))
    assert all(numbers == sorted(numbers) for numbers in of_key.values())
    assert sorted(number for numbers in of_key.values() for number in numbers) == list(range(91))


@pytest.mark.parametrize("silent", [False, True])
async def test_an_absent_broker_is_said_in_time(silent: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:  # connections come about in the kernel, and nobody ever answers
            listener.listen(16)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        bus = KafkaBus(address, clock=SystemClock(), timeout_s=1.0)
        begun_s = time.monotonic()
        with pytest.raises(BusUnavailableError, match=address):
            await bus.health()
        with pytest.raises(BusUnavailableError, match=address):
            await bus.producer().start()
        with pytest.raises(BusUnavailableError, match=address):
            await bus.producer().send([Message("t", b"k", b"v")])
        with pytest.raises(BusUnavailableError, match=address):
            await bus.consumer(["t"], "group").start()
        assert time.monotonic() - begun_s < 8.0


async def test_a_bus_by_address(tmp_path: Path) -> None:
    bus = open_bus(f"sqlite:///{tmp_path}/bus.sqlite", SystemClock())
    assert isinstance(bus, SqliteBus)
    assert (await bus.health())["path"] == f"{tmp_path}/bus.sqlite"
    await bus.close()
    assert isinstance(open_bus("kafka://a:9092,b.example.org:9093", SystemClock()), KafkaBus)
    assert isinstance(open_producer("kafka://[::1]:9092"), KafkaProducer)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite",
        "sqlite:///",
        "sqlite://x",
        "kafka://",
        "kafka://a",
        "kafka://a:b",
        "a:9092",
        "nats://a:1",
    ],
)
def test_a_wrong_address_is_told_what_to_write(url: str) -> None:
    with pytest.raises(ValueError, match=r"write (sqlite:///PATH|kafka://HOST:PORT)"):
        open_bus(url, SystemClock())
