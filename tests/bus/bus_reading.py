"""What the tests of the bus read with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from collectors.contract.bus import Bus, Chunk, Consumer, Message, Partition

WAIT_S = 30.0


async def send(bus: Bus, messages: Sequence[Message]) -> None:
    """Sends with a producer of its own."""
    producer = bus.producer()
    await producer.start()
    try:
        await producer.send(messages)
    finally:
        await producer.stop()


async def read(consumer: Consumer, count: int) -> list[Chunk]:
    """Chunks with `count` records in all."""
    chunks: list[Chunk] = []
    async with asyncio.timeout(WAIT_S):
        while sum(len(chunk.values) for chunk in chunks) < count:
            chunks += await consumer.fetch(1.0)
    assert sum(len(chunk.values) for chunk in chunks) == count
    return chunks


async def read_all(bus: Bus, topic: str, count: int) -> list[Chunk]:
    """The topic's records by a consumer without a group."""
    consumer = bus.consumer([topic], None)
    await consumer.start()
    try:
        return await read(consumer, count)
    finally:
        await consumer.stop()


def values(chunks: Sequence[Chunk]) -> list[bytes]:
    """All values, chunk by chunk."""
    return [value for chunk in chunks for value in chunk.values]


async def until(true: Callable[[], Awaitable[bool]], within_s: float = WAIT_S) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(within_s):
        # What is waited for happens in another process or a broker.
        while not await true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


class Member:
    """A consumer with what it was told."""

    def __init__(self, bus: Bus, topic: str, group: str) -> None:
        self.consumer = bus.consumer([topic], group)
        self.told: list[tuple[str, frozenset[Partition]]] = []
        self.to_commit: dict[Partition, int] = {}
        self.got: list[bytes] = []

    async def start(self) -> None:
        """Joins."""
        await self.consumer.start(self._revoked, self._assigned)

    async def _revoked(self, partitions: frozenset[Partition]) -> None:
        self.told.append(("revoked", partitions))
        if self.to_commit:
            await self.consumer.commit(self.to_commit)
            self.to_commit = {}

    async def _assigned(self, partitions: frozenset[Partition]) -> None:
        self.told.append(("assigned", partitions))

    async def turn(self, timeout_s: float = 0.2) -> int:
        """One fetch, kept to be committed; how many records came."""
        chunks = await self.consumer.fetch(timeout_s)
        for chunk in chunks:
            self.got += chunk.values
            self.to_commit[chunk.partition] = chunk.next_offset
        return sum(len(chunk.values) for chunk in chunks)

    async def commit(self) -> None:
        """Commits what was fetched."""
        offsets, self.to_commit = self.to_commit, {}
        if offsets:
            await self.consumer.commit(offsets)
