"""The ledger's rules once more, in plain slow Python over single samples, for comparison only."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT
from collectors.contract.inventory import Inventory
from collectors.contract.topics import Allocation
from pipeline.series.port import CounterSpan, MinuteParts

MINUTE, HOUR = 60_000_000, 3_600_000_000
STATE = ("observed_us", "down_us", "active_us")
ROW_COUNTERS = [
    "energy_mj",
    "gflop",
    "gflop_lo",
    "gflop_hi",
    "gflop_estimated",
    "throttle_power_cap_us",
    "throttle_sw_thermal_us",
    "throttle_hw_thermal_us",
    "throttle_power_brake_us",
    "throttle_sync_boost_us",
]
ROW_FIGURES = ("active_us", "idle_us", "down_us", "unobserved_us", *ROW_COUNTERS)


@dataclass(frozen=True)
class Sample:
    """One slot of one record."""

    node: str
    slot: int
    time_us: int
    run: int
    label_epoch: int
    energy_epoch: int
    values: Mapping[str, int]
    writer: int = 1
    origin: int = 3


def parts_of(samples: Iterable[Sample]) -> MinuteParts:
    """What writers that saw these samples would have stored."""
    groups: dict[tuple[int, ...], list[Sample]] = defaultdict(list)
    nodes = sorted({one.node for one in samples})
    for one in samples:
        key = (
            nodes.index(one.node),
            one.slot,
            one.time_us // MINUTE,
            one.run,
            one.label_epoch,
            one.writer,
        )
        groups[key].append(one)
    keys = list(groups)
    columns = [[key[place] for key in keys] for place in range(6)]
    node, slot, minute, run, epoch, writer = columns
    return MinuteParts(
        nodes,
        np.array(node, np.int32),
        np.array(slot, np.uint64),
        np.array(minute, np.int64),
        np.array(run, np.uint64),
        np.array(epoch, np.uint64),
        np.array(writer, np.uint64),
        np.zeros(len(keys), np.int32),
        np.array([groups[key][0].origin for key in keys], np.uint8),
        np.array([groups[key][0].energy_epoch for key in keys], np.uint64),
        {m.name: _span([groups[key] for key in keys], m.name) for m in CATALOGUE.counters},
        {},
    )


def _span(groups: Sequence[Sequence[Sample]], name: str) -> CounterSpan:
    firsts: list[tuple[int, int]] = []
    lasts: list[tuple[int, int]] = []
    for group in groups:
        points = [(one.time_us, one.values[name]) for one in group if name in one.values]
        firsts.append(min(points, default=(0, COUNTER_ABSENT)))
        lasts.append(max(points, default=(0, COUNTER_ABSENT)))
    return CounterSpan(
        np.array([time for time, _ in firsts], np.int64),
        np.array([value for _, value in firsts], np.uint64),
        np.array([time for time, _ in lasts], np.int64),
        np.array([value for _, value in lasts], np.uint64),
    )


@dataclass
class Slot:
    """Kept points of a slot: runs → name → points; epochs → points."""

    runs: dict[int, dict[str, set[tuple[int, ...]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    epochs: dict[int, set[tuple[int, int]]] = field(default_factory=lambda: defaultdict(set))


def kept(samples: Iterable[Sample]) -> dict[tuple[str, int], Slot]:
    groups: dict[tuple[object, ...], list[Sample]] = defaultdict(list)
    for one in samples:
        key = (one.node, one.slot, one.time_us // MINUTE, one.run, one.label_epoch)
        groups[key].append(one)
    slots: dict[tuple[str, int], Slot] = defaultdict(Slot)
    for group in groups.values():
        head = group[0]
        slot = slots[head.node, head.slot]
        ends: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {}
        for metric in CATALOGUE.counters:
            name = metric.name
            points = [(one.time_us, one.values[name]) for one in group if name in one.values]
            if points:
                ends[name] = min(points), max(points)
        run = slot.runs[head.run]
        for name, pair in ends.items():
            run["hull"].update((time, 0) for time, _ in pair)
            if name == "energy_mj":
                slot.epochs[head.energy_epoch].update(pair)
            elif name not in STATE:
                run[name].update(pair)
        if STATE[0] in ends:
            for end in (0, 1):
                time = ends[STATE[0]][end][0]
                run["state"].add((time, *(ends[name][end][1] for name in STATE)))
    return slots


OwnerKey = tuple[str, str, str, str]


def owner_of(one: Allocation) -> OwnerKey:
    if one.kind == "maintenance":
        return ("maintenance", "", "", "")
    return ("tenant", one.tenant, one.project, one.job)


def holders_at(
    allocations: Iterable[Allocation], node: str, slot: str, time_us: int
) -> tuple[Allocation, ...]:
    """Who holds a slot: one allocation, those that share it by (source, id), or none."""
    holding: list[tuple[tuple[object, ...], Allocation]] = []
    last = {(one.source, one.id): one for one in allocations}
    for one in last.values():
        if one.deleted or time_us < one.from_us or (one.to_us is not None and time_us >= one.to_us):
            continue
        if not any(s.node == node and (not s.slots or slot in s.slots) for s in one.subjects):
            continue
        upkeep = one.kind == "maintenance"
        if not upkeep and not one.tenant:
            continue
        holding.append(((upkeep, one.precedence, one.from_us, one.source, one.id), one))
    if not holding:
        return ()
    best = max(holding, key=lambda pair: pair[0])[1]
    if best.kind == "maintenance" or not best.shared:
        return (best,)
    together = [one for _, one in holding if one.shared and one.precedence == best.precedence]
    return tuple(sorted(together, key=lambda one: (one.source, one.id)))


def deal_out(
    holders: tuple[Allocation, ...], row: Mapping[str, int]
) -> Iterator[tuple[OwnerKey, dict[str, int]]]:
    """Each holder's part of what all of them have, by floors over the weights up to each."""
    weights = [max(1, one.weight) for one in holders]
    if not holders or not holders[0].shared or holders[0].kind == "maintenance":
        yield owner_of(holders[0]) if holders else ("unallocated", "", "", ""), dict(row)
        return
    whole = max([sum(weights), *(one.parts for one in holders)])
    owners = [*map(owner_of, holders), ("unallocated", "", "", "")]
    ends = [*itertools.accumulate(weights), whole]
    for owner, start, end in zip(owners, [0, *ends[:-1]], ends, strict=True):
        if start < end:
            yield owner, {k: v * end // whole - v * start // whole for k, v in row.items()}


def _outside(start: int, end: int, hulls: Sequence[tuple[int, int]]) -> bool:
    """Whether an interval that no hull's bound cuts lies outside all of them."""
    return all(end <= low or start >= high for low, high in hulls)


def _neighbours(
    points: Iterable[tuple[int, ...]],
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for p, q in itertools.pairwise(sorted(points)):
        if q[0] > p[0] and all(b >= a for a, b in zip(p[1:], q[1:], strict=True)):
            yield p, q


def rows(
    samples: Sequence[Sample],
    allocations: Sequence[Allocation],
    inventory: Inventory,
    hours: range,
    slot_text: Mapping[int, str],
) -> dict[tuple[object, ...], dict[str, int]]:
    """All rows of the hours by key."""
    result: dict[tuple[object, ...], dict[str, int]] = {}
    slots = kept(samples)
    bounds = {b for one in allocations for b in (one.from_us, one.to_us) if b is not None}
    for entry in inventory.nodes:
        bounds.update(b for b in (entry.from_us, entry.to_us) if b is not None)
    for node, slot in sorted({(e.name, s) for e in inventory.nodes for s in e.slots}):
        points = slots.get((node, slot), Slot())
        mine = _slot_rows(node, slot, points, allocations, inventory, hours, bounds, slot_text)
        result.update(mine)
    return result


def _slot_rows(
    node: str,
    slot: int,
    points: Slot,
    allocations: Sequence[Allocation],
    inventory: Inventory,
    hours: range,
    bounds: set[int],
    slot_text: Mapping[int, str],
) -> dict[tuple[object, ...], dict[str, int]]:
    hulls = {
        run: (min(t for t, _ in series["hull"]), max(t for t, _ in series["hull"]))
        for run, series in points.runs.items()
        if series["hull"]
    }
    spans = {epoch: (min(ps)[0], max(ps)[0]) for epoch, ps in points.epochs.items()}
    cuts = set(bounds) | {hour * HOUR for hour in (*hours, hours.stop)}
    cuts |= {bound for hull in (*hulls.values(), *spans.values()) for bound in hull}
    low, high = hours.start * HOUR, hours.stop * HOUR
    times = sorted(cut for cut in cuts if low <= cut <= high)
    held: dict[tuple[int, tuple[Allocation, ...]], dict[str, int]] = {}
    for start, end in itertools.pairwise(times):
        if not any(
            e.name == node and slot in e.slots and e.installed(start) for e in inventory.nodes
        ):
            continue
        holders = holders_at(allocations, node, slot_text[slot], start)
        row = held.setdefault((start // HOUR, holders), dict.fromkeys(ROW_FIGURES, 0))
        _add_part(row, points, hulls, spans, start, end)
    result: dict[tuple[object, ...], dict[str, int]] = {}
    for (hour, holders), row in held.items():
        for owner, part in deal_out(holders, row):
            mine = result.setdefault((hour, node, slot, *owner), dict.fromkeys(ROW_FIGURES, 0))
            for name, amount in part.items():
                mine[name] += amount
    return result


def _add_part(
    row: dict[str, int],
    points: Slot,
    hulls: Mapping[int, tuple[int, int]],
    spans: Mapping[int, tuple[int, int]],
    start: int,
    end: int,
) -> None:
    row["unobserved_us"] += end - start
    for run in sorted(hulls):
        if not _outside(start, end, [hulls[other] for other in hulls if other < run]):
            continue
        for p, q in _neighbours(points.runs[run]["state"]):
            a, b = max(start, p[0]), min(end, q[0])
            if a < b:
                _add_state(row, p, q, a, b)
        for name in ROW_COUNTERS[1:]:
            row[name] += _gain(points.runs[run][name], start, end, None)
    order = sorted(spans, key=lambda epoch: (spans[epoch][0], epoch))
    for place, epoch in enumerate(order):
        if _outside(start, end, [spans[other] for other in order[:place]]):
            row["energy_mj"] += _gain(points.epochs[epoch], start, end, 72 * HOUR)


def _gain(points: Iterable[tuple[int, ...]], start: int, end: int, limit: int | None) -> int:
    total = 0
    for (t0, v0), (t1, v1) in _neighbours(points):
        a, b = max(start, t0), min(end, t1)
        if a < b and (limit is None or t1 - t0 <= limit):
            total += (v1 - v0) * (b - t0) // (t1 - t0) - (v1 - v0) * (a - t0) // (t1 - t0)
    return total


def _add_state(row: dict[str, int], p: Sequence[int], q: Sequence[int], a: int, b: int) -> None:
    length = q[0] - p[0]
    seen, down, active = (q[i] - p[i] for i in (1, 2, 3))
    known = min(seen + down, length)
    seen = min(seen, known)
    active = min(active, seen)

    def until(cut: int) -> tuple[int, int, int]:
        k = known * (cut - p[0]) // length
        o = seen * k // known if known else 0
        return k, o, active * o // seen if seen else 0

    k0, o0, a0 = until(a)
    k1, o1, a1 = until(b)
    row["active_us"] += a1 - a0
    row["idle_us"] += (o1 - o0) - (a1 - a0)
    row["down_us"] += (k1 - k0) - (o1 - o0)
    row["unobserved_us"] -= k1 - k0
