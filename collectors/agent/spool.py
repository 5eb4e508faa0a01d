"""The agent's disk: what the bus could not take, kept in order until it can."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from collectors.contract.bus import (
    BusUnavailableError,
    Chunk,
    Consumer,
    Message,
    Producer,
    TopicSpec,
)
from collectors.contract.topics import EVENTS, GPU
from collectors.kit.clock import Clock
from collectors.kit.sqlite_log import SqliteBus

SPOOL_BYTES = 512 * 2**20
_KEEP_S = 72 * 3600
"""The pipeline refuses what is older."""
_GROUP = "agent"


class Spool:
    """A bounded SQLite log: the oldest go first, and are counted."""

    def __init__(
        self, path: Path, clock: Clock, *, topic_prefix: str = "", most_bytes: int = SPOOL_BYTES
    ) -> None:
        self._path = path
        self._bus = SqliteBus(path, clock=clock)
        self._topics = [topic_prefix + GPU, topic_prefix + EVENTS]
        self._most_bytes = most_bytes
        self._producer: Producer = self._bus.producer()
        self._consumer: Consumer = self._bus.consumer(self._topics, _GROUP)
        self._pending: list[Chunk] = []

    async def open(self) -> None:
        """Creates or opens the file.  Raises BusUnavailableError: it cannot be written, or another
        process has it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BusUnavailableError(f"spool {self._path}: {error.strerror}") from error
        await self._bus.create_topics(
            [TopicSpec(name, 1, _KEEP_S, self._most_bytes) for name in self._topics]
        )
        await self._producer.start()
        await self._consumer.start()

    async def append(self, messages: Sequence[Message]) -> None:
        """Keeps messages; they survive kill -9.  Raises BusUnavailableError."""
        await self._producer.send(messages)

    async def next(self) -> list[Message]:
        """The oldest that are left, the same until `done`; empty when there are none."""
        if not self._pending:
            self._pending = await self._consumer.fetch(0, max_records=500)
        return [
            Message(chunk.partition.topic, key, value)
            for chunk in self._pending
            for key, value in zip(chunk.keys, chunk.values, strict=True)
        ]

    async def done(self) -> None:
        """What `next` returned has been passed on: it is removed."""
        offsets = {chunk.partition: chunk.next_offset for chunk in self._pending}
        self._pending = []
        await self._consumer.commit(offsets)
        await self._bus.trim(offsets)

    async def left(self) -> int:
        """Records in the file."""
        backlogs = [await self._bus.backlog(name) for name in self._topics]
        return sum(backlog.records for backlog in backlogs)

    @property
    def dropped(self) -> int:
        """Records that the bounds removed before they were passed on, in this process."""
        return self._consumer.lost

    async def close(self) -> None:
        """Closes the file."""
        await self._consumer.stop()
        await self._bus.close()
