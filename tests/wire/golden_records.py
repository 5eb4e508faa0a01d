"""The golden records: written once, kept in `golden/`, decoded for ever.

`python tests/wire/golden_records.py` writes those that are not there yet; it
never changes one, since what it holds is what agents in the field have sent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind
from collectors.contract.identity import Slot, pack_slot
from collectors.contract.record import NodeRecord, Origin, SlotLabels
from collectors.contract.wire import encode, parse

FOLDER = Path(__file__).with_name("golden")
START_US = 1_790_000_000_000_000
RUN = (START_US // 1000) << 20 | 0xBEEF5


def _slots(count: int) -> list[int]:
    return [pack_slot(Slot(0, 0x10 + index, 0, 0)) for index in range(count)]


def _whole(count: int) -> dict[str, list[float]]:
    """Every metric of today's catalogue, each value its own."""
    values: dict[str, list[float]] = {}
    for metric in CATALOGUE:
        low, high = metric.valid
        if metric.kind is Kind.GAUGE:
            span = min(high, 1000.0) - max(low, 0.0)
            values[metric.name] = [
                max(low, 0.0) + span * (i + 1) / (count + 2) for i in range(count)
            ]
        else:
            values[metric.name] = [metric.number * 10**9 + i for i in range(count)]
    return values


def _labels(slots: list[int], occupant: str = "") -> list[SlotLabels]:
    return [
        SlotLabels(
            slot, f"GPU-{slot:012x}", "NVIDIA H100 80GB HBM3", f"16529230{index:05d}", occupant
        )
        for index, slot in enumerate(slots)
    ]


def _record(
    node: str, slots: list[int], values: Mapping[str, Sequence[float]], **more: Any
) -> NodeRecord:
    fields: dict[str, Any] = {
        "origin": Origin.MEASURED, "run": RUN, "sequence": 0, "time_us": START_US,
        "label_epoch": 0, "energy_epochs": [(slot * 0x9E3779B97F4A7C15) % 2**64 for slot in slots],
        "labels": [],
    }  # fmt: skip
    return NodeRecord(node=node, slots=slots, values=values, **(fields | more))


def _full() -> NodeRecord:
    slots = _slots(8)
    return _record("a03n05", slots, _whole(8), labels=_labels(slots, "job-4711"))


def _usual() -> NodeRecord:
    return _record("a03n05", _slots(8), _whole(8), sequence=1, time_us=START_US + 1_000_003)


def _absent() -> NodeRecord:
    """One slot lost: no gauge, counters absent but the agent's own; other metrics missing."""
    values = {
        "power_w": [390.78, math.nan], "gpu_utilization": [0.97, math.nan],
        "energy_mj": [123_456_789, COUNTER_ABSENT], "active_us": [1_000_000, 0],
        "observed_us": [1_000_000, 0], "down_us": [0, 1_000_000],
        "throttle_power_cap_us": [COUNTER_ABSENT, COUNTER_ABSENT],
    }  # fmt: skip
    return _record("n", _slots(2), values, sequence=2**40, label_epoch=3)


def _mig() -> NodeRecord:
    parent = Slot(0x10001, 0xDF, 0, 0)
    slots = [pack_slot(parent)] + [pack_slot(parent._replace(gi=gi, ci=0)) for gi in (3, 4, 5, 13)]
    values = {
        "power_w": [67.03] + [math.nan] * 4,
        "memory_used_bytes": [50 * 2**20] + [12 * 2**20] * 4,
        "observed_us": [0] * 5, "active_us": [0] * 5, "down_us": [0] * 5,
    }  # fmt: skip
    labels = [SlotLabels(slots[0], "GPU-a", "NVIDIA A100-SXM4-80GB", "1650522003820")]
    labels += [SlotLabels(slot, f"MIG-{slot:x}") for slot in slots[1:]]
    return _record("mig-node", slots, values, labels=labels, label_epoch=1)


def _replayed() -> NodeRecord:
    values = {
        "power_w": [390.78], "gpu_temperature_c": [42.0], "gpu_utilization": [1.0],
        "energy_mj": [0], "active_us": [0], "observed_us": [0], "down_us": [0],
    }  # fmt: skip
    return _record("g150", _slots(1), values, origin=Origin.REPLAYED)


def _simulated() -> NodeRecord:
    return _record("b12n08", _slots(16), _whole(16), origin=Origin.SIMULATED, sequence=599)


def _extremes() -> NodeRecord:
    """The largest counters, zero, a denormal and the largest float, a name that is not ASCII."""
    values = {
        "power_w": [0.0, -0.0, 1e-45, 3.4028234663852886e38],
        "energy_mj": [0, 1, 2**53 - 1, 2**64 - 2],
    }
    return _record(
        "節点-β", _slots(4), values, run=2**64 - 1, sequence=2**64 - 1, time_us=2**53, label_epoch=2**32,
        labels=[SlotLabels(_slots(1)[0], occupant="工作")],
    )  # fmt: skip


def _bare() -> NodeRecord:
    """Slots and no metric at all: known, and nothing could be read in the first tick."""
    return _record("n0", _slots(3), {})


GOLDEN: Mapping[str, Callable[[], NodeRecord]] = {
    "full": _full, "usual": _usual, "absent": _absent, "mig": _mig, "replayed": _replayed,
    "simulated": _simulated, "extremes": _extremes, "bare": _bare,
}  # fmt: skip


def plain(record: NodeRecord) -> dict[str, Any]:
    """A record as JSON holds it: integers above 2^53 and absent values as text."""
    return {
        "node": record.node, "origin": int(record.origin), "run": str(record.run),
        "sequence": str(record.sequence), "time_us": record.time_us,
        "label_epoch": record.label_epoch, "slots": [str(slot) for slot in record.slots],
        "energy_epochs": [str(epoch) for epoch in record.energy_epochs],
        "values": {
            name: [str(value) if isinstance(value, int) or value != value else value for value in column]  # noqa: PLR0124 - NaN is absent
            for name, column in record.values.items()
        },
        "labels": [
            [str(label.slot), label.uuid, label.model, label.serial, label.occupant]
            for label in record.labels
        ],
    }  # fmt: skip


def write_missing() -> None:
    """Writes records that are not there yet: bytes, and what they say."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in GOLDEN.items():
        path = FOLDER / f"{name}.bin"
        if not path.exists():
            path.write_bytes(encode(make()))
            said = json.dumps(plain(parse(path.read_bytes())), ensure_ascii=False, indent=1)
            path.with_suffix(".json").write_text(said + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_missing()
