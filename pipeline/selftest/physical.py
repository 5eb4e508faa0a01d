"""The ledger against what really happened: GPU-time exactly, work and energy within bounds.

The physical truth is the simulator's own account, which no record can change.
What the ledger itself states of its figures is the bound where records were
lost: `gflop_lo` and `gflop_hi`, and for time that was unobserved or down
anything from nothing to the model's peak (FLOP) or its board's limit (energy).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import msgspec

from collectors.contract.inventory import Inventory
from collectors.contract.models import find_model
from collectors.kit import plugins
from pipeline.books.rows import HOUR_US, STATES
from pipeline.books.totals import day_of
from pipeline.selftest.compare import Check, same

WITHIN = 0.005
"""Relative deviation of a tenant's day that is allowed beyond what the ledger states itself."""
LIES = frozenset(("clock_skew", "clock_drift", "false_name"))
"""A node that is wrong about when or who it is: no bound of a figure covers that, so the days of
tenants on such nodes are counted apart."""
_SHARE_US = len(STATES)
"""Each state's time of those who share a GPU is rounded by itself."""


class Happened(Protocol):
    """One owner in one hour; see `collectors.simulator.truth.PhysicalRow`."""

    @property
    def hour(self) -> int:
        """Since 1970 UTC."""
        ...

    @property
    def owner_kind(self) -> str:
        """As in the ledger."""
        ...

    @property
    def tenant(self) -> str:
        """As in the ledger."""
        ...

    @property
    def gpu_us(self) -> int:
        """GPUs held times the time within the simulation."""
        ...

    @property
    def gflop(self) -> float:
        """Done."""
        ...

    @property
    def gflop_shown(self) -> float:
        """What the measurement makes of it, where there is one."""
        ...

    @property
    def energy_mj(self) -> float:
        """Drawn."""
        ...


class Header(Protocol):
    """What was simulated."""

    @property
    def start_us(self) -> int:
        """First event time."""
        ...

    @property
    def end_us(self) -> int:
        """End, not included."""
        ...


class Place(Protocol):
    """Where a fault is."""

    @property
    def node(self) -> str:
        """The node's name."""
        ...


class Wrong(Protocol):
    """A fault of the hardware or of the telemetry."""

    @property
    def kind(self) -> str:
        """As in `petawatch simulate --list-faults`."""
        ...

    @property
    def subjects(self) -> Sequence[Place]:
        """Where."""
        ...


class Physical(Protocol):
    """What really happened; see `collectors.simulator.truth.PhysicalTruth`."""

    @property
    def header(self) -> Header:
        """What was simulated."""
        ...

    @property
    def rows(self) -> Sequence[Happened]:
        """Per hour and owner."""
        ...

    @property
    def faults(self) -> Sequence[Wrong]:
        """What was wrong, simulated on purpose."""
        ...


def read_physical(folder: Path) -> Physical:
    """What a simulation wrote down.  Raises MissingPartError, and FileNotFoundError."""
    read: Callable[[Path], Physical] = plugins.load("petawatch.oracle", "physical")
    return read(folder)


class Deviation(msgspec.Struct, frozen=True):
    """The day of a tenant that is furthest from the truth in one figure."""

    figure: str
    tenant: str
    day: str
    actual: float
    truth: float
    low: float
    high: float
    """What the ledger states: the truth must lie between."""
    relative: float
    ok: bool


@dataclass
class _Day:
    """One owner's day: sums of the ledger, and of the truth."""

    ledger: dict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))
    peak_gflop: float = 0.0
    """What the GPUs could have done in the time of which nothing is known."""
    limit_mj: float = 0.0
    gflop: float = 0.0
    gflop_shown: float = 0.0
    energy_mj: float = 0.0
    misled: bool = False


_Key = tuple[str, str, str]
"""Day, owner kind, tenant."""


def _days(
    physical: Physical, ledger: Mapping[Any, Mapping[str, int]], inventory: Inventory
) -> dict[_Key, _Day]:
    zone = ZoneInfo(inventory.time_zone)
    liars = {one.node for wrong in physical.faults if wrong.kind in LIES for one in wrong.subjects}
    days: dict[_Key, _Day] = defaultdict(_Day)
    for row in physical.rows:
        day = days[day_of(row.hour, zone), row.owner_kind, row.tenant]
        day.gflop += row.gflop
        day.gflop_shown += row.gflop_shown
        day.energy_mj += row.energy_mj
    node = {one.name: one for one in inventory.nodes}
    for (hour, name, _, kind, tenant, _, _), row in ledger.items():
        day = days[day_of(hour, zone), kind, tenant]
        day.misled |= name in liars
        for figure, value in row.items():
            day.ledger[figure] += value
        model = find_model(node[name].model)
        unknown_s = (row["unobserved_us"] + row["down_us"]) / 1e6
        if model is not None:
            day.peak_gflop += (model.fp16_tflops or 0.0) * 1e3 * unknown_s
            day.limit_mj += (model.tdp_w or 0.0) * 1e3 * unknown_s
    return days


def time_check(
    physical: Physical, ledger: Mapping[Any, Mapping[str, int]], inventory: Inventory
) -> Check:
    """Every owner's GPU-time in every hour, whatever became of the records."""
    told: dict[tuple[int, str, str], int] = defaultdict(int)
    slack: dict[tuple[int, str, str], int] = defaultdict(int)
    for (hour, _, _, kind, tenant, _, _), row in ledger.items():
        told[hour, kind, tenant] += sum(row[state] for state in STATES)
        slack[hour, kind, tenant] += _SHARE_US
    truth: dict[tuple[int, str, str], int] = defaultdict(int)
    for row in physical.rows:
        truth[row.hour, row.owner_kind, row.tenant] += row.gpu_us
    start_us, end_us = physical.header.start_us, physical.header.end_us
    for hour in {key[0] for key in told}:
        within_us = max(0, min((hour + 1) * HOUR_US, end_us) - max(hour * HOUR_US, start_us))
        outside_us = inventory.gpus(hour * HOUR_US) * (HOUR_US - within_us)
        truth[hour, "unallocated", ""] += outside_us
    differ = sum(abs(told[key] - truth[key]) > slack[key] for key in {*told, *truth})
    return same("owners and hours with another GPU-time than in truth", 0, differ)


class Bounds(msgspec.Struct, frozen=True):
    """Every tenant's days against the truth: those compared, those left out since a node of
    theirs lied, those outside of what the ledger states; and per figure the furthest off."""

    days: int
    misled: int
    outside: int
    worst: list[Deviation]


def bounds(
    physical: Physical, ledger: Mapping[Any, Mapping[str, int]], inventory: Inventory
) -> Bounds:
    """`gflop shown` and `energy_mj` must be within WITHIN of what the instruments showed, where
    the ledger does not itself say that time is unknown; `gflop`, what really was done, within
    `gflop_lo` and `gflop_hi` and that."""
    days = [
        (key, day)
        for key, day in sorted(_days(physical, ledger, inventory).items(), key=itemgetter(0))
        if key[1] == "tenant"
    ]
    judged = [one for key, day in days if not day.misled for one in _judged(key, day)]
    worst: dict[str, Deviation] = {}
    for one in judged:
        if one.figure not in worst or _distance(one) > _distance(worst[one.figure]):
            worst[one.figure] = one
    outside = len({(one.day, one.tenant) for one in judged if not one.ok})
    misled = sum(day.misled for _, day in days)
    return Bounds(len(days) - misled, misled, outside, list(worst.values()))


def _distance(one: Deviation) -> tuple[bool, float]:
    return not one.ok, abs(one.relative)


def _judged(key: _Key, day: _Day) -> Iterator[Deviation]:
    said, (date, _, tenant) = day.ledger, key
    for figure, actual, truth, low, high, more in (
        (
            "gflop shown",
            said["gflop"],
            day.gflop_shown,
            said["gflop"],
            said["gflop"],
            day.peak_gflop,
        ),
        ("energy_mj", *(said["energy_mj"], day.energy_mj), *(said["energy_mj"],) * 2, day.limit_mj),
        ("gflop", said["gflop"], day.gflop, said["gflop_lo"], said["gflop_hi"], day.peak_gflop),
    ):
        if figure == "gflop" and said["gflop_estimated"]:
            # What is estimated has no bound, and is not in the headline.
            continue
        relative = (actual - truth) / truth if truth else float(actual != 0)
        ok = low * (1 - WITHIN) <= truth <= (high + more) * (1 + WITHIN)
        yield Deviation(figure, tenant, date, actual, truth, low, high + more, relative, ok)
