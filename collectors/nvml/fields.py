"""Which NVML fields serve which catalogue rows under a driver's branch: pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from collectors.contract.catalogue import FieldRead, Kind, Metric


@dataclass(frozen=True, slots=True)
class PlannedField:
    """One field of the batch and the metric it becomes.

    NVML counts in thousandths (mW, ns) or in whole units: `divisor` brings its
    integers to the catalogue's unit, exactly for counters.
    """

    metric: str
    field: int
    scope: int
    divisor: int
    factor: int
    counter: bool

    def convert(self, raw: float) -> float:
        """The value in the catalogue's unit: int for a counter, float for a gauge."""
        if self.counter:
            return int(raw) * self.factor // self.divisor
        return raw * self.factor / self.divisor


def driver_branch(version: str) -> tuple[int, int]:
    """(580, 95) of `580.95.05`; (0, 0) where it cannot be read."""
    parts = version.split(".")
    try:
        return int(parts[0]), int(parts[1]) if len(parts) > 1 else 0
    except ValueError:
        return 0, 0


def field_id(read: FieldRead, branch: tuple[int, int]) -> int | None:
    """The field's id in this branch, None where the branch has none."""
    found = read.field
    for since, field in read.branches:
        if since <= branch:
            found = field
    return found


def plan_fields(metrics: Iterable[Metric], branch: tuple[int, int]) -> list[PlannedField]:
    """The batch for a driver: every row read by a field that this branch has."""
    plan: list[PlannedField] = []
    for metric in metrics:
        read = metric.read
        number = field_id(read, branch) if isinstance(read, FieldRead) else None
        if isinstance(read, FieldRead) and number is not None:
            divisor = max(1, round(1 / read.scale))
            factor = max(1, round(read.scale))
            counter = metric.kind is Kind.COUNTER
            plan.append(PlannedField(metric.name, number, read.scope, divisor, factor, counter))
    return plan
