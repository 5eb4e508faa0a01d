"""The observable truth: what the records that were sent can say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

Row = dict[str, int]
K = TypeVar("K")


class RowKey(NamedTuple):
    """What a ledger row is about; `hour` counts from 1970 UTC, `slot` is packed."""

    hour: int
    node: str
    slot: int
    owner_kind: str
    tenant: str
    project: str
    job: str


@dataclass(frozen=True, slots=True)
class ObservableTruth:
    """Samples per node, refused records by reason, and the hour ledger.

    `samples` counts distinct (run, sequence).  A row holds µs per state, mJ,
    GFLOP with bounds, throttled µs by reason, and `origin`.
    """

    samples: Mapping[str, int]
    rejected: Mapping[str, int]
    rows: Mapping[RowKey, Row]
    repeated: int = 0
    """Records that had come before: the same run and sequence of a node."""

    def totals(self) -> dict[str, int]:
        """Every figure summed over all rows."""
        return _sum(self.rows, lambda _: "").get("", {})

    def by_tenant(self) -> dict[tuple[str, str], Row]:
        """Every figure summed per (owner kind, tenant)."""
        return _sum(self.rows, lambda key: (key.owner_kind, key.tenant))

    def by_hour(self) -> dict[int, Row]:
        """Every figure summed per hour."""
        return _sum(self.rows, lambda key: key.hour)


def _sum(rows: Mapping[RowKey, Row], group: Callable[[RowKey], K]) -> dict[K, Row]:
    out: dict[K, Row] = {}
    for key, row in rows.items():
        total = out.setdefault(group(key), {})
        for name, value in row.items():
            if name != "origin":
                total[name] = total.get(name, 0) + value
    return out
