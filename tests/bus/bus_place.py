"""Both buses, as the contract suite sees them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from collectors.contract.bus import Bus, TopicSpec
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from pipeline.bus.kafka import KafkaBus


@dataclass(frozen=True, slots=True)
class Place:
    """A bus, where it is, and a prefix for names of this test's own."""

    kind: str
    url: str
    prefix: str

    def name(self, what: str) -> str:
        """A topic's or group's name."""
        return f"{self.prefix}.{what}"

    def topic(
        self, what: str = "topic", *, partitions: int = 1, retention_bytes: int = 2**28
    ) -> TopicSpec:
        """A topic of this test."""
        return TopicSpec(self.name(what), partitions, 3600, retention_bytes)

    def open(self, *, session_timeout_s: float = 1.0) -> Bus:
        """The bus, not connected yet."""
        if self.kind == "sqlite":
            return SqliteBus(Path(self.url.removeprefix("sqlite:///")), clock=SystemClock())
        address = self.url.removeprefix("kafka://")
        return KafkaBus(
            address, clock=SystemClock(), session_timeout_s=session_timeout_s, timeout_s=6.0
        )

    @contextlib.asynccontextmanager
    async def bus(self, *topics: TopicSpec) -> AsyncGenerator[Bus]:
        """The bus with topics that are removed afterwards."""
        bus = self.open()
        await bus.create_topics(topics)
        try:
            yield bus
        finally:
            await bus.delete_topics([topic.name for topic in topics])
            await bus.close()
