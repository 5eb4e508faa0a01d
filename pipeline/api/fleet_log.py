"""What happened on the nodes, and what their agents say of themselves: the newest, in memory.

Events stay in the bus as long as its retention says; the newest 20,000 are
held here.  Facts are those of each node's last record.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Sequence

import msgspec

from collectors.contract.bus import Bus, Chunk, Consumer, Partition
from collectors.contract.facts import NodeFacts
from collectors.contract.identity import parse_slot
from collectors.contract.topics import EVENTS, FACTS, Event
from collectors.kit.clock import Clock
from pipeline.api.follow import TopicFollower
from pipeline.health import HealthBoard

MAX_EVENTS = 20_000
MAX_NODES = 20_000
MAX_EVENT_BYTES, MAX_FACTS_BYTES = 16_384, 2**20
"""Longer ones are no agent's, and would fill the memory."""
MAX_LABELS = 500
OTHER = "other"
_AT_ONCE = 5_000
_STRANGER_US = 86_400_000_000
_LATEST_US = 2**62 // 1_000
_Key = tuple[str, int, str, str, int | None]
_Label = tuple[str, str, str]
_log = logging.getLogger(__name__)


class FleetLog:
    """Follows `telemetry.events` and `telemetry.facts`; counts on `board` `fleet_records`,
    `fleet_broken`, `fleet_repeated`, `fleet_refused`, `fleet_bus_errors`, and as `agents_dropped`
    the records that agents had no room for since this process began.

    An absent bus costs freshness alone.
    """

    def __init__(self, bus: Bus, prefix: str, clock: Clock, board: HealthBoard) -> None:
        self._events_topic = prefix + EVENTS
        topics = [self._events_topic, prefix + FACTS]
        self._follower = TopicFollower(bus, topics, clock, board, name="fleet", at_once=_AT_ONCE)
        self._clock = clock
        self._board = board
        board.add("agents_dropped", 0)
        self._next: dict[Partition, int] = {}
        self._began_us = clock.wall_us()
        self._events: OrderedDict[_Key, Event] = OrderedDict()
        self.facts: dict[str, tuple[int, NodeFacts]] = {}
        """Node → when the bus took its last facts (µs since 1970), and these."""
        self.first_us: dict[str, int] = {}
        """Node → when the bus took the first of its facts that it still has."""
        self.counts: Counter[_Label] = Counter()
        """(kind, code, concerns) → happenings since this process began."""

    async def run(self) -> None:
        """Follows until `stop`; an absent bus is tried again each second."""
        await self._follower.run(self._position, self.take)

    async def _position(self, consumer: Consumer) -> None:
        """Goes on where it was; at the first, facts from their beginning, and the newest events."""
        ends = await consumer.end_offsets()
        for partition, end in ends.items():
            reached = self._next.get(partition)
            if reached is not None and reached <= end:
                await consumer.seek(partition, reached)
            elif partition.topic == self._events_topic and end > MAX_EVENTS:
                await consumer.seek(partition, end - MAX_EVENTS)

    def take(self, chunks: Sequence[Chunk]) -> None:
        """Takes in fetched records; one that cannot be read is counted and passed over."""
        for chunk in chunks:
            take = (
                self._take_event
                if chunk.partition.topic == self._events_topic
                else self._take_facts
            )
            for value, bus_us in zip(chunk.values, chunk.bus_us, strict=True):
                try:
                    take(value, bus_us)
                    self._board.add("fleet_records")
                except ValueError as error:
                    self._board.add("fleet_broken", topic=chunk.partition.topic)
                    _log.warning("fleet_record_broken topic=%s %s", chunk.partition.topic, error)
            self._next[chunk.partition] = chunk.next_offset

    def _take_event(self, value: bytes, bus_us: int) -> None:
        if len(value) > MAX_EVENT_BYTES:
            raise ValueError(f"an event of {len(value):,} bytes")
        event = msgspec.json.decode(value, type=Event)
        if not 0 <= event.time_us < _LATEST_US:
            raise ValueError(f"an event at {event.time_us} µs")
        key = (event.node, event.time_us, event.kind, event.slot, event.code)
        if key in self._events:
            # An agent that died may send once more what it had sent.
            self._board.add("fleet_repeated")
            return
        self._events[key] = event
        while len(self._events) > MAX_EVENTS:
            self._events.popitem(last=False)
        if bus_us >= self._began_us:
            self._count(event)

    def _count(self, event: Event) -> None:
        label = (event.kind, "" if event.code is None else str(event.code), event.concerns)
        if label not in self.counts and len(self.counts) >= MAX_LABELS:
            label = (OTHER, "", "")
        self.counts[label] += max(1, event.count)

    def _take_facts(self, value: bytes, bus_us: int) -> None:
        if len(value) > MAX_FACTS_BYTES:
            raise ValueError(f"facts of {len(value):,} bytes")
        facts = msgspec.json.decode(value, type=NodeFacts)
        for gpu in facts.gpus:
            parse_slot(gpu.slot)
        if facts.node not in self.facts and len(self.facts) >= MAX_NODES:
            self._board.add("fleet_refused")
            return
        before = self.facts.get(facts.node)
        if before is not None and bus_us >= self._began_us:
            # A spool's file that was made anew counts from the beginning.
            self._board.add("agents_dropped", max(0, facts.dropped - before[1].dropped))
        self.first_us[facts.node] = min(bus_us, self.first_us.get(facts.node, bus_us))
        self.facts[facts.node] = (bus_us, facts)

    def agents(self, installed: Container[str]) -> dict[str, tuple[int, NodeFacts]]:
        """As `facts`, in order of name, without nodes that are neither installed nor heard of
        within a day: the bus remembers those for a year."""
        oldest_us = self._clock.wall_us() - _STRANGER_US
        return {
            node: told
            for node, told in sorted(self.facts.items())
            if node in installed or told[0] >= oldest_us
        }

    def events(self, wanted: Callable[[Event], bool], limit: int) -> tuple[int, list[Event]]:
        """How many of those held are wanted, and the newest of them, newest first."""
        found = [event for event in self._events.values() if wanted(event)]
        return len(found), heapq.nlargest(limit, found, key=lambda event: event.time_us)

    def stop(self) -> None:
        """Ends `run` within a second."""
        self._follower.stop()
