"""One record sent at once, without the loop: there once, and in order, whatever its answer does."""

from __future__ import annotations

import struct
import uuid

import pytest
from bus_place import Place
from bus_reading import read_all

from collectors.contract.bus import Message
from collectors.kit import kafka_direct
from collectors.kit.kafka_producer import KafkaProducer


@pytest.mark.stack
async def test_each_record_is_on_the_broker_once_whatever_its_answer_did(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("kafka", kafka_url, f"test-{uuid.uuid4().hex[:12]}")
    topic = place.topic(partitions=1)
    async with place.bus(topic) as bus:
        producer = KafkaProducer(kafka_url.removeprefix("kafka://"), timeout_s=20.0)
        messages = [Message(topic.name, b"k", b"%d" % number) for number in range(12)]
        assert not producer.send_at_once(messages[0])  # it is not connected yet
        await producer.send(messages[:1])
        monkeypatch.setattr(kafka_direct, "_AT_ONCE_MS", 10_000)
        assert all(producer.send_at_once(one) for one in messages[1:5])
        usual = kafka_direct._answered  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(kafka_direct, "_answered", _slow)
        assert not producer.send_at_once(messages[5])
        assert not producer.send_at_once(messages[6])  # one is under way
        await producer.send(messages[5:8])
        assert not producer.send_at_once(messages[8])  # not so soon after a slow answer
        await producer.send(messages[8:9])
        assert not producer.send_at_once(messages[9])
        await _break_connections(producer)
        await producer.send(messages[9:11])
        monkeypatch.setattr(kafka_direct, "_answered", usual)
        await producer.send(messages[11:])
        await producer.stop()
        chunks = await read_all(bus, topic.name, 12)
    assert [int(value) for chunk in chunks for value in chunk.values] == list(range(12))


def _slow(_connection: object, _code: object) -> bool:
    return False


async def _break_connections(producer: KafkaProducer) -> None:
    for connection in list(producer._client.client._conns.values()):  # pyright: ignore[reportPrivateUsage]
        connection.close()


@pytest.mark.stack
async def test_garbage_for_an_answer_is_no_answer(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("kafka", kafka_url, f"test-{uuid.uuid4().hex[:12]}")
    topic = place.topic(partitions=1)
    async with place.bus(topic) as bus:
        producer = KafkaProducer(kafka_url.removeprefix("kafka://"), timeout_s=20.0)
        await producer.send([Message(topic.name, b"k", b"0")])
        monkeypatch.setattr(kafka_direct, "_AT_ONCE_MS", 10_000)
        one = Message(topic.name, b"k", b"1")
        with monkeypatch.context() as broken:
            broken.setattr(kafka_direct._Code, "decode", _garbage)  # pyright: ignore[reportPrivateUsage]
            assert not producer.send_at_once(one)
        await producer.send([one])
        await producer.stop()
        chunks = await read_all(bus, topic.name, 2)
    assert [int(value) for chunk in chunks for value in chunk.values] == [0, 1]


def _garbage(_answer: object) -> int:
    raise struct.error("too short")
