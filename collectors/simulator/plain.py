"""Reads records for the oracle, field by field, and keeps what counts of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from collectors.contract.catalogue import CATALOGUE, COUNTER_LIMIT, Kind
from collectors.contract.record import SCHEMA_VERSION
from collectors.contract.wire import MAX_SLOTS, parse

MINUTE_US = 60_000_000
STATE = ("observed_us", "down_us", "active_us")
ENERGY = "energy_mj"
_HEADER = struct.Struct("<BIBIBQBQBQBQ")
_HEADER_TAGS = (0x0D, 0x15, 0x19, 0x21, 0x29, 0x31)
_NODE, _SLOTS, _EPOCHS = 7, 8, 9


class PlainRecord(NamedTuple):
    """What the ledger needs of a record.  `counters` holds a tuple per name, one value per slot."""

    node: str
    origin: int
    run: int
    sequence: int
    time_us: int
    label_epoch: int
    slots: tuple[int, ...]
    energy_epochs: tuple[int, ...]
    counters: dict[str, tuple[int, ...]]


def read_record(data: bytes) -> PlainRecord:
    """Reads a record; raises BrokenRecordError where `wire.parse` does.

    The usual shape (every field once, in order, without labels) is read here;
    anything else is left to the ordinary parser.
    """
    return _Reader(data).record() or read_ordinary(data)


class _Reader:
    """One pass over a record of the usual shape."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def record(self) -> PlainRecord | None:
        """The record, or None where the shape is unusual."""
        data = self._data
        if len(data) < _HEADER.size:
            return None
        head = _HEADER.unpack_from(data)
        if head[::2] != _HEADER_TAGS or head[1] != SCHEMA_VERSION or head[3] not in {1, 2, 3}:
            return None
        try:
            fields = self._fields()
            node = data[slice(*fields.pop(_NODE))].decode() if fields else ""
            slots = self._longs(fields.pop(_SLOTS)) if node else ()
            epochs = self._longs(fields.pop(_EPOCHS)) if slots else ()
            counters = self._counters(fields, len(slots))
        except (KeyError, ValueError, IndexError, struct.error):
            return None
        if not 0 < len(slots) <= MAX_SLOTS or len(set(slots)) != len(slots):
            return None
        if len(epochs) != len(slots) or counters is None:
            return None
        return PlainRecord(
            node, head[3], head[5], head[7], head[9], head[11], slots, epochs, counters
        )

    def _fields(self) -> dict[int, tuple[int, int]]:
        """Where each field's payload begins and ends; empty where the order is unusual."""
        data, at, end, last = self._data, _HEADER.size, len(self._data), 6
        out: dict[int, tuple[int, int]] = {}
        while at < end:
            key = data[at]
            at += 1
            if key > 0x7F:
                key, at = key & 0x7F | data[at] << 7, at + 1
            size = data[at]
            at += 1
            if size > 0x7F:
                size, at = size & 0x7F | data[at] << 7, at + 1
            number = key >> 3
            if key & 7 != 2 or number <= last or key > 0x3FFF or size > 0x3FFF:
                return {}
            out[number] = (at, at + size)
            at += size
            last = number
        return out if at == end else {}

    def _longs(self, span: tuple[int, int]) -> tuple[int, ...]:
        count = (span[1] - span[0]) // 8
        if count * 8 != span[1] - span[0]:
            raise ValueError("not whole 64-bit values")
        return struct.unpack_from(f"<{count}Q", self._data, span[0])

    def _counters(
        self, fields: dict[int, tuple[int, int]], count: int
    ) -> dict[str, tuple[int, ...]] | None:
        """The counters that are there; None where a field is unknown or not parallel to the slots."""
        out: dict[str, tuple[int, ...]] = {}
        for metric in CATALOGUE:
            span = fields.pop(metric.number, None)
            if span is None:
                continue
            size = 4 if metric.kind is Kind.GAUGE else 8
            if span[1] - span[0] != size * count:
                return None
            if size == 8:
                out[metric.name] = struct.unpack_from(f"<{count}Q", self._data, span[0])
        return None if fields else out


def read_ordinary(data: bytes) -> PlainRecord:
    """Reads a record of any shape with the ordinary parser; raises BrokenRecordError."""
    record = parse(data)
    counters: dict[str, tuple[int, ...]] = {}
    for metric in CATALOGUE.counters:
        if metric.name in record.values:
            counters[metric.name] = tuple(int(value) for value in record.values[metric.name])
    return PlainRecord(
        record.node, int(record.origin), record.run, record.sequence, record.time_us,
        record.label_epoch, tuple(record.slots), tuple(record.energy_epochs), counters,
    )  # fmt: skip


class Point(NamedTuple):
    """A counter's value at a time."""

    time_us: int
    value: int


Ends = tuple[Point, Point]


class MinuteKey(NamedTuple):
    """One slot's minute within a run and a label epoch."""

    node: str
    slot: int
    minute: int
    run: int
    label_epoch: int


class StatePoint(NamedTuple):
    """The three counters of a slot's state at a time."""

    time_us: int
    observed: int
    down: int
    active: int


@dataclass(slots=True)
class SlotPoints:
    """All kept points of one slot: by run, by (run, counter) and by energy epoch."""

    states: dict[int, set[StatePoint]] = field(default_factory=dict[int, set[StatePoint]])
    counters: dict[tuple[int, str], set[Point]] = field(
        default_factory=dict[tuple[int, str], set[Point]]
    )
    energy: dict[int, set[Point]] = field(default_factory=dict[int, set[Point]])
    hulls: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    origins: dict[int, int] = field(default_factory=dict[int, int])
    """The greatest origin of the points at a time."""

    def note(self, run: int, time_us: int, origin: int) -> None:
        """Widens the run's hull by a kept point."""
        low, high = self.hulls.get(run, (time_us, time_us))
        self.hulls[run] = (min(low, time_us), max(high, time_us))
        self.origins[time_us] = max(origin, self.origins.get(time_us, 0))


_Key = tuple[str, int, int, int]
_Ends = tuple[list[PlainRecord], list[PlainRecord]]


class KeptPoints:
    """Keeps, of each (node, minute, run, label epoch), the records that can hold a first or a last.

    Among records in which the same values are present only the earliest and
    the latest matter; all of equal time are kept, as ties go by value.
    """

    def __init__(self) -> None:
        self._kept: dict[_Key, dict[Any, _Ends]] = {}

    def add(self, record: PlainRecord) -> None:
        """Takes one valid record."""
        key = (record.node, record.time_us // MINUTE_US, record.run, record.label_epoch)
        ends = self._kept.setdefault(key, {}).setdefault(_pattern(record), ([], []))
        earliest, latest = ends
        if not earliest or record.time_us < earliest[0].time_us:
            earliest[:] = [record]
        elif record.time_us == earliest[0].time_us and record not in earliest:
            earliest.append(record)
        if not latest or record.time_us > latest[0].time_us:
            latest[:] = [record]
        elif record.time_us == latest[0].time_us and record not in latest:
            latest.append(record)

    def points(self) -> dict[tuple[str, int], SlotPoints]:
        """The kept points of every slot, by (node, slot)."""
        out: dict[tuple[str, int], SlotPoints] = {}
        for (node, _, run, _), patterns in self._kept.items():
            by_slot: dict[int, _MinutePoints] = {}
            for earliest, latest in patterns.values():
                for record in (*earliest, *latest):
                    for index, slot in enumerate(record.slots):
                        by_slot.setdefault(slot, _MinutePoints()).take(record, index)
            for slot, minute in by_slot.items():
                minute.give(run, out.setdefault((node, slot), SlotPoints()))
        return out

    def minutes(self) -> Iterator[tuple[MinuteKey, dict[str, Ends]]]:
        """Of every slot's minute the first and last point of each counter that it has."""
        for (node, minute, run, label_epoch), patterns in self._kept.items():
            by_slot: dict[int, _MinutePoints] = {}
            for earliest, latest in patterns.values():
                for record in (*earliest, *latest):
                    for index, slot in enumerate(record.slots):
                        by_slot.setdefault(slot, _MinutePoints()).take(record, index)
            for slot, points in by_slot.items():
                yield MinuteKey(node, slot, minute, run, label_epoch), points.ends()


def _pattern(record: PlainRecord) -> Any:
    """Which values a record holds: equal patterns have every value in the same places."""
    holes = tuple(
        (name, tuple(index for index, value in enumerate(values) if value >= COUNTER_LIMIT))
        for name, values in record.counters.items()
        if max(values) >= COUNTER_LIMIT
    )
    return record.slots, tuple(record.counters), holes


class _MinutePoints:
    """First and last points of one slot in one minute, run and label epoch."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def take(self, record: PlainRecord, index: int) -> None:
        """Considers a record's values for the slot at `index`."""
        absent = {
            name for name in STATE
            if name not in record.counters or record.counters[name][index] >= COUNTER_LIMIT
        }  # fmt: skip
        for name, values in record.counters.items():
            value = values[index]
            if value >= COUNTER_LIMIT or (absent and name in STATE):
                continue
            point = (record.time_us, value, record.origin, record.energy_epochs[index])
            first, last = self._ends.get(name, (point, point))
            self._ends[name] = (min(first, point), max(last, point))

    def ends(self) -> dict[str, Ends]:
        """First and last point of each counter."""
        return {
            name: (Point(first[0], first[1]), Point(last[0], last[1]))
            for name, (first, last) in self._ends.items()
        }

    def give(self, run: int, slot: SlotPoints) -> None:
        """Adds the points to the slot's."""
        for name, ends in self._ends.items():
            for time_us, value, origin, epoch in ends:
                slot.note(run, time_us, origin)
                if name == ENERGY:
                    slot.energy.setdefault(epoch, set()).add(Point(time_us, value))
                elif name not in STATE:
                    slot.counters.setdefault((run, name), set()).add(Point(time_us, value))
        if STATE[0] in self._ends:
            for which in (0, 1):
                at_us = self._ends[STATE[0]][which][0]
                values = (self._ends[name][which][1] for name in STATE)
                slot.states.setdefault(run, set()).add(StatePoint(at_us, *values))
