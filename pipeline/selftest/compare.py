"""Compares what was stored and computed with the truth; every integer must be equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT
from pipeline.selftest.edges import Edges
from pipeline.selftest.truth import MinuteKey, Oracle, Point
from pipeline.series.columns import merge_parts
from pipeline.series.port import MinuteParts, SeriesStore

_NODES_AT_ONCE = 64
STATES = ("active_us", "idle_us", "down_us", "unobserved_us")


class Check(msgspec.Struct, frozen=True):
    """One comparison; `ok` is whether all that it stands for is equal."""

    name: str
    expected: int
    actual: int
    ok: bool


def same(name: str, expected: int, actual: int) -> Check:
    """Two numbers that must be equal."""
    return Check(name, expected, actual, expected == actual)


def _ends(parts: MinuteParts) -> Iterator[tuple[MinuteKey, dict[str, tuple[Point, Point]]]]:
    """Per key the first and last point of each counter that is there."""
    names = [metric.name for metric in CATALOGUE.counters if metric.name in parts.counters]
    columns = [
        list(
            zip(
                c.first_us.tolist(),
                c.first.tolist(),
                c.last_us.tolist(),
                c.last.tolist(),
                strict=True,
            )
        )
        for c in (parts.counters[name] for name in names)
    ]
    keys = zip(
        parts.node.tolist(), parts.slot.tolist(), parts.minute.tolist(), parts.run.tolist(),
        parts.label_epoch.tolist(), strict=True,
    )  # fmt: skip
    for row, (node, slot, minute, run, epoch) in enumerate(keys):
        ends = {
            name: ((point[0], point[1]), (point[2], point[3]))
            for name, point in ((name, c[row]) for name, c in zip(names, columns, strict=True))
            if point[1] != COUNTER_ABSENT
        }
        yield (str(parts.nodes[int(node)]), slot, minute, run, epoch), ends


async def stored_minutes(
    series: SeriesStore, nodes: Sequence[str], minutes: range, edges: Edges | None = None
) -> dict[MinuteKey, int]:
    """A digest of the merged counters of every minute stored, by key; `edges` keeps their times."""
    found: dict[MinuteKey, int] = {}
    for at in range(0, len(nodes), _NODES_AT_ONCE):
        some = nodes[at : at + _NODES_AT_ONCE]
        parts = merge_parts(
            await series.minutes(minutes.start, minutes.stop, nodes=some, gauges=())
        )
        if edges is not None:
            edges.keep(parts)
        for key, ends in _ends(parts):
            if ends:
                found[key] = digest(ends)
    return found


def digest(ends: Mapping[str, tuple[Point, Point]]) -> int:
    """One number for the points of a minute; equal points, equal number."""
    return hash(
        frozenset((name, tuple(first), tuple(last)) for name, (first, last) in ends.items())
    )


def minute_checks(oracle: Oracle, stored: dict[MinuteKey, int]) -> list[Check]:
    """Every kept point of every slot, minute, run and label epoch."""
    expected = equal = 0
    for key, ends in oracle.minutes():
        if ends:
            expected += 1
            equal += stored.pop(tuple(key), None) == digest(ends)
    return [
        same("minutes with all their points", expected, equal),
        same("minutes that nobody sent", 0, len(stored)),
    ]


async def sample_checks(
    series: SeriesStore, samples: Mapping[str, int], minutes: range
) -> list[Check]:
    """Distinct records per node, from the masks; law 6 for those that count."""
    masks = await series.masks(minutes.start, minutes.stop)
    merged: dict[tuple[str, int, int], int] = {}
    rows = zip(
        masks.node.tolist(),
        masks.run.tolist(),
        masks.block.tolist(),
        masks.mask.tolist(),
        strict=True,
    )
    for node, run, block, mask in rows:
        key = (str(masks.nodes[int(node)]), run, block)
        merged[key] = merged.get(key, 0) | mask
    stored: Counter[str] = Counter()
    for (node, _, _), mask in merged.items():
        stored[node] += mask.bit_count()
    wrong = sum(stored[node] != count for node, count in samples.items())
    return [
        same("records stored", sum(samples.values()), stored.total()),
        same("records dropped or in flight", 0, sum(samples.values()) - stored.total()),
        same("nodes with another number of records", 0, wrong),
    ]


def ledger_checks(
    truth: Mapping[Any, Mapping[str, int]], ledger: Mapping[Any, Mapping[str, int]]
) -> list[Check]:
    """Every figure of every row, of every tenant, and in all; rows are by `LedgerKey`."""
    figures = sorted({name for row in truth.values() for name in row} - {"origin"})
    checks = [
        same(
            name, sum(r[name] for r in truth.values()), sum(r.get(name, 0) for r in ledger.values())
        )
        for name in figures
    ]
    wrong = sum(
        any(ledger.get(key, {}).get(name) != value for name, value in row.items())
        for key, row in truth.items()
    )
    tenants, theirs = _by_tenant(truth, figures), _by_tenant(ledger, figures)
    differ = sum(tenants.get(key) != theirs.get(key) for key in {*tenants, *theirs})
    checks += [
        same("ledger rows", len(truth), len(ledger)),
        same("ledger rows that differ", 0, wrong),
        same("tenants whose totals differ", 0, differ),
    ]
    return checks


def _by_tenant(
    rows: Mapping[Any, Mapping[str, int]], figures: Sequence[str]
) -> dict[tuple[str, str], list[int]]:
    totals: dict[tuple[str, str], list[int]] = {}
    for key, row in rows.items():
        total = totals.setdefault((key[3], key[4]), [0] * len(figures))
        for at, name in enumerate(figures):
            total[at] += row.get(name, 0)
    return totals


def installed_check(ledger: Mapping[Any, Mapping[str, int]], installed_us: int) -> Check:
    """Law 2: owners and states add up to what is installed."""
    total = sum(row.get(state, 0) for row in ledger.values() for state in STATES)
    return same("installed µs in all states and owners", installed_us, total)


def minute_range(from_us: int, to_us: int) -> range:
    """Minutes that [from_us, to_us] touches."""
    low, high = np.floor_divide((from_us, to_us), 60_000_000)
    return range(int(low), int(high) + 1)
