"""Follows topics from `serve`, whatever becomes of the bus."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from collectors.contract.bus import Bus, BusUnavailableError, Chunk, Consumer
from collectors.kit.clock import Clock
from pipeline.health import HealthBoard

_AGAIN_S = 1.0
_log = logging.getLogger(__name__)


class TopicFollower:
    """Hands the records of `topics` to `take` until `stop`.

    `position` says where to begin, at each new consumer.  An absent bus, or
    topics that are not there yet, are tried again each second and counted on
    `board` as `NAME_bus_errors`; at most `at_once` records are taken together.
    """

    def __init__(
        self,
        bus: Bus,
        topics: Sequence[str],
        clock: Clock,
        board: HealthBoard,
        *,
        name: str,
        at_once: int,
    ) -> None:
        self._bus, self._topics = bus, list(topics)
        self._clock, self._board, self._name, self._at_once = clock, board, name, at_once
        self._stopping = False

    def stop(self) -> None:
        """Ends `run` after what it is at."""
        self._stopping = True

    async def run(
        self,
        position: Callable[[Consumer], Awaitable[None]],
        take: Callable[[Sequence[Chunk]], None],
    ) -> None:
        """Follows until `stop`."""
        while not self._stopping:
            try:
                await self._follow(position, take)
            except BusUnavailableError as error:
                self._board.add(f"{self._name}_bus_errors")
                _log.warning("%s_bus_unavailable error=%s", self._name, type(error).__name__)
                await self._clock.sleep(_AGAIN_S)

    async def _follow(
        self,
        position: Callable[[Consumer], Awaitable[None]],
        take: Callable[[Sequence[Chunk]], None],
    ) -> None:
        consumer = self._bus.consumer(self._topics, None)
        try:
            await consumer.start()
            if not consumer.assigned:
                raise BusUnavailableError(f"{self._topics[0]} is not there yet")
            await position(consumer)
            # Asked each time: `asyncio.wait_for` of Python 3.11 may swallow a cancellation.
            while not self._stopping:
                take(await consumer.fetch(1.0, self._at_once))
        finally:
            await consumer.stop()
