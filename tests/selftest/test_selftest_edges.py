"""What an owner's beginning or end may move: what is taken as linear is never further off."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.identity import slot_text
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.topics import Allocation, Subject
from pipeline.selftest.edges import Edges
from pipeline.series.port import CounterSpan, MinuteParts

S = 1_000_000
HOUR_US = 3_600 * S
START_US = 490_000 * HOUR_US
SLOT, LIMIT_W, PEAK_GFLOP_S = 6912, 700.0, 989_400.0
DAY = "2025-11-24"
SITE = Inventory(
    "t", "T", "UTC", "fp16", "dense", "boost",
    (InstalledNode("n1", "h", "r", "H800-SXM", (SLOT, SLOT + 8), 1.0),),
)  # fmt: skip


def minutes(points: list[tuple[int, int, int]], run: int = 1) -> MinuteParts:
    """A part for every two kept points (µs since the start, mJ, GFLOP) of the first slot."""
    pairs = list(zip(points[::2], [*points[1::2], points[-1]], strict=False))
    n = len(pairs)
    ends = np.array(pairs, np.int64).reshape(n, 2, 3)
    times = START_US + ends[:, :, 0]

    def span(at: int) -> CounterSpan:
        first, last = ends[:, 0, at].astype(np.uint64), ends[:, 1, at].astype(np.uint64)
        return CounterSpan(times[:, 0], first, times[:, 1], last)

    none = np.zeros(n, np.uint64)
    return MinuteParts(
        ("n1",), np.zeros(n, np.int32), none + np.uint64(SLOT), times[:, 0] // (60 * S),
        none + np.uint64(run), none, none, np.zeros(n, np.int32), np.full(n, 3, np.uint8), none,
        {"energy_mj": span(1), "gflop": span(2)}, {},
    )  # fmt: skip


def held(number: int, tenant: str, from_us: int, to_us: int | None) -> Allocation:
    end_us = None if to_us is None else START_US + to_us
    subject = Subject("n1", (slot_text(SLOT),))
    return Allocation("s", str(number), tenant, "", "", (subject,), START_US + from_us, end_us)


def slack_of(edges: Edges, tenant: str) -> tuple[float, float]:
    """GFLOP and mJ."""
    found = edges.slack(SITE, START_US, START_US + HOUR_US).get((DAY, tenant))
    return (0.0, 0.0) if found is None else (found.gflop, found.energy_mj)


def linear(points: list[tuple[int, float]], at_us: float) -> float:
    return float(np.interp(at_us, [at for at, _ in points], [value for _, value in points]))


@settings(max_examples=100, deadline=None)
@given(
    rates=st.lists(st.floats(0, LIMIT_W), min_size=60, max_size=60),
    kept=st.sets(st.integers(1, 59), min_size=0, max_size=12),
    cut_us=st.integers(1, 60 * S - 1),
)
def test_a_cut_of_what_is_linear_is_within_the_bound_of_what_was_drawn(
    rates: list[float], kept: set[int], cut_us: int
) -> None:
    drawn = [(0, 0.0)]
    for second, rate in enumerate(rates):
        drawn.append(((second + 1) * S, drawn[-1][1] + rate * 1e3))
    points = [drawn[second] for second in sorted({0, 60, *kept})]
    edges = Edges()
    edges.keep(minutes([(at, round(mj), 0) for at, mj in points]))
    edges.tell(held(1, "ant", 0, cut_us))
    off_mj = abs(linear(points, cut_us) - linear(drawn, cut_us))
    assert off_mj <= slack_of(edges, "ant")[1] + 1.0


def test_an_edge_counts_for_both_tenants_by_its_distance_from_the_nearest_point() -> None:
    edges = Edges()
    edges.keep(minutes([(0, 0, 0), (10 * S, 1, 1), (30 * S, 2, 2), (40 * S, 3, 3)]))
    edges.tell(held(1, "ant", 0, 14 * S))
    edges.tell(held(2, "bee", 14 * S, 30 * S))
    gflop, energy_mj = slack_of(edges, "ant")
    assert (gflop, energy_mj) == (4 * PEAK_GFLOP_S, 4 * LIMIT_W * 1e3)
    assert slack_of(edges, "bee") == (gflop, energy_mj)
    assert slack_of(edges, "cat") == (0.0, 0.0)


def test_nothing_is_moved_on_a_point_nor_outside_of_all() -> None:
    edges = Edges()
    edges.keep(minutes([(10 * S, 0, 0), (30 * S, 2, 2)]))
    edges.tell(held(1, "ant", 5 * S, 30 * S))
    edges.tell(held(2, "bee", 30 * S, None))
    assert slack_of(edges, "ant") == slack_of(edges, "bee") == (0.0, 0.0)


def test_work_is_linear_within_a_run_and_energy_through_all() -> None:
    edges = Edges()
    edges.keep(minutes([(0, 0, 0), (10 * S, 1, 1)]))
    edges.keep(minutes([(20 * S, 2, 0), (30 * S, 3, 1)], run=2))
    edges.tell(held(1, "ant", 0, 14 * S))
    assert slack_of(edges, "ant") == (0.0, 4 * LIMIT_W * 1e3)


def test_the_last_word_of_a_claim_holds_and_absent_counters_are_no_points() -> None:
    edges = Edges()
    parts = minutes([(0, 0, 0), (20 * S, 1, 1)])
    gone = CounterSpan(
        parts.minute * 0, np.full(1, COUNTER_ABSENT), parts.minute * 0, np.full(1, COUNTER_ABSENT)
    )
    edges.keep(replace(parts, counters={**parts.counters, "gflop": gone}))
    edges.tell(held(1, "ant", 0, 14 * S))
    edges.tell(held(1, "ant", 0, 18 * S))
    assert slack_of(edges, "ant") == (0.0, 2 * LIMIT_W * 1e3)
    edges.tell(msgspec.structs.replace(held(1, "ant", 0, 18 * S), deleted=True))
    assert slack_of(edges, "ant") == (0.0, 0.0)
