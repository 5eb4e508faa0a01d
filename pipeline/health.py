"""What a role says of itself: named counters and gauges, published for the API to show.

A role owns one `HealthBoard`, counts on it from any thread, and runs
`publish_health` beside its work.  A role in another process is seen the same
way as one in the API's own, through the records on `petawatch.live`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock
from typing import Any

import msgspec

from collectors.contract.bus import Bus, BusUnavailableError, Message, Producer, RefusedError
from collectors.kit.clock import Clock

KEY_PREFIX = "health:"
"""Records of `petawatch.live` whose key begins so are health records."""

SENT, STORED, REJECTED = "records_sent", "records_stored", "records_rejected"
DROPPED, IN_FLIGHT, REPEATED = "records_dropped", "records_in_flight", "records_repeated"
BALANCE = (SENT, STORED, REJECTED, DROPPED, IN_FLIGHT, REPEATED)
"""The terms of law 6, each with the label `node`: over distinct (run, sequence)
sent = stored + rejected + dropped + in flight; repeats are counted beside it."""
LAG_RECORDS, LAG_S = "lag_records", "lag_s"
"""How far a consumer is behind, with the labels `topic` and `partition`."""
CLOCK_OFFSET_US = "clock_offset_us"
"""Bus time minus event time of a node, robust, with the label `node`."""

Number = int | float
_Labels = tuple[tuple[str, str], ...]


class Row(msgspec.Struct, frozen=True):
    """One value with its labels."""

    labels: dict[str, str]
    value: Number


class HealthRecord(msgspec.Struct, frozen=True):
    """A board as it is published; `values` maps a name to its rows."""

    role: str
    instance: str
    started_us: int
    time_us: int
    values: dict[str, list[Row]]

    @property
    def key(self) -> bytes:
        """The record's key on the bus."""
        return f"{KEY_PREFIX}{self.role}:{self.instance}".encode()


class HealthBoard:
    """Counters and gauges by (name, labels); safe to use from several threads."""

    def __init__(self, role: str, instance: str, clock: Clock) -> None:
        self.role = role
        self.instance = instance
        self._clock = clock
        self._started_us = clock.wall_us()
        self._values: dict[str, dict[_Labels, Number]] = {}
        self._lock = Lock()

    def add(self, name: str, n: Number = 1, **labels: str | int) -> None:
        """Counts on; a new counter begins at zero."""
        key = _labels(labels)
        with self._lock:
            rows = self._values.setdefault(name, {})
            rows[key] = rows.get(key, 0) + n

    def set(self, name: str, value: Number, **labels: str | int) -> None:
        """Sets a gauge."""
        with self._lock:
            self._values.setdefault(name, {})[_labels(labels)] = value

    def set_all(self, name: str, label: str, values: Mapping[str, Number]) -> None:
        """Replaces all rows of a name by one per key of `values`, in one step: for per-node figures."""
        rows: dict[_Labels, Number] = {((label, key),): value for key, value in values.items()}
        with self._lock:
            self._values[name] = rows

    def remove(self, name: str, **labels: str | int) -> None:
        """Forgets a row, as when a partition has gone to another worker."""
        with self._lock:
            self._values.get(name, {}).pop(_labels(labels), None)

    def value(self, name: str, **labels: str | int) -> Number | None:
        """The present value, None where nothing was counted."""
        with self._lock:
            return self._values.get(name, {}).get(_labels(labels))

    def total(self, name: str) -> Number:
        """The sum over all labels."""
        with self._lock:
            return sum(self._values.get(name, {}).values())

    def record(self) -> HealthRecord:
        """The board as it is now."""
        with self._lock:
            values = {
                name: [Row(dict(labels), value) for labels, value in rows.items()]
                for name, rows in self._values.items()
            }
        return HealthRecord(
            self.role, self.instance, self._started_us, self._clock.wall_us(), values
        )

    def snapshot(self) -> dict[str, Any]:
        """`record` as plain dicts and lists, as it goes out in JSON."""
        return msgspec.to_builtins(self.record())


def _labels(labels: Mapping[str, str | int]) -> _Labels:
    return tuple(sorted((name, str(value)) for name, value in labels.items()))


def parse_health(payload: bytes) -> HealthRecord:
    """Reads a published board.  Raises msgspec.DecodeError or ValidationError."""
    return msgspec.json.decode(payload, type=HealthRecord)


async def publish_health(
    board: HealthBoard, bus: Bus, topic: str, stop: asyncio.Event, *, interval_s: float = 5.0
) -> None:
    """Sends the board every `interval_s` and once more at the end.

    An absent bus costs the reading alone: it is counted (`health_unsent`) and
    tried again, since the role's own work must not wait for its report.
    """
    producer: Producer | None = None
    try:
        while True:
            stopping = stop.is_set()
            try:
                producer = producer or await _started(bus)
                record = board.record()
                await producer.send([Message(topic, record.key, msgspec.json.encode(record))])
            except (BusUnavailableError, RefusedError):
                board.add("health_unsent")
            if stopping:
                return
            await _wait(stop, interval_s)
    finally:
        if producer is not None:
            await producer.stop()


async def _started(bus: Bus) -> Producer:
    producer = bus.producer()
    await producer.start()
    return producer


async def _wait(stop: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await stop.wait()
