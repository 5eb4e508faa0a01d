"""What agents have said of themselves: asked of a running API, or read from the bus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from collectors.contract.bus import Bus, BusUnavailableError, Chunk, Consumer
from collectors.contract.facts import GpuFacts, NodeFacts
from collectors.contract.topics import FACTS
from collectors.doctor_fleet import FleetAwayError, ask, token
from collectors.kit.clock import Clock

_FETCH_S = 0.5
_EMPTY = 10
"""The last records before a compacted topic's end may be gone."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One node as its agent described it last."""

    node: str
    gpus: tuple[GpuFacts, ...]
    first_us: int
    """The oldest word of it that is still known, by the bus's clock."""
    last_us: int


class _Row(msgspec.Struct, frozen=True):
    """A row of `GET /api/v1/agents`."""

    node: str
    known: bool
    age_s: float | None = None
    heard_since_us: int | None = None
    gpus: tuple[GpuFacts, ...] = ()


def ask_api(url: str, clock: Clock) -> list[Heard]:
    """What a running API knows.  Raises FleetAwayError."""
    try:
        told: list[Any] = ask(url, "/api/v1/agents", token())["agents"]
        rows = msgspec.convert(told, list[_Row])
    except (KeyError, TypeError, msgspec.MsgspecError) as error:
        raise FleetAwayError(f"{url} answers in another form: {error}") from error
    now_us = clock.wall_us()
    found: list[Heard] = []
    for row in rows:
        last_us = now_us - int((row.age_s or 0.0) * 1e6)
        first_us = last_us if row.heard_since_us is None else row.heard_since_us
        if row.known:
            found.append(Heard(row.node, row.gpus, first_us, last_us))
    return found


async def read_bus(bus: Bus, prefix: str) -> list[Heard]:
    """What the bus holds of each node.  Raises BusUnavailableError."""
    consumer = bus.consumer([prefix + FACTS], None)
    found: dict[str, Heard] = {}
    try:
        await consumer.start()
        if not consumer.assigned:
            raise BusUnavailableError(f"{prefix + FACTS} is not there: no agent has said anything")
        for chunk in await _all_of(consumer):
            _take(chunk, found)
    finally:
        await consumer.stop()
    return list(found.values())


async def _all_of(consumer: Consumer) -> list[Chunk]:
    """All records that are there at the beginning of the call."""
    ends = await consumer.end_offsets()
    reached = dict.fromkeys(ends, 0)
    chunks: list[Chunk] = []
    empty = 0
    while empty < _EMPTY and any(reached[one] < end for one, end in ends.items()):
        fetched = await consumer.fetch(_FETCH_S)
        chunks += fetched
        reached |= {chunk.partition: chunk.next_offset for chunk in fetched}
        empty = 0 if fetched else empty + 1
    return chunks


def _take(chunk: Chunk, found: dict[str, Heard]) -> None:
    for value, bus_us in zip(chunk.values, chunk.bus_us, strict=True):
        try:
            facts = msgspec.json.decode(value, type=NodeFacts)
        except msgspec.MsgspecError:
            continue  # No agent's: the API counts and names these.
        before = found.get(facts.node)
        first_us = bus_us if before is None else min(bus_us, before.first_us)
        found[facts.node] = Heard(facts.node, facts.gpus, first_us, bus_us)
