"""What the ledger says: one row per (hour, slot, owner), as columns of integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collectors.contract.identity import slot_text
from pipeline.books.claims import Owner

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
U8 = NDArray[np.uint8]

HOUR_US = 3_600_000_000
HOUR_MINUTES = 60

STATES = ("active_us", "idle_us", "down_us", "unobserved_us")
"""The states of a slot, in µs; a row's sum is the time its owner had the slot in the hour."""
STATE_COUNTERS = ("observed_us", "down_us", "active_us")
"""The counters that states come from; they come together or not at all."""
ENERGY = "energy_mj"
COUNTERS = (
    ENERGY,
    "gflop",
    "gflop_lo",
    "gflop_hi",
    "gflop_estimated",
    "throttle_power_cap_us",
    "throttle_sw_thermal_us",
    "throttle_hw_thermal_us",
    "throttle_power_brake_us",
    "throttle_sync_boost_us",
)
"""The other integers of a row, by the catalogue's names and in its units."""
FIGURES = STATES + COUNTERS
KEY = ("hour", "node", "slot", "owner_kind", "tenant", "project", "job")

RowKey = tuple[int, str, int, str, str, str, str]
"""Values of `KEY`, the slot packed."""


@dataclass(frozen=True, slots=True)
class LedgerRows:
    """Columns of N: one row per (hour, node, slot, owner).

    `hour` counts from 1970 UTC, `node` indexes `nodes`, `owner` indexes
    `owners`, `origin` is 1 measured, 2 replayed, 3 simulated, 0 without any
    point.  `figures` holds an int64 column per name of `FIGURES`.
    """

    nodes: Sequence[str]
    owners: Sequence[Owner]
    hour: I64
    node: I32
    slot: U64
    owner: I32
    origin: U8
    figures: Mapping[str, I64]

    def __len__(self) -> int:
        return len(self.hour)

    def within(self, hours: range) -> LedgerRows:
        """The rows of some hours."""
        there = (self.hour >= hours.start) & (self.hour < hours.stop)
        return LedgerRows(
            self.nodes,
            self.owners,
            self.hour[there],
            self.node[there],
            self.slot[there],
            self.owner[there],
            self.origin[there],
            {name: column[there] for name, column in self.figures.items()},
        )

    def by_key(self) -> dict[RowKey, dict[str, int]]:
        """Every row as plain integers, `origin` among them; for comparison and small answers."""
        columns = {name: column.tolist() for name, column in self.figures.items()}
        columns["origin"] = self.origin.tolist()
        result: dict[RowKey, dict[str, int]] = {}
        keys = zip(
            self.hour.tolist(),
            self.node.tolist(),
            self.slot.tolist(),
            self.owner.tolist(),
            strict=True,
        )
        for index, (hour, node, slot, owner) in enumerate(keys):
            kind, tenant, project, job = self.owners[int(owner)]
            key = (int(hour), str(self.nodes[int(node)]), int(slot), kind, tenant, project, job)
            result[key] = {name: column[index] for name, column in columns.items()}
        return result

    def slot_texts(self) -> list[str]:
        """The slot of each row as text."""
        distinct, place = np.unique(self.slot, return_inverse=True)
        texts = [slot_text(slot) for slot in distinct.tolist()]
        return [texts[index] for index in place.tolist()]
