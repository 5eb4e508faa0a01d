"""What happens to records on their way: late, lost, twice, broken, on a wrong clock, under a false name."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from collectors.contract.inventory import InstalledNode
from collectors.contract.wire import MAX_SLOTS, BrokenRecordError, parse, tag, varint
from collectors.simulator.clocks import KINDS as CLOCK_KINDS
from collectors.simulator.clocks import WrongClocks
from collectors.simulator.faults import Family
from collectors.simulator.fleet import Tick
from collectors.simulator.scenario import FaultEvent, gpus_of, of_family
from collectors.simulator.sites import GPUS_PER_NODE

ARRIVAL_DELAY_US = 20_000
"""How long after its event time a record arrives where nothing is wrong."""
_SECOND_COPY_US = 5_000_000
_HEADER_BYTES = 46
_DELIVERY = frozenset(("late", "reordered", "duplicated", "lost"))
_DAMAGE = frozenset(("corrupt", "truncated", "oversized", "false_name"))


class Outgoing(NamedTuple):
    """A record as it arrives: the node that it came from, its bytes, its arrival in µs."""

    node: str
    record: bytes
    arrival_us: int


class Telemetry:
    """The way of every record from its agent to the bus; deterministic by seed.

    Records that come late are held back until the tick in which they arrive.
    """

    def __init__(
        self,
        events: Sequence[FaultEvent],
        entries: Sequence[InstalledNode],
        seed: int,
        start_us: int,
    ) -> None:
        told = of_family(events, Family.TELEMETRY)
        self._start_us = start_us
        self._rng = np.random.default_rng([seed, 12])
        self._faults: dict[str, list[FaultEvent]] = {}
        clocks: dict[str, list[FaultEvent]] = {}
        for event in told:
            into = clocks if event.kind.name in CLOCK_KINDS else self._faults
            if event.kind.name in CLOCK_KINDS | _DELIVERY | _DAMAGE:
                for name in _nodes(event, entries):
                    into.setdefault(name, []).append(event)
        self._clocks = WrongClocks(clocks, start_us)
        self._neighbour = neighbours(entries)
        self._held: list[tuple[int, int, Outgoing]] = []
        self._count = 0
        self._quiet = not self._faults and not clocks
        self.lost: dict[str, int] = {}
        """Records that never arrive, by node."""

    def through(self, tick: Tick, until_us: int) -> list[Outgoing]:
        """What arrives up to `until_us`, in order of arrival: of this tick and of earlier ones."""
        columns = zip(tick.nodes, tick.records, tick.times_us, strict=True)
        if self._quiet:
            return [Outgoing(node, data, at + ARRIVAL_DELAY_US) for node, data, at in columns]
        for node, data, time_us in columns:
            for out in self._way(node, data, time_us):
                self._count += 1
                heapq.heappush(self._held, (out.arrival_us, self._count, out))
        return self._arrived(until_us)

    def _arrived(self, until_us: int) -> list[Outgoing]:
        out: list[Outgoing] = []
        while self._held and self._held[0][0] <= until_us:
            out.append(heapq.heappop(self._held)[2])
        return out

    def rest(self) -> list[Outgoing]:
        """What is still on its way at the end."""
        return self._arrived(1 << 62)

    def _way(self, node: str, data: bytes, time_us: int) -> Iterable[Outgoing]:
        data = self._clocks.rewrite(node, data, time_us)
        arrival_us = time_us + ARRIVAL_DELAY_US
        second: int | None = None
        for event in self._faults.get(node, ()):
            if not _holds(event, time_us - self._start_us):
                continue
            name, strength = event.kind.name, event.strength
            if name in {"late", "reordered"}:
                arrival_us += int(self._rng.uniform(0, strength * 1e6))
            elif name == "false_name":
                data = _renamed(data, node, self._neighbour.get(node, node))
            elif self._rng.random() < strength:
                if name == "lost":
                    self.lost[node] = self.lost.get(node, 0) + 1
                    return
                if name == "duplicated":
                    second = int(self._rng.uniform(1, _SECOND_COPY_US))
                else:
                    data = self._damaged(name, data)
        yield Outgoing(node, data, arrival_us)
        if second is not None:
            yield Outgoing(node, data, arrival_us + second)

    def _damaged(self, name: str, data: bytes) -> bytes:
        if name == "oversized":
            more = range(1, MAX_SLOTS + 2)
            payload = struct.pack(f"<{len(more)}Q", *more)
            return data + tag(8, 2) + varint(len(payload)) + payload
        while True:
            hurt = self._cut(data) if name == "truncated" else self._flipped(data)
            try:
                parse(hurt)
            except BrokenRecordError:
                return hurt

    def _cut(self, data: bytes) -> bytes:
        return data[: int(self._rng.integers(1, len(data)))]

    def _flipped(self, data: bytes) -> bytes:
        """Some bits of it the other way round: only what cannot be read counts as corrupt, as
        the bus's own checksum guards what can."""
        hurt = bytearray(data)
        for at in self._rng.integers(0, len(data), int(self._rng.integers(1, 9))).tolist():
            hurt[at] ^= 1 << int(self._rng.integers(8))
        return bytes(hurt)


def _nodes(event: FaultEvent, entries: Sequence[InstalledNode]) -> list[str]:
    return [entries[gpu // GPUS_PER_NODE].name for gpu in gpus_of(event, entries)[::GPUS_PER_NODE]]


def neighbours(entries: Sequence[InstalledNode]) -> dict[str, str]:
    """For each node one whose name is as long: the one that it may pass itself off as."""
    by_length: dict[int, list[str]] = {}
    for entry in entries:
        by_length.setdefault(len(entry.name), []).append(entry.name)
    return {
        name: names[(at + 1) % len(names)]
        for names in by_length.values()
        for at, name in enumerate(names)
    }


def _holds(event: FaultEvent, since_us: int) -> bool:
    return since_us >= event.at_us and (event.end_us is None or since_us < event.end_us)


def _renamed(data: bytes, node: str, other: str) -> bytes:
    """The record with another name in its place behind the fixed header."""
    head = data[:_HEADER_BYTES] + tag(7, 2) + varint(len(node.encode()))
    rest = data[len(head) + len(node.encode()) :]
    return head + other.encode() + rest
