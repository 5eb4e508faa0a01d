"""The capacity waterfall: from what is installed down to what is delivered, every drop named.

Pure.  Definition `waterfall/1`, in words in docs/usage.md: installed ⊇
reporting ⊇ allocated ⊇ active hold as integers, since they are sums over the
states and owners of the same rows; delivered is measured FLOP and is compared
with the nameplate of the active time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from pipeline.books.cells import GFLOP_PER_PFLOP_HOUR, Cell, origin_text
from pipeline.books.rows import HOUR_US, STATES

DEFINITION = "waterfall/1"
By = Literal["site", "hall", "model", "tenant"]
_ACTIVE, _IDLE, _DOWN, _UNOBSERVED = range(len(STATES))
_TENANT, _MAINTENANCE, _UNALLOCATED = "tenant", "maintenance", "unallocated"
_PER_PFLOP_HOUR = GFLOP_PER_PFLOP_HOUR * 1_000_000
"""Nameplate is weighed as GFLOP/s × µs."""


Whole = int | Fraction


def quotient(part: Whole, whole: Whole) -> float | None:
    """Exact until it is rounded, once; None where there is nothing to divide by."""
    if not whole:
        return None
    return part / whole if isinstance(part, int) and isinstance(whole, int) else float(part / whole)


@dataclass(slots=True)
class Amount:
    """GPU-time (µs), and the nameplate of it (GFLOP/s × µs).

    With `exact_us` False the time is a quotient: that at full nameplate which
    would have delivered as much.
    """

    us: Whole = 0
    weight: int = 0
    exact_us: bool = True

    def add(self, us: int, gflops: int) -> None:
        """Adds time of GPUs of a nameplate (GFLOP/s)."""
        self.us += us
        self.weight += us * gflops

    def add_gflop(self, gflop: int, gflops: int) -> None:
        """Adds FLOP of GPUs of a nameplate."""
        self.weight += gflop * 1_000_000
        if gflops and gflop:
            self.us += Fraction(gflop * 1_000_000, gflops)

    def __add__(self, other: Amount) -> Amount:
        exact = self.exact_us and other.exact_us
        return Amount(self.us + other.us, self.weight + other.weight, exact)

    def __sub__(self, other: Amount) -> Amount:
        exact = self.exact_us and other.exact_us
        return Amount(self.us - other.us, self.weight - other.weight, exact)

    def shown(self, installed: Amount, covered_us: int) -> dict[str, Any]:
        """As answers have it: exact µs where they are, and quotients."""
        return {
            "gpu_us": self.us if self.exact_us else None,
            "gpu_hours": quotient(self.us, HOUR_US),
            "pflop_hours": quotient(self.weight, _PER_PFLOP_HOUR),
            "pflops": quotient(self.weight, covered_us * 1_000_000),
            "share": quotient(self.weight, installed.weight),
            "share_gpu_hours": quotient(self.us, installed.us),
        }


@dataclass(slots=True)
class _Sum:
    """What the cells of one row come to: by (owner kind, state)."""

    amounts: dict[tuple[str, int], Amount] = field(default_factory=lambda: defaultdict(Amount))
    delivered: Amount = field(default_factory=lambda: Amount(exact_us=False))
    estimated: Amount = field(default_factory=lambda: Amount(exact_us=False))
    gflop: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    energy_mj: int = 0

    def add(self, cell: Cell) -> None:
        rate, measures = cell.gflops_per_gpu, cell.measures
        for state, us in enumerate(cell.us):
            self.amounts[cell.owner_kind, state].add(us, rate)
        self.energy_mj += measures["energy_mj"]
        if cell.owner_kind != _TENANT:
            self.gflop["gflop_unallocated"] += measures["gflop"]
            return
        self.delivered.add_gflop(measures["gflop"], rate)
        self.estimated.add_gflop(measures["gflop_estimated"], rate)
        for name in ("gflop", "gflop_lo", "gflop_hi", "gflop_estimated"):
            self.gflop[name] += measures[name]

    def of(self, states: Iterable[int], kinds: Iterable[str] | None = None) -> Amount:
        wanted, owners = set(states), None if kinds is None else set(kinds)
        found = Amount()
        for (kind, state), amount in self.amounts.items():
            if state in wanted and (owners is None or kind in owners):
                found += amount
        return found


_LEVELS = ("installed", "reporting", "allocated", "active", "delivered")


def _levels(one: _Sum) -> dict[str, Amount]:
    seen = (_ACTIVE, _IDLE)
    return {
        "installed": one.of(range(len(STATES))),
        "reporting": one.of(seen),
        "allocated": one.of(seen, [_TENANT]),
        "active": one.of([_ACTIVE], [_TENANT]),
        "delivered": one.delivered,
    }


def _drops(one: _Sum, levels: Mapping[str, Amount]) -> list[tuple[str, str, Amount]]:
    """(name, level that it is taken from, amount), in order; they add up to the whole way down."""
    seen = (_ACTIVE, _IDLE)
    maintenance = one.of(seen, [_MAINTENANCE])
    return [
        ("down", "installed", one.of([_DOWN])),
        ("unobserved", "installed", one.of([_UNOBSERVED])),
        ("maintenance", "reporting", maintenance),
        ("unallocated", "reporting", levels["reporting"] - levels["allocated"] - maintenance),
        ("idle", "allocated", one.of([_IDLE], [_TENANT])),
        ("estimated", "active", one.estimated),
        ("below_nameplate", "active", levels["active"] - one.delivered - one.estimated),
    ]


def _bridge(one: _Sum, levels: Mapping[str, Amount]) -> list[tuple[str, str, Amount]]:
    """(name, `level` or `drop`, amount): from allocated/installed, as is published, to delivered."""
    published = one.of(range(len(STATES)), [_TENANT])
    drops = {name: amount for name, _, amount in _drops(one, levels)}
    return [
        ("published", "level", published),
        ("down_while_allocated", "drop", one.of([_DOWN], [_TENANT])),
        ("unobserved_while_allocated", "drop", one.of([_UNOBSERVED], [_TENANT])),
        ("allocated", "level", levels["allocated"]),
        ("idle", "drop", drops["idle"]),
        ("active", "level", levels["active"]),
        ("estimated", "drop", drops["estimated"]),
        ("below_nameplate", "drop", drops["below_nameplate"]),
        ("delivered", "level", levels["delivered"]),
    ]


def _shown(one: _Sum, covered_us: int) -> dict[str, Any]:
    levels = _levels(one)
    installed = levels["installed"]

    def show(amount: Amount) -> dict[str, Any]:
        return amount.shown(installed, covered_us)

    return {
        "steps": [{"name": name, **show(levels[name])} for name in _LEVELS],
        "drops": [
            {"name": name, "from": level, **show(amount)}
            for name, level, amount in _drops(one, levels)
        ],
        "bridge": [
            {"name": name, "kind": kind, **show(amount)}
            for name, kind, amount in _bridge(one, levels)
        ],
        "active_unallocated": show(one.of([_ACTIVE], [_UNALLOCATED, _MAINTENANCE])),
        "delivered": {
            name: one.gflop[name] for name in ("gflop", "gflop_lo", "gflop_hi", "gflop_estimated")
        }
        | {
            f"pflop_hours{end}": one.gflop[f"gflop{end}"] / GFLOP_PER_PFLOP_HOUR
            for end in ("", "_lo", "_hi", "_estimated")
        },
        "gflop_unallocated": one.gflop["gflop_unallocated"],
        "energy_mj": one.energy_mj,
    }


def _group(cell: Cell, by: By) -> tuple[tuple[str, str], ...]:
    if by == "site":
        return ()
    if by == "tenant":
        return (("owner_kind", cell.owner_kind), ("tenant", cell.tenant))
    return ((by, cell.hall if by == "hall" else cell.model),)


def waterfall(
    cells: Sequence[Cell], by: By, covered_us: Mapping[str | int, int]
) -> list[dict[str, Any]]:
    """A row per time, group and origin, in that order; `covered_us` is how much of each time the
    ledger has, by which PFLOP-hours become mean PFLOP/s."""
    sums: dict[tuple[Any, ...], _Sum] = defaultdict(_Sum)
    for cell in cells:
        sums[cell.when, _group(cell, by), cell.origin].add(cell)
    return [
        {
            "when": when,
            **dict(group),
            "origin": origin_text(origin),
            **_shown(sums[when, group, origin], covered_us.get(when, 0)),
        }
        for when, group, origin in sorted(sums)
    ]
