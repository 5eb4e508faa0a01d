"""Follows what the agents publish: their claims on Slurm's jobs, and where their GPUs are."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from collectors.contract.bus import Bus, BusUnavailableError, Chunk, Consumer
from collectors.contract.facts import NodeFacts
from collectors.contract.topics import ALLOC, FACTS, Allocation
from collectors.kit.clock import Clock
from collectors.slurm.book import Book

_SLACK_US = 60_000_000
_RETRY_S = 5.0
_FETCH_S = 0.5
_EMPTY = 10
_log = logging.getLogger(__name__)


class Follower:
    """Reads both topics alone, without a group: allocations from where the book had read to."""

    def __init__(self, bus: Bus, prefix: str, book: Book, clock: Clock) -> None:
        self._bus, self._book, self._clock = bus, book, clock
        self._alloc, self._facts = prefix + ALLOC, prefix + FACTS
        self.caught_up = False
        """Whether all was read that was there at the start; nothing is sent before that."""
        self.refused = 0
        """Records that cannot be read."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; a bus that is away is tried again."""
        while not stop.is_set():
            consumer = self._bus.consumer([self._alloc, self._facts], None)
            try:
                await self._follow(consumer, stop)
            except BusUnavailableError as error:
                _log.warning("bus_away reason=%s", error)
                await self._clock.sleep(0 if stop.is_set() else _RETRY_S)
            finally:
                await consumer.stop()

    async def _follow(self, consumer: Consumer, stop: asyncio.Event) -> None:
        await consumer.start()
        # Facts are few and compacted, and all of them count.
        since_us = max(0, self._book.followed_us - _SLACK_US)
        allocations = [one for one in consumer.assigned if one.topic == self._alloc]
        reached = {one: await consumer.seek_time(one, since_us) for one in allocations}
        ends = await consumer.end_offsets()
        empty = 0
        while not stop.is_set():
            chunks = await consumer.fetch(_FETCH_S)
            for chunk in chunks:
                self._take(chunk)
                reached[chunk.partition] = chunk.next_offset
            empty = 0 if chunks else empty + 1
            whole = all(reached.get(one, 0) >= end for one, end in ends.items())
            # The last records before an end may have been compacted away.
            self.caught_up = self.caught_up or whole or empty >= _EMPTY

    def _take(self, chunk: Chunk) -> None:
        for value in chunk.values:
            try:
                if chunk.partition.topic == self._alloc:
                    self._book.take_record(msgspec.json.decode(value, type=Allocation))
                else:
                    self._book.take_facts(msgspec.json.decode(value, type=NodeFacts))
            except msgspec.MsgspecError as error:
                self.refused += 1
                _log.warning("record_refused topic=%s reason=%s", chunk.partition.topic, error)
        if chunk.partition.topic == self._alloc:
            self._book.followed_us = max(self._book.followed_us, chunk.bus_us[-1])
