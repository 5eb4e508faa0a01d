"""A node record as one JSON line for people and programs: `--stdout`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind
from collectors.contract.identity import slot_text
from collectors.contract.record import NodeRecord, SlotLabels

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso_time(time_us: int) -> str:
    """ISO 8601 in UTC, to the millisecond, or to the microsecond where it is not whole."""
    unit = "milliseconds" if time_us % 1000 == 0 else "microseconds"
    moment = _EPOCH + timedelta(microseconds=time_us)
    return moment.isoformat(timespec=unit).replace("+00:00", "Z")


def record_line(record: NodeRecord, labels: Mapping[int, SlotLabels]) -> bytes:
    """`{"time", "node", "gpus": [{"slot", "uuid", "model", <catalogue name>: value, …}]}`.

    Absent values and empty labels are left out.
    """
    gpus: list[dict[str, object]] = []
    for position, slot in enumerate(record.slots):
        gpu: dict[str, object] = {"slot": slot_text(slot)}
        label = labels.get(slot)
        if label is not None:
            named = (("uuid", label.uuid), ("model", label.model))
            gpu.update((name, text) for name, text in named if text)
        gpu.update(_values(record, position))
        gpus.append(gpu)
    return msgspec.json.encode(
        {"time": iso_time(record.time_us), "node": record.node, "gpus": gpus}
    )


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
