"""What an agent finds out as JSON lines for people and programs: `--stdout`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind
from collectors.contract.facts import NodeFacts
from collectors.contract.identity import pack_slot, slot_text, unpack_slot
from collectors.contract.record import NodeRecord, SlotLabels
from collectors.contract.topics import Allocation, Event

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso_time(time_us: int) -> str:
    """ISO 8601 in UTC, to the millisecond, or to the microsecond where it is not whole."""
    unit = "milliseconds" if time_us % 1000 == 0 else "microseconds"
    moment = _EPOCH + timedelta(microseconds=time_us)
    return moment.isoformat(timespec=unit).replace("+00:00", "Z")


def record_line(record: NodeRecord, labels: Mapping[int, SlotLabels]) -> bytes:
    """`{"time", "node", "gpus": [{"slot", "uuid", "model", <catalogue name>: value, …}]}`.

    A MIG instance names its GPU's slot as `parent`.  Absent values and empty
    labels are left out.
    """
    gpus: list[dict[str, object]] = []
    for position, slot in enumerate(record.slots):
        gpu: dict[str, object] = {"slot": slot_text(slot)}
        place = unpack_slot(slot)
        if place.gi >= 0:
            gpu["parent"] = slot_text(pack_slot(place._replace(gi=-1, ci=-1)))
        label = labels.get(slot)
        if label is not None:
            named = (("uuid", label.uuid), ("model", label.model), ("occupant", label.occupant))
            gpu.update((name, text) for name, text in named if text)
        gpu.update(_values(record, position))
        gpus.append(gpu)
    return _line(record.time_us, record.node, "gpus", gpus)


def event_line(event: Event) -> bytes:
    """`{"time", "node", "event": {"kind", …}}`."""
    return _line(event.time_us, event.node, "event", _rest(event, "time_us", "node"))


def facts_line(facts: NodeFacts) -> bytes:
    """`{"time", "node", "facts": {…}}`."""
    return _line(facts.time_us, facts.node, "facts", _rest(facts, "time_us", "node"))


def allocation_line(allocation: Allocation, node: str) -> bytes:
    """`{"time", "node", "allocation": {…}}`; the time is when it began."""
    return _line(allocation.from_us, node, "allocation", _rest(allocation))


def _line(time_us: int, node: str, name: str, value: object) -> bytes:
    return msgspec.json.encode({"time": iso_time(time_us), "node": node, name: value})


def _rest(struct: msgspec.Struct, *but: str) -> dict[str, object]:
    return {name: value for name, value in msgspec.to_builtins(struct).items() if name not in but}


def _values(record: NodeRecord, position: int) -> dict[str, float]:
    out: dict[str, float] = {}
    for metric in CATALOGUE:
        column = record.values.get(metric.name)
        if column is None:
            continue
        value = column[position]
        absent = value == COUNTER_ABSENT if metric.kind is Kind.COUNTER else value != value  # noqa: PLR0124 - NaN is absent
        if not absent:
            out[metric.name] = value
    return out
