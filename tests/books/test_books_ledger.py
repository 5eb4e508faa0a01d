"""The columnar ledger against hand-counted cases and against the plain reference."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from books_reference import HOUR, Sample, parts_of, rows
from books_strategies import (
    BASE,
    S1,
    S2,
    SECOND,
    TEXT,
    H,
    claims_by_node,
    held,
    inventory,
    node,
    sample_lists,
    sharing,
    sites,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.contract.inventory import Inventory
from collectors.contract.topics import Allocation, Subject
from pipeline.books.ledger import compute_hours
from pipeline.books.rows import FIGURES, STATES, LedgerRows, RowKey
from pipeline.books.segments import muldiv
from pipeline.books.spans import merge_spans, spans_of


def compute(
    samples: Sequence[Sample],
    allocations: Sequence[Allocation] = (),
    site: Inventory | None = None,
    hours: range = range(H, H + 1),
    until_us: int | None = None,
) -> LedgerRows:
    site = site or inventory()
    nodes = sorted({one.name for one in site.nodes})
    claims = claims_by_node(allocations)
    return compute_hours(parts_of(samples), claims, site, hours, nodes, until_us=until_us)


def sample(
    offset_s: float, *, slot: int = S1, run: int = 1, epoch: int = 1, **values: int
) -> Sample:
    return Sample("n1", slot, BASE + int(offset_s * SECOND), run, 1, epoch, values)


def states(offset_s: float, observed: float, down: float, active: float, run: int = 1) -> Sample:
    return sample(
        offset_s,
        run=run,
        observed_us=int(observed * SECOND),
        down_us=int(down * SECOND),
        active_us=int(active * SECOND),
    )


def row(result: LedgerRows, *owner: str, hour: int = H, slot: int = S1) -> dict[str, int]:
    owner = owner or ("unallocated", "", "", "")
    return result.by_key()[hour, "n1", slot, owner[0], owner[1], owner[2], owner[3]]


def test_a_quiet_slot_is_unobserved_for_the_whole_hour():
    found = row(compute([]))
    assert found["unobserved_us"] == HOUR
    assert found["origin"] == 0
    assert sum(found[name] for name in STATES) == HOUR


def test_states_of_one_minute():
    found = row(compute([states(0, 0, 0, 0), states(10, 8, 1, 5), states(20, 18, 1, 12)]))
    assert found["active_us"] == 12 * SECOND
    assert found["idle_us"] == 6 * SECOND
    assert found["down_us"] == SECOND
    assert found["unobserved_us"] == HOUR - 19 * SECOND
    assert found["origin"] == 3


def test_an_hour_boundary_divides_a_segment_to_the_last_unit():
    values = [sample(-1, gflop=10), sample(2, gflop=20)]
    result = compute(values, hours=range(H - 1, H + 1))
    assert row(result, hour=H - 1)["gflop"] == 3
    assert row(result)["gflop"] == 7
    assert row(result, hour=H - 1)["origin"] == row(result)["origin"] == 3


def test_a_fall_is_no_segment_and_a_later_rise_counts():
    values = [sample(t, gflop=v) for t, v in ((0, 100), (60, 40), (120, 45))]
    assert row(compute(values))["gflop"] == 5


def test_an_absent_counter_is_bridged_over_its_gap():
    values = [
        sample(0, gflop=0, gflop_lo=0),
        sample(60, gflop=60),
        sample(120, gflop=90, gflop_lo=7),
    ]
    found = row(compute(values))
    assert (found["gflop"], found["gflop_lo"], found["gflop_hi"]) == (90, 7, 0)


def test_energy_is_bridged_across_runs_of_one_epoch_but_not_across_epochs():
    values = [
        sample(0, run=1, epoch=1, energy_mj=1000),
        sample(600, run=2, epoch=1, energy_mj=1600),
        sample(900, run=3, epoch=2, energy_mj=50),
        sample(960, run=3, epoch=2, energy_mj=80),
    ]
    assert row(compute(values))["energy_mj"] == 600 + 30


def test_energy_is_bridged_over_72_hours_and_not_over_more():
    first = Sample("n1", S1, BASE, 1, 1, 1, {"energy_mj": 0})
    for late, expected in ((0, 1_000), (1, 0)):
        last = Sample("n1", S1, BASE + 72 * HOUR + late, 1, 1, 1, {"energy_mj": 72_000})
        result = compute([first, last])
        assert row(result)["energy_mj"] == expected
        assert row(result)["origin"] == 3


def test_where_runs_overlap_the_earlier_keeps_the_time():
    first = [states(t, t, 0, 0, run=1) for t in (0, 60, 120)]
    second = [states(t, t - 60, 0, t - 60, run=2) for t in (60, 120, 180, 240)]
    found = row(compute([*first, *second]))
    assert found["idle_us"] == 120 * SECOND
    assert found["active_us"] == 120 * SECOND
    assert found["unobserved_us"] == HOUR - 240 * SECOND


def test_an_allocation_that_changes_within_a_minute_cuts_there():
    held = Allocation("s", "1", "ant", "p", "j", (Subject("n1", (TEXT[S1],)),), BASE + 30 * SECOND)
    result = compute([states(0, 0, 0, 0), states(59, 59, 0, 59)], [held])
    mine = row(result, "tenant", "ant", "p", "j")
    assert mine["active_us"] == 29 * SECOND
    assert mine["unobserved_us"] == HOUR - 59 * SECOND
    assert row(result)["active_us"] == 30 * SECOND
    assert row(result, slot=S2)["unobserved_us"] == HOUR


def test_installed_time_only_and_only_up_to_the_time_reached():
    site = inventory(node("n1", BASE + 60 * SECOND))
    values = [states(0, 0, 0, 0), states(120, 120, 0, 0)]
    found = row(compute(values, site=site, until_us=BASE + 90 * SECOND))
    assert found["idle_us"] == 30 * SECOND
    assert found["unobserved_us"] == 0


def test_slots_that_are_not_installed_count_nowhere():
    other = Sample("n1", S1 + 8, BASE, 1, 1, 1, {"gflop": 1})
    stranger = Sample("zz", S1, BASE, 1, 1, 1, {"gflop": 1})
    result = compute([other, stranger, sample(0, gflop=0), sample(1, gflop=4)])
    assert len(result) == 2
    assert row(result)["gflop"] == 4


def test_long_gaps_go_through_exact_integers():
    big = np.array([2**53 - 1, 10, 7], np.int64)
    by = np.array([2**40 + 7, 0, 3], np.int64)
    cut = np.array([2**40 + 6, 5, 2], np.int64)
    assert muldiv(big, cut, by).tolist() == [(2**53 - 1) * (2**40 + 6) // (2**40 + 7), 0, 4]


def slices(key: str, weight: int, from_us: int = 0, to_us: int | None = None) -> Allocation:
    return Allocation(
        "s", key, f"t{key}", "p", key, (Subject("n1", (TEXT[S1],)),), BASE + from_us,
        None if to_us is None else BASE + to_us, shared=True, weight=weight, parts=7,
    )  # fmt: skip


def test_those_who_share_a_gpu_have_their_weights_of_all_that_it_did():
    values = [states(0, 0, 0, 0), states(50, 50, 0, 20), sample(0, gflop=0), sample(50, gflop=100)]
    result = compute(values, [slices("b", 3), slices("a", 2, 0, 30 * SECOND)])
    a, b = row(result, "tenant", "ta", "p", "a"), row(result, "tenant", "tb", "p", "b")
    nobody = row(result)
    # 60 GFLOP while both were there: 60·2//7, 60·5//7 − 60·2//7; then 40: 40·3//7.
    assert (a["gflop"], b["gflop"], nobody["gflop"]) == (17, 42 - 17 + 17, 18 + 23)
    assert a["active_us"] == 12_000_000 * 2 // 7
    assert sum(a[name] for name in STATES) == 12_000_000 * 2 // 7 + 18_000_000 * 2 // 7
    assert {one["origin"] for one in (a, b, nobody)} == {3}
    assert sum(one[name] for one in (a, b, nobody) for name in STATES) == HOUR


@settings(max_examples=100, deadline=None)
@given(
    sample_lists(),
    st.lists(sharing, max_size=6, unique_by=lambda one: (one.source, one.id)),
    st.randoms(use_true_random=False),
)
def test_shares_add_up_to_the_whole_in_any_order_of_claims(
    samples: list[Sample], allocations: list[Allocation], random: np.random.Generator
):
    hours = range(H - 1, H + 3)
    whole = compute(samples, hours=hours).by_key()
    shared = compute(samples, allocations, hours=hours)
    random.shuffle(allocations)  # pyright: ignore[reportArgumentType]
    assert compute(samples, allocations, hours=hours).by_key() == shared.by_key()
    sums: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    for key, one in shared.by_key().items():
        assert all(one[name] >= 0 for name in FIGURES)
        sums[key[0], key[2]].update({name: one[name] for name in FIGURES})
    expected = {(key[0], key[2]): {n: one[n] for n in FIGURES} for key, one in whole.items()}
    assert {key: {n: one[n] for n in FIGURES} for key, one in sums.items()} == expected


@settings(max_examples=150, deadline=None)
@given(
    sample_lists(),
    st.lists(held, max_size=4) | st.lists(sharing, max_size=6),
    sites,
    st.randoms(use_true_random=False),
)
def test_rows_equal_the_plain_reference(
    samples: list[Sample],
    allocations: list[Allocation],
    site: Inventory,
    random: np.random.Generator,
):
    hours = range(H - 1, H + 3)
    expected = rows(samples, allocations, site, hours, TEXT)
    shuffled = samples + samples[:3]
    random.shuffle(shuffled)  # pyright: ignore[reportArgumentType]
    result = compute(shuffled, allocations, site, hours).by_key()
    assert {
        key: {n: v for n, v in one.items() if n != "origin"} for key, one in result.items()
    } == expected
    for hour in hours:
        for entry in site.nodes:
            length = min(entry.to_us or (hour + 1) * HOUR, (hour + 1) * HOUR) - max(
                entry.from_us, hour * HOUR
            )
            owned = sum(
                one[state]
                for key, one in result.items()
                if key[0] == hour and key[1] == entry.name and key[2] == S1
                for state in STATES
            )
            if sum(other.name == entry.name for other in site.nodes) == 1:
                assert owned == max(length, 0)


@settings(max_examples=100, deadline=None)
@given(sample_lists(), st.lists(held, max_size=2))
def test_hours_one_by_one_with_known_spans_equal_all_at_once(
    samples: list[Sample], allocations: list[Allocation]
):
    """An hour needs the points in it and next to it, and the spans of the rest."""
    hours = range(H - 1, H + 2)
    whole = compute(samples, allocations, hours=hours).by_key()
    spans = merge_spans([spans_of(parts_of(samples[::2])), spans_of(parts_of(samples[1::2]))])
    site = inventory()
    one_by_one: dict[RowKey, dict[str, int]] = {}
    for hour in hours:
        result = compute_hours(
            parts_of(samples),
            claims_by_node(allocations),
            site,
            range(hour, hour + 1),
            ["n1"],
            spans=spans,
        )
        one_by_one.update(result.by_key())
    assert one_by_one == whole


@pytest.mark.parametrize("until", [0, HOUR // 2])
def test_a_site_without_nodes_has_no_rows(until: int):
    empty = Inventory("t", "T", "UTC", "fp16", "dense", "boost", ())
    assert len(compute([sample(0, gflop=1)], site=empty, until_us=BASE + until)) == 0
