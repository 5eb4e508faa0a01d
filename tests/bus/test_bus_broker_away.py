"""A broker that is killed and comes back, under a producer and a member that live through it."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from broker_fixtures import Broker
from bus_reading import until, values

from collectors.contract.bus import BusUnavailableError, Message, Partition, TopicSpec
from collectors.kit.clock import SystemClock
from pipeline.bus.kafka import KafkaBus

pytestmark = pytest.mark.stack


async def test_a_killed_broker_costs_time_and_nothing_else(broker: Broker) -> None:
    bus = KafkaBus(broker.address, clock=SystemClock(), session_timeout_s=3.0, timeout_s=2.0)
    await bus.create_topics([TopicSpec("t", 1, 3600, 2**28)])
    producer = bus.producer()
    await producer.start()
    consumer = bus.consumer(["t"], "group")
    await consumer.start()
    await producer.send([Message("t", b"k", b"before")])
    got = values(await consumer.fetch(10.0))
    await consumer.commit({Partition("t", 0): 1})

    broker.kill()
    for _ in range(2):
        begun_s = time.monotonic()
        with pytest.raises(BusUnavailableError, match=broker.address):
            await producer.send([Message("t", b"k", b"never acknowledged")])
        assert time.monotonic() - begun_s < 20.0
    with pytest.raises(BusUnavailableError):
        await consumer.commit({Partition("t", 0): 1})
    assert await consumer.fetch(0.5) == []

    broker.start()

    async def sent() -> bool:
        with contextlib.suppress(BusUnavailableError):
            await producer.send([Message("t", b"k", b"after")])
            return True
        return False

    await until(sent, 60.0)
    async with asyncio.timeout(60.0):
        while b"after" not in got:
            got += values(await consumer.fetch(1.0))
    # Batches that were given up are not delivered later, behind the sender's back.
    assert got == [b"before", b"after"]

    async def committed() -> bool:
        with contextlib.suppress(BusUnavailableError):
            await consumer.commit({Partition("t", 0): 2})
            return True
        return False

    await until(committed, 60.0)
    assert await consumer.committed(Partition("t", 0)) == 2

    broker.kill()
    begun_s = time.monotonic()
    await consumer.stop()
    await producer.stop()
    assert time.monotonic() - begun_s < 20.0
