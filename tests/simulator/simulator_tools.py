"""What the simulator's tests share: hand-written records and sites of a few slots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.wire import encode
from collectors.simulator.observable import ObservableTruth, RowKey
from collectors.simulator.oracle import Oracle

S = 1_000_000
HOUR = 3600 * S
H = 500_000 * HOUR
"""An hour's start."""
NODE, SLOT = "n1", 0x1B00
SLOT_TEXT = "0000:1b:00.0"
ABSENT = COUNTER_ABSENT
STATES = ("active_us", "idle_us", "down_us", "unobserved_us")


def site(
    *, slots: tuple[int, ...] = (SLOT,), from_us: int = 0, to_us: int | None = None
) -> Inventory:
    node = InstalledNode(NODE, "h", "r", "H800-SXM", slots, 0.9894, from_us, to_us)
    return Inventory("t", "Test", "UTC", "FP16", "dense", "tensor", (node,))


def sample(
    time_us: int,
    *,
    run: int = 1,
    sequence: int | None = None,
    epoch: int = 0,
    energy_epoch: int = 9,
    **counters: int,
) -> bytes:
    """A record of one slot; observed, down and active come as 0 where any of them is given."""
    if counters.keys() & {"observed_us", "down_us", "active_us"}:
        counters = {"observed_us": 0, "down_us": 0, "active_us": 0} | counters
    return encode(
        NodeRecord(
            NODE, Origin.SIMULATED, run, time_us if sequence is None else sequence, time_us, epoch,
            [SLOT], [energy_epoch], {name: [value] for name, value in counters.items()},
        )
    )  # fmt: skip


def claim(id_: str, from_us: int, to_us: int | None = None, **more: Any) -> bytes:
    told = {
        "source": "x", "id": id_, "tenant": f"t-{id_}", "project": "p", "job": id_,
        "subjects": [{"node": NODE, "slots": [SLOT_TEXT]}], "from_us": from_us, "to_us": to_us,
    }  # fmt: skip
    return json.dumps(told | more).encode()


def ask(
    records: Sequence[bytes],
    *claims: bytes,
    inventory: Inventory | None = None,
    hours: range | None = None,
) -> ObservableTruth:
    """The oracle's answer where every record came at once."""
    oracle = Oracle(site() if inventory is None else inventory)
    for record in records:
        oracle.add_record(record, int.from_bytes(record[29:37], "little"))
    for told in claims:
        oracle.add_allocation(told)
    return oracle.finish(hours)


def key(hour: int, kind: str = "unallocated", name: str = "") -> RowKey:
    """The row of an owner in an hour counted from `H`; a tenant by its claim's id."""
    if kind == "tenant":
        return RowKey(H // HOUR + hour, NODE, SLOT, kind, f"t-{name}", "p", name)
    return RowKey(H // HOUR + hour, NODE, SLOT, kind, "", "", "")
