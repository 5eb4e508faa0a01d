"""The ledger against what really happened: GPU-time exactly, work and energy within bounds.

The physical truth is the simulator's own account, which no record can change.
What the ledger itself states of its figures is the bound where records were
lost: `gflop_lo` and `gflop_hi`, for time that was unobserved or down anything
from nothing to the model's peak (FLOP) or its board's limit (energy), and what
an owner's beginning and end may move (`edges`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from collectors.contract.inventory import Inventory
from collectors.contract.models import find_model
from pipeline.books.rows import HOUR_US, STATES
from pipeline.books.totals import day_of
from pipeline.selftest.compare import Check, same
from pipeline.selftest.edges import Slack, SlackByDay
from pipeline.selftest.physical import Physical

WITHIN = 0.005
"""Relative deviation of a tenant's day that is allowed beyond what the ledger states itself."""
LIES = frozenset(("clock_skew", "clock_drift", "false_name"))
"""A node that is wrong about when or who it is: no bound of a figure covers that, so the days of
tenants on such nodes are counted apart."""
_SHARE_US = len(STATES)
"""Each state's time of those who share a GPU is rounded by itself."""


class Deviation(msgspec.Struct, frozen=True):
    """The day of a tenant that is furthest from the truth in one figure."""

    figure: str
    tenant: str
    day: str
    actual: float
    truth: float
    low: float
    high: float
    """What the ledger states, but for edges: the truth must lie between."""
    edges: float
    """How much further off it may be, by owners who began and ended between two kept points."""
    relative: float
    ok: bool


@dataclass
class _Day:
    """One owner's day: sums of the ledger, and of the truth."""

    ledger: dict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))
    unknown_us: int = 0
    peak_gflop: float = 0.0
    """What the GPUs could have done in the time of which nothing is known."""
    limit_mj: float = 0.0
    gflop: float = 0.0
    gflop_shown: float = 0.0
    energy_mj: float = 0.0
    edges: Slack = field(default_factory=Slack)
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
        unknown_us = row["unobserved_us"] + row["down_us"]
        day.unknown_us += unknown_us
        unknown_s = unknown_us / 1e6
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
    theirs lied, those outside of what the ledger states, those next to the truth by themselves
    (figures of what was shown within WITHIN, no bound added); and per figure the furthest off."""

    days: int
    misled: int
    outside: int
    close: int
    worst: list[Deviation]
    worst_known: list[Deviation]
    """Of the days without any time that the ledger states as unobserved or down."""


def bounds(
    physical: Physical,
    ledger: Mapping[Any, Mapping[str, int]],
    inventory: Inventory,
    slack: SlackByDay | None = None,
) -> Bounds:
    """`gflop shown` and `energy_mj` must be within WITHIN of what the instruments showed, where
    the ledger does not itself say that time is unknown; `gflop`, what really was done, within
    `gflop_lo` and `gflop_hi` and that; each but for `slack`, what edges may move."""
    days = [
        (key, day)
        for key, day in sorted(_days(physical, ledger, inventory).items(), key=itemgetter(0))
        if key[1] == "tenant"
    ]
    for (date, _, tenant), day in days:
        day.edges = (slack or {}).get((date, tenant), Slack())
    seen = [(day, one) for key, day in days if not day.misled for one in _judged(key, day)]
    judged = [one for _, one in seen]
    outside = {(one.day, one.tenant) for one in judged if not one.ok}
    misled = sum(day.misled for _, day in days)
    far = {
        (one.day, one.tenant)
        for one in judged
        if one.figure != "gflop" and abs(one.relative) > WITHIN
    }
    compared = len(days) - misled
    known = _worst(one for day, one in seen if not day.unknown_us)
    return Bounds(compared, misled, len(outside), compared - len(far), _worst(judged), known)


def _worst(judged: Iterable[Deviation]) -> list[Deviation]:
    """Per figure the one that is furthest off, whatever is not ok first."""
    worst: dict[str, Deviation] = {}
    for one in judged:
        if one.figure not in worst or _distance(one) > _distance(worst[one.figure]):
            worst[one.figure] = one
    return list(worst.values())


def _distance(one: Deviation) -> tuple[bool, float]:
    return not one.ok, abs(one.relative)


def _judged(key: _Key, day: _Day) -> Iterator[Deviation]:
    said, (date, _, tenant) = day.ledger, key
    edges = day.edges
    shown, energy_mj = said["gflop"], said["energy_mj"]
    for figure, actual, truth, low, high, more, moved in (
        ("gflop shown", shown, day.gflop_shown, shown, shown, day.peak_gflop, edges.gflop),
        (
            "energy_mj",
            *(energy_mj, day.energy_mj),
            *(energy_mj,) * 2,
            day.limit_mj,
            edges.energy_mj,
        ),
        (
            "gflop",
            shown,
            day.gflop,
            said["gflop_lo"],
            said["gflop_hi"],
            day.peak_gflop,
            edges.gflop,
        ),
    ):
        if figure == "gflop" and said["gflop_estimated"]:
            # What is estimated has no bound, and is not in the headline.
            continue
        relative = (actual - truth) / truth if truth else float(actual != 0)
        most = high + more
        ok = low * (1 - WITHIN) - moved <= truth <= most * (1 + WITHIN) + moved
        yield Deviation(figure, tenant, date, actual, truth, low, most, moved, relative, ok)
