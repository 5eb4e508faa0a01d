"""Divides a slot's time and counters among hours and owners, in integers."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from collectors.simulator.plain import Point, SlotPoints, StatePoint
from collectors.simulator.plain_claims import Claim

HOUR_US = 3_600_000_000
BRIDGE_US = 72 * HOUR_US
"""A longer gap of the energy counter is not bridged."""
STATES = ("active_us", "idle_us", "down_us", "unobserved_us")
COUNTERS = (
    "energy_mj", "gflop", "gflop_lo", "gflop_hi", "gflop_estimated", "throttle_power_cap_us",
    "throttle_sw_thermal_us", "throttle_hw_thermal_us", "throttle_power_brake_us",
    "throttle_sync_boost_us",
)  # fmt: skip
FIGURES = (*STATES, *COUNTERS, "origin")

Owner = tuple[str, str, str, str]
"""Owner kind, tenant, project, job."""
NOBODY: Owner = ("unallocated", "", "", "")
UPKEEP: Owner = ("maintenance", "", "", "")
Part = tuple[str, str, Owner, int]
"""Source and id of a claim on a part of a slot, its owner, and its weight."""
Together = tuple[int, tuple[Part, ...]]
"""Of how many parts a slot is, and who holds some of them, by source and id."""
Row = dict[str, int]
Span = tuple[int, int]


class Held(NamedTuple):
    """A time [start, end) within one hour in which a slot is installed and the same hold it."""

    start_us: int
    end_us: int
    hour: int
    owner: Owner | Together


def owner_timeline(
    installed: Sequence[tuple[int, int | None]],
    claims: Sequence[Claim],
    hours: range,
    until_us: int | None = None,
) -> list[Held]:
    """Who owns a slot when, within `hours`, while it is installed and before `until_us`."""
    low, high = hours.start * HOUR_US, hours.stop * HOUR_US
    if until_us is not None:
        high = max(low, min(high, until_us))
    cuts = {low, high, *(hour * HOUR_US for hour in hours if hour * HOUR_US < high)}
    bounds = [*installed, *((claim.begins_us, claim.to_us) for claim in claims)]
    for pair in bounds:
        cuts.update(cut for cut in pair if cut is not None and low < cut < high)
    out: list[Held] = []
    for start, end in pairwise(sorted(cuts)):
        if any(_within(start, span) for span in installed):
            out.append(Held(start, end, start // HOUR_US, owner_at(claims, start)))
    return out


def _within(time_us: int, span: tuple[int, int | None]) -> bool:
    return span[0] <= time_us and (span[1] is None or time_us < span[1])


def _order(claim: Claim) -> tuple[int, int, str, str]:
    return (claim.precedence, claim.from_us, claim.source, claim.id)


def owner_at(claims: Iterable[Claim], time_us: int) -> Owner | Together:
    """Maintenance beats all; else the greatest by (precedence, from, source, id), which takes in
    others of its precedence when it and they are shared."""
    holding = [claim for claim in claims if _within(time_us, (claim.begins_us, claim.to_us))]
    if not holding:
        return NOBODY
    if any(claim.kind == "maintenance" for claim in holding):
        return UPKEEP
    best = max(holding, key=_order)
    if not best.shared:
        return ("tenant", *best.owner)
    parts: list[Part] = []
    whole = 0
    for claim in holding:
        if claim.shared and claim.precedence == best.precedence:
            parts.append((claim.source, claim.id, ("tenant", *claim.owner), claim.weight))
            whole = max(whole, claim.parts)
    return max(whole, sum(part[-1] for part in parts)), tuple(sorted(parts))


def shares(together: Together, row: Row) -> Iterator[tuple[Owner, Row]]:
    """Divides what was counted while some held a slot together; the rest is nobody's."""
    whole, parts = together
    told = 0
    before = dict.fromkeys(row, 0)
    held = [(owner, weight) for _, _, owner, weight in parts]
    left = whole - sum(weight for _, weight in held)
    for owner, weight in [*held, (NOBODY, left)] if left else held:
        told += weight
        until = {name: amount * told // whole for name, amount in row.items()}
        yield owner, {name: until[name] - before[name] for name in row}
        before = until


def state_parts(p: StatePoint, q: StatePoint) -> Callable[[int, int], Row] | None:
    """What [a, b) of a segment counts in each state; None where p and q make none."""
    span = q.time_us - p.time_us
    d_observed, d_down, d_active = q.observed - p.observed, q.down - p.down, q.active - p.active
    if span <= 0 or min(d_observed, d_down, d_active) < 0:
        return None
    known = min(d_observed + d_down, span)
    observed = min(d_observed, known)
    active = min(d_active, observed)

    def at(cut: int) -> tuple[int, int, int]:
        k = known * (cut - p.time_us) // span
        o = observed * k // known if known else 0
        return k, o, active * o // observed if observed else 0

    def part(a: int, b: int) -> Row:
        (k0, o0, a0), (k1, o1, a1) = at(a), at(b)
        return {
            "active_us": a1 - a0,
            "idle_us": (o1 - o0) - (a1 - a0),
            "down_us": (k1 - o1) - (k0 - o0),
        }

    return part


def counter_parts(name: str, p: Point, q: Point) -> Callable[[int, int], Row] | None:
    """What [a, b) of a segment adds to a counter; None where p and q make none."""
    span, rise = q.time_us - p.time_us, q.value - p.value
    if span <= 0 or rise < 0:
        return None
    if name == "energy_mj" and span > BRIDGE_US:
        return None

    def part(a: int, b: int) -> Row:
        return {name: rise * (b - p.time_us) // span - rise * (a - p.time_us) // span}

    return part


def outside(a: int, b: int, hulls: Sequence[Span]) -> Iterator[Span]:
    """The parts of [a, b) that no hull covers."""
    for low, high in sorted(hulls):
        if low >= b:
            break
        if a < low:
            yield a, low
        a = max(a, high)
        if a >= b:
            return
    if a < b:
        yield a, b


class SlotLedger:
    """Rows of one slot over its timeline."""

    def __init__(self, timeline: Sequence[Held]) -> None:
        self._timeline = timeline
        self._starts = [held.start_us for held in timeline]
        self._rows: dict[tuple[int, Owner | Together], Row] = {}
        self._origins: dict[int, int] = {}
        for held in timeline:
            row = self._rows.setdefault((held.hour, held.owner), dict.fromkeys(FIGURES, 0))
            row["unobserved_us"] += held.end_us - held.start_us

    def fill(self, points: SlotPoints) -> None:
        """Adds all that the slot's kept points say."""
        if not self._timeline:
            return
        for time_us, origin in points.origins.items():
            self._note_origin(time_us // HOUR_US, origin)
        earlier: list[Span] = []
        for run in sorted(points.hulls):
            self._states(sorted(points.states.get(run, ())), earlier, points.origins)
            for name in COUNTERS[1:]:
                found = points.counters.get((run, name), ())
                self._counter(name, sorted(found), earlier, points.origins)
            earlier.append(points.hulls[run])
        earlier = []
        for epoch in sorted(points.energy, key=lambda epoch: (min(points.energy[epoch])[0], epoch)):
            found = sorted(points.energy[epoch])
            self._counter(COUNTERS[0], found, earlier, points.origins)
            earlier.append((found[0].time_us, found[-1].time_us))

    def rows(self) -> dict[tuple[int, Owner], Row]:
        """The rows; an hour's origin is the greatest of its points and segments."""
        out: dict[tuple[int, Owner], Row] = {}
        for (hour, holder), row in self._rows.items():
            found = shares(holder, row) if len(holder) == 2 else ((holder, row),)
            for owner, share in found:
                mine = out.setdefault((hour, owner), dict.fromkeys(FIGURES, 0))
                for name, amount in share.items():
                    mine[name] += amount
        for (hour, _), row in out.items():
            row["origin"] = self._origins.get(hour, 0)
        return out

    def _states(
        self, points: Sequence[StatePoint], hulls: Sequence[Span], origins: dict[int, int]
    ) -> None:
        for p, q in pairwise(points):
            part = state_parts(p, q)
            if part is not None:
                self._add(
                    p.time_us, q.time_us, hulls, part, max(origins[p.time_us], origins[q.time_us])
                )

    def _counter(
        self, name: str, points: Sequence[Point], hulls: Sequence[Span], origins: dict[int, int]
    ) -> None:
        for p, q in pairwise(points):
            part = counter_parts(name, p, q)
            if part is not None:
                self._add(
                    p.time_us, q.time_us, hulls, part, max(origins[p.time_us], origins[q.time_us])
                )

    def _add(
        self,
        start: int,
        end: int,
        hulls: Sequence[Span],
        part: Callable[[int, int], Row],
        origin: int,
    ) -> None:
        for low, high in outside(start, end, hulls):
            first = max(0, bisect_right(self._starts, low) - 1)
            last = bisect_left(self._starts, high)
            for held in self._timeline[first:last]:
                a, b = max(low, held.start_us), min(high, held.end_us)
                if a < b:
                    self._book(held, part(a, b), origin)

    def _book(self, held: Held, amounts: Row, origin: int) -> None:
        row = self._rows[held.hour, held.owner]
        for name, amount in amounts.items():
            row[name] += amount
            if name in STATES:
                row["unobserved_us"] -= amount
        self._note_origin(held.hour, origin)

    def _note_origin(self, hour: int, origin: int) -> None:
        self._origins[hour] = max(origin, self._origins.get(hour, 0))
