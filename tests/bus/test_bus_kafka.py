"""What is Kafka's own: refusals by the broker, an absent broker, addresses."""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from bus_place import Place
from bus_reading import read_all

from collectors.contract.bus import BusUnavailableError, Message, RefusedError
from collectors.kit.clock import SystemClock
from collectors.kit.kafka_direct import DirectWay
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
        assert time.monotonic() - begun_s < 30.0


@pytest.mark.stack
async def test_single_records_go_the_short_way_and_are_there_once(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the acknowledgement is lost: the usual way sends again, under the same number."""
    place = Place("kafka", kafka_url, f"test-{uuid.uuid4().hex[:12]}")
    topic = place.topic(partitions=2)
    ways: list[bool] = []
    usual = DirectWay.send

    async def send(self: DirectWay, message: Message) -> bool:
        ways.append(await usual(self, message))
        return ways[-1]

    monkeypatch.setattr(DirectWay, "send", send)
    async with place.bus(topic) as bus:
        producer = KafkaProducer(kafka_url.removeprefix("kafka://"), timeout_s=6.0)
        for number in range(12):
            if number == 6:
                _lose_one_answer(producer)
            key = b"%d" % (number % 3)
            await producer.send([Message(topic.name, key, b"%d" % number, arrival_us=number)])
            await producer.send([Message(topic.name, key, b"%d" % (100 + number))] * 2)
        await producer.stop()
        chunks = await read_all(bus, topic.name, 36)
    found = [int(value) for chunk in chunks for value in chunk.values]
    wanted = [*range(12), *(100 + number for number in range(12) for _ in range(2))]
    assert sorted(found) == sorted(wanted)
    # The very first makes the client, and goes the usual way.
    assert ways == [True] * 5 + [False] + [True] * 5


def _lose_one_answer(producer: KafkaProducer) -> None:
    """The next request is answered, and the connection breaks before the answer is read."""
    connections: Any = producer._client.client._conns.values()  # pyright: ignore[reportPrivateUsage]
    for connection in list(connections):

        def lose(_answer: bytes, broken: Any = connection) -> None:
            broken.close()

        connection._handle_frame = lose


def test_a_client_without_the_parts_of_the_short_way_goes_the_usual_one() -> None:
    assert not DirectWay(object(), 1000).works


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
