"""Processes that are killed or stopped: what was acknowledged stays, what is stale is fenced."""

from __future__ import annotations

import asyncio
import signal
import sys
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bus_place import Place
from bus_reading import WAIT_S, Member, send, until, values

from collectors.contract.bus import Message

_CHILD = Path(__file__).with_name("bus_child.py")


@asynccontextmanager
async def child(*arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A program of `bus_child`, killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(_CHILD),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=_CHILD.parents[2],
        env={"PYTHONPATH": str(_CHILD.parents[2])},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    """The next line that a program prints."""
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_S):
        return (await process.stdout.readline()).decode().strip()


async def test_kill_9_loses_nothing_acknowledged(place: Place) -> None:
    topic = place.topic(partitions=3)
    bus = place.open()
    await bus.create_topics([topic])
    await bus.close()  # a SQLite log has one writer: the child
    async with child("send", place.url, topic.name) as process:
        acknowledged = [int(await line(process)) for _ in range(40)]
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        acknowledged += [int(word) for word in (await process.stdout.read()).split()]
    assert acknowledged == list(range(len(acknowledged)))
    bus = place.open()
    consumer = bus.consumer([topic.name], None)
    await consumer.start()
    got: set[int] = set()
    while chunks := await consumer.fetch(1.0):
        got |= {int(value) for value in values(chunks)}
    await consumer.stop()
    assert set(range(20 * len(acknowledged))) <= got
    await bus.delete_topics([topic.name])
    await bus.close()


@pytest.mark.stack
async def test_a_member_stopped_past_its_session_is_fenced_and_comes_back(kafka_url: str) -> None:
    place = Place("kafka", kafka_url, f"test-{uuid.uuid4().hex[:12]}")
    topic = place.topic(partitions=2)
    group = place.name("group")
    async with place.bus(topic) as bus:
        await send(bus, [Message(topic.name, b"%d" % i, b"%d" % i) for i in range(50)])
        async with child("member", kafka_url, topic.name, group) as process:
            assert (await line(process)).startswith("got")
            process.send_signal(signal.SIGSTOP)
            other = Member(bus, topic.name, group)
            await other.start()
            async with asyncio.timeout(WAIT_S):
                while len(other.got) < 50:
                    await other.turn()
            await other.commit()
            committed = {
                one: await other.consumer.committed(one) for one in other.consumer.assigned
            }
            process.send_signal(signal.SIGCONT)
            assert process.stdin is not None
            process.stdin.write(b"\n")
            assert await line(process) == "fenced"

            async def is_back() -> bool:
                await other.turn(0.05)
                return len(other.consumer.assigned) == 1

            await until(is_back)
            (kept,) = other.consumer.assigned
            assert await other.consumer.committed(kept) == committed[kept]
            # It is a member again: what comes now for its partition, it reads and commits.
            await send(bus, [Message(topic.name, b"%d" % i, b"%d" % i) for i in range(50, 100)])
            assert (await line(process)).startswith("got")
            process.stdin.write(b"\n")
            assert await line(process) == "committed"
        await other.consumer.stop()
