"""Which NVML fields serve which catalogue rows under a driver's branch: pure functions."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

from collectors.contract.catalogue import CallRead, FieldRead, Kind, Metric

ALL_LINKS = 0xFFFFFFFF
"""The scope of a field that is then summed over all NVLinks."""
UNSIGNED_32 = 0xFFFFFFFF
"""How drivers write that an unsigned number has no value."""
BLANK_64 = 9_220_000_000_000_000_000
"""Data-centre libraries write "no value" as 2⁶³ − 2⁴ and thereabouts, or as 2⁶⁴ − 1."""
_DOUBLE, _UINT, _ULONG, _ULONGLONG, _SLLONG, _SINT, _USHORT = range(7)

_TRAFFIC: dict[str, tuple[tuple[int, int, int], ...]] = {
    "pcie_tx_bytes": ((197, 0, 1),),
    "pcie_rx_bytes": ((198, 0, 1),),
    "nvlink_tx_bytes": ((138, ALL_LINKS, 1024), (202, ALL_LINKS, 1)),
    "nvlink_rx_bytes": ((139, ALL_LINKS, 1024), (204, ALL_LINKS, 1)),
}
"""Rows that are a field on some GPUs and something else on others: (field, scope, factor),
the better one first.  202 and 204 are those of NVLink 5."""
TRAFFIC = frozenset(_TRAFFIC)


@dataclass(frozen=True, slots=True)
class PlannedField:
    """One field of the batch and the metric it becomes.

    NVML counts in thousandths (mW, ns) or in whole units: `divisor` brings its
    integers to the catalogue's unit, exactly for counters.  What lies outside
    `low` to `high` then is no value.
    """

    metric: str
    field: int
    scope: int
    divisor: int
    factor: int
    counter: bool
    low: float = -math.inf
    high: float = math.inf
    every_s: float = 0.0
    others: tuple[tuple[int, int, int], ...] = ()
    """(field, scope, factor) to try where the device does not give this one."""

    def convert(self, raw: float) -> float | None:
        """The value of a finite one in the catalogue's unit: int for a counter, float for a
        gauge; None outside the range."""
        if self.counter:
            value = int(raw) * self.factor // self.divisor
        else:
            value = raw * self.factor / self.divisor
        return value if self.low <= value <= self.high else None

    def next(self) -> PlannedField | None:
        """The field to try instead, None after the last."""
        if not self.others:
            return None
        (field, scope, factor), *rest = self.others
        return replace(self, field=field, scope=scope, factor=factor, others=tuple(rest))


def raw_value(kind: int, bits: int) -> float | None:
    """The value in a field's eight bytes by its NVML_VALUE_TYPE; None for the ways in which
    drivers write that there is none, and for types that are not known."""
    if kind in (_ULONGLONG, _ULONG):  # a tuple of names: a set would be made each time
        return None if bits >= BLANK_64 or bits == UNSIGNED_32 else bits
    if kind == _UINT:
        value = bits & UNSIGNED_32
        return None if value == UNSIGNED_32 else value
    if kind == _USHORT:
        value = bits & 0xFFFF
        return None if value == 0xFFFF else value
    return _signed_or_double(kind, bits)


def _signed_or_double(kind: int, bits: int) -> float | None:
    if kind == _DOUBLE:
        return _finite(struct.unpack("=d", struct.pack("=Q", bits))[0])
    if kind == _SINT:
        signed = (bits & UNSIGNED_32) - ((bits & 0x80000000) << 1)
        return None if signed in {0x7FFFFFFF, -0x80000000} else signed
    if kind == _SLLONG:
        wide = bits - ((bits >> 63) << 64)
        return None if abs(wide) >= BLANK_64 else wide
    return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) and abs(value) < BLANK_64 else None


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
    return [planned for metric in metrics if (planned := _plan(metric, branch)) is not None]


def _plan(metric: Metric, branch: tuple[int, int]) -> PlannedField | None:
    read, (low, high) = metric.read, metric.valid
    counter = metric.kind is Kind.COUNTER
    if isinstance(read, FieldRead):
        number = field_id(read, branch)
        if number is None:
            return None
        return PlannedField(
            metric.name, number, read.scope, max(1, round(1 / read.scale)),
            max(1, round(read.scale)), counter, low, high, metric.every_s,
        )  # fmt: skip
    if isinstance(read, CallRead) and read.method in _TRAFFIC:
        (field, scope, factor), *others = _TRAFFIC[read.method]
        return PlannedField(
            metric.name, field, scope, 1, factor, counter, every_s=metric.every_s,
            low=low, others=tuple(others),
        )  # fmt: skip
    return None
