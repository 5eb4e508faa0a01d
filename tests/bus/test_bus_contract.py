"""The bus port's contract on both adapters: records, order, bounds, positions."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from bus_place import Place
from bus_reading import read, read_all, send, until, values

from collectors.contract.bus import BusUnavailableError, Message, Partition, RefusedError

NASTY = [b"", b"\x00", b"\xff" * 300, bytes(range(256)), "größe".encode(), b"a\nb\r\n"]


async def test_records_come_back_byte_for_byte(place: Place) -> None:
    topic = place.topic()
    sent = [Message(topic.name, key, value) for key in NASTY for value in NASTY]
    async with place.bus(topic) as bus:
        await send(bus, sent)
        (chunk,) = await read_all(bus, topic.name, len(sent))
        assert list(zip(chunk.keys, chunk.values, strict=True)) == [
            (one.key, one.value) for one in sent
        ]
        assert list(chunk.offsets) == list(range(len(sent)))
        assert chunk.next_offset == len(sent)


async def test_a_key_keeps_its_order_and_its_partition(place: Place) -> None:
    topic = place.topic(partitions=4)
    sent = [Message(topic.name, b"node%d" % (i % 13), b"%d" % i) for i in range(390)]
    async with place.bus(topic) as bus:
        producer = bus.producer()
        await producer.start()
        for start in range(0, len(sent), 130):
            await producer.send(sent[start : start + 130])
        await producer.stop()
        chunks = await read_all(bus, topic.name, len(sent))
    of_key: dict[bytes, list[bytes]] = {}
    homes: dict[bytes, set[Partition]] = {}
    for chunk in chunks:
        for key, value in zip(chunk.keys, chunk.values, strict=True):
            of_key.setdefault(key, []).append(value)
            homes.setdefault(key, set()).add(chunk.partition)
    assert of_key == {
        b"node%d" % k: [b"%d" % i for i in range(390) if i % 13 == k] for k in range(13)
    }
    assert all(len(home) == 1 for home in homes.values())
    assert len({one for home in homes.values() for one in home}) == 4


async def test_bus_time_is_when_the_bus_took_it(place: Place) -> None:
    topic = place.topic()
    async with place.bus(topic) as bus:
        before_us = time.time_ns() // 1000
        await send(bus, [Message(topic.name, b"k", b"live")])
        after_us = time.time_ns() // 1000
        (chunk,) = await read_all(bus, topic.name, 1)
    # Kafka's times are whole milliseconds.
    assert before_us - 1000 <= chunk.bus_us[0] <= after_us + 1000


async def test_an_arrival_time_stands_for_the_bus_time(place: Place) -> None:
    topic = place.topic()
    arrivals_us = [1_700_000_000_000_001, 1_700_000_000_000_002, 4_000_000_000_000_003]
    async with place.bus(topic) as bus:
        await send(bus, [Message(topic.name, b"k", b"v", arrival_us=one) for one in arrivals_us])
        (chunk,) = await read_all(bus, topic.name, 3)
    assert list(chunk.bus_us) == arrivals_us


async def test_an_empty_fetch_ends_with_its_timeout(place: Place) -> None:
    topic = place.topic()
    async with place.bus(topic) as bus:
        consumer = bus.consumer([topic.name], None)
        await consumer.start()
        begun_s = time.monotonic()
        assert await consumer.fetch(0.3) == []
        assert 0.25 <= time.monotonic() - begun_s < 15.0
        assert await consumer.fetch(0.0) == []
        await consumer.stop()


async def test_a_waiting_fetch_wakes(place: Place) -> None:
    topic = place.topic()
    async with place.bus(topic) as bus:
        consumer = bus.consumer([topic.name], None)
        await consumer.start()
        waiting = asyncio.create_task(consumer.fetch(30.0))
        await asyncio.sleep(0)
        begun_s = time.monotonic()
        await send(bus, [Message(topic.name, b"k", b"v")])
        assert values(await waiting) == [b"v"]
        assert time.monotonic() - begun_s < 20.0
        await consumer.stop()


async def test_a_fetch_keeps_to_max_records(place: Place) -> None:
    topic = place.topic(partitions=3)
    async with place.bus(topic) as bus:
        await send(bus, [Message(topic.name, b"%d" % i, b"%d" % i) for i in range(100)])
        consumer = bus.consumer([topic.name], None)
        await consumer.start()
        got: list[bytes] = []
        while len(got) < 100:
            chunks = await consumer.fetch(5.0, 7)
            assert 0 < sum(len(chunk.values) for chunk in chunks) <= 7
            assert len({chunk.partition for chunk in chunks}) == len(chunks)
            got += values(chunks)
        assert sorted(got) == sorted(b"%d" % i for i in range(100))
        await consumer.stop()


async def test_an_oversized_record_is_refused_alone(place: Place) -> None:
    topic = place.topic(partitions=2)
    big = Message(topic.name, b"b", os.urandom(200_001))
    sent = [Message(topic.name, b"%d" % (i % 5), b"%d" % i) for i in range(50)]
    async with place.bus(topic) as bus:
        producer = bus.producer(max_request_bytes=200_000)
        await producer.start()
        with pytest.raises(RefusedError) as refused:
            await producer.send([*sent[:25], big, *sent[25:]])
        assert refused.value.refused == (big,)
        await producer.send([Message(topic.name, b"next", b"next")])
        await producer.stop()
        chunks = await read_all(bus, topic.name, 51)
    assert sorted(values(chunks)) == sorted([*(one.value for one in sent), b"next"])


async def test_a_topic_that_is_not_there_is_said(place: Place) -> None:
    topic = place.topic()
    async with place.bus(topic) as bus:
        await bus.delete_topics([topic.name])
        consumer = bus.consumer([topic.name], None)
        with pytest.raises(BusUnavailableError, match=topic.name):
            await consumer.start()
        producer = bus.producer()
        await producer.start()
        with pytest.raises(BusUnavailableError):
            await producer.send([Message(topic.name, b"k", b"v")])
        await producer.stop()


async def test_latest_begins_at_the_end(place: Place) -> None:
    topic = place.topic(partitions=2)
    async with place.bus(topic) as bus:
        await send(bus, [Message(topic.name, b"%d" % i, b"old") for i in range(10)])
        alone = bus.consumer([topic.name], None, latest=True)
        member = bus.consumer([topic.name], place.name("group"), latest=True)
        await alone.start()
        await member.start()
        await send(bus, [Message(topic.name, b"k", b"new")])
        assert values(await read(alone, 1)) == [b"new"]
        assert values(await read(member, 1)) == [b"new"]
        await alone.stop()
        await member.stop()


async def test_seek_goes_back_and_forth(place: Place) -> None:
    topic = place.topic()
    partition = Partition(topic.name, 0)
    async with place.bus(topic) as bus:
        await send(bus, [Message(topic.name, b"k", b"%d" % i) for i in range(20)])
        consumer = bus.consumer([topic.name], None)
        await consumer.start()
        await read(consumer, 20)
        await consumer.seek(partition, 5)
        assert values(await read(consumer, 15))[0] == b"5"
        await consumer.seek(partition, 18)
        assert values(await read(consumer, 2)) == [b"18", b"19"]
        assert await consumer.end_offsets() == {partition: 20}
        with pytest.raises(KeyError):
            await consumer.seek(Partition(topic.name, 7), 0)
        await consumer.stop()


async def test_seek_time_finds_the_first_at_or_after(place: Place) -> None:
    topic = place.topic()
    partition = Partition(topic.name, 0)
    async with place.bus(topic) as bus:
        for i in range(3):
            await send(bus, [Message(topic.name, b"k", b"%d" % i)])
            await asyncio.sleep(0.01)
        consumer = bus.consumer([topic.name], None)
        await consumer.start()
        times_us = [time_us for chunk in await read(consumer, 3) for time_us in chunk.bus_us]
        assert await consumer.seek_time(partition, 0) == 0
        assert await consumer.seek_time(partition, times_us[2] + 1) == 3
        assert await consumer.seek_time(partition, times_us[1]) == 1
        assert await consumer.seek_time(partition, times_us[0] + 1) == 1
        assert values(await read(consumer, 2)) == [b"1", b"2"]
        await consumer.stop()


async def test_seek_time_goes_by_arrival_where_there_is_one(place: Place) -> None:
    topic = place.topic()
    partition = Partition(topic.name, 0)
    async with place.bus(topic) as bus:
        await send(
            bus, [Message(topic.name, b"k", b"%d" % i, arrival_us=1000 + 10 * i) for i in range(50)]
        )
        consumer = bus.consumer([topic.name], None)
        await consumer.start()
        found = [
            await consumer.seek_time(partition, wanted)
            for wanted in (0, 1000, 1001, 1333, 1490, 1491)
        ]
        assert found == [0, 0, 1, 34, 49, 50]
        await consumer.seek_time(partition, 1480)
        assert values(await read(consumer, 2)) == [b"48", b"49"]
        await consumer.stop()


async def test_what_retention_took_is_skipped_and_counted(place: Place) -> None:
    topic = place.topic(retention_bytes=2 * 2**20)
    async with place.bus(topic) as bus:
        consumer = bus.consumer([topic.name], None)
        await consumer.start()
        producer = bus.producer()
        await producer.start()
        for i in range(40):
            await producer.send([Message(topic.name, b"k", b"%03d" % i + os.urandom(250_000))])

        async def shortened() -> bool:
            fresh = bus.consumer([topic.name], None)
            await fresh.start()
            chunks = await fresh.fetch(5.0, 1)
            await fresh.stop()
            return chunks[0].offsets[0] > 20

        await until(shortened)
        await consumer.seek(Partition(topic.name, 0), 0)
        got: list[bytes] = []
        while not got or got[-1] != b"039":
            got += [value[:3] for value in values(await consumer.fetch(5.0))]
        assert consumer.lost + len(set(got)) >= 40
        assert got[-1] == b"039"
        assert consumer.lost > 20
        await producer.stop()
        await consumer.stop()


async def test_creating_again_changes_nothing_and_deleting_forgets(place: Place) -> None:
    topic = place.topic()
    partition = Partition(topic.name, 0)
    async with place.bus(topic) as bus:
        await send(bus, [Message(topic.name, b"k", b"v")])
        await bus.create_topics([topic])
        consumer = bus.consumer([topic.name], place.name("group"))
        await consumer.start()
        await read(consumer, 1)
        await consumer.commit({partition: 1})
        await consumer.stop()
        await bus.delete_topics([topic.name, place.name("never there")])
        await bus.create_topics([topic])
        again = bus.consumer([topic.name], place.name("group"))
        await again.start()
        assert await again.committed(partition) is None
        await send(bus, [Message(topic.name, b"k", b"new")])
        assert values(await read(again, 1)) == [b"new"]
        await again.stop()


async def test_health_says_what_answers(place: Place) -> None:
    async with place.bus(place.topic()) as bus:
        assert (await bus.health())["bus"] == place.kind
