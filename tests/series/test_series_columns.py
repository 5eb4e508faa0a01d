"""Law 4: merging parts is idempotent, commutative and associative, and says what plain Python says."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from series_data import (
    mask_rows,
    part_rows,
    random_masks,
    random_parts,
    random_raw,
    raw_rows,
)

from collectors.contract.catalogue import COUNTER_ABSENT
from pipeline.series.columns import (
    batched_raw,
    concat_masks,
    concat_parts,
    concat_raw,
    empty_masks,
    empty_parts,
    empty_raw,
    merge_parts,
    select_masks,
    select_parts,
    select_raw,
)
from pipeline.series.port import MinuteParts

NAMES: dict[str, Any] = {"counters": ("energy_mj", "gflop"), "gauges": ("power_w", "sm_clock_mhz")}
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(0, 40)


def some(seed: int, rows: int, nodes: tuple[str, ...] = ("node-b", "node-a")) -> MinuteParts:
    return random_parts(seed, rows, nodes=nodes, **NAMES)


def same(left: MinuteParts, right: MinuteParts) -> None:
    assert len(left) == len(right)
    assert part_rows(left) == part_rows(right)
    assert list(part_rows(left)) == list(part_rows(right))


def by_hand(parts: MinuteParts) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The merge as the design words it, one part after another."""
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for i in range(len(parts)):
        one = select_parts(parts, slice(i, i + 1))
        ((key, row),) = part_rows(one).items()
        key = (*key[:5], 0, 0)
        into = merged.setdefault(key, dict(row))
        for name, value in row.items():
            old = into.get(name, value)
            if isinstance(value, int):
                into[name] = max(old, value)
            elif name in parts.counters:
                into[name] = (*min(old[:2], value[:2]), *max(old[2:], value[2:]))
            else:
                last_us, last = max((old[3], old[2]), (value[3], value[2]))
                into[name] = (min(old[0], value[0]), max(old[1], value[1]), last, last_us)
    return merged


@given(seeds, sizes)
@settings(deadline=None, max_examples=60)
def test_merge_is_what_the_design_words(seed: int, rows: int) -> None:
    parts = some(seed, rows)
    assert part_rows(merge_parts(parts)) == by_hand(parts)


@given(seeds, sizes, sizes, sizes)
@settings(deadline=None, max_examples=60)
def test_merge_is_a_semilattice(seed: int, a: int, b: int, c: int) -> None:
    one, two = some(seed, a), some(seed + 1, b, ("node-c", "node-a"))
    three = some(seed + 2, c)
    whole = merge_parts([one, two, three])
    same(whole, merge_parts(whole))
    same(whole, merge_parts([one, one, two, three, three]))
    same(whole, merge_parts([three, two, one]))
    same(whole, merge_parts([merge_parts([one, two]), three]))
    same(whole, merge_parts([one, merge_parts([two, three])]))
    order = np.random.default_rng(seed).permutation(a)
    same(whole, merge_parts([select_parts(one, order), two, three]))


def test_a_metric_that_one_set_lacks_is_absent_there() -> None:
    with_power = random_parts(1, 5, counters=(), gauges=("power_w",), absent=0.0)
    with_energy = random_parts(2, 5, counters=("energy_mj",), gauges=(), absent=0.0)
    joined = concat_parts([with_power, with_energy])
    assert np.isnan(joined.gauges["power_w"].last[5:]).all()
    assert not np.isnan(joined.gauges["power_w"].last[:5]).any()
    assert (joined.counters["energy_mj"].first[:5] == COUNTER_ABSENT).all()
    assert not joined.counters["energy_mj"].first_us[:5].any()


def test_small_sets_are_joined_to_batches_in_their_order() -> None:
    raw = random_raw(4, 25)
    sets = [select_raw(raw, slice(start, start + 7)) for start in range(0, 100, 7)]
    batches = list(batched_raw([empty_raw(), *sets, empty_raw()], 30))
    assert [len(batch) for batch in batches] == [35, 35, 30]
    assert raw_rows(concat_raw(batches)) == raw_rows(raw)
    assert np.concatenate([batch.time_us for batch in batches]).tolist() == raw.time_us.tolist()
    assert list(batched_raw([empty_raw()], 30)) == []


def test_joining_and_choosing_are_inverse() -> None:
    raw = random_raw(4, 6)
    late = np.asarray(raw.time_us >= raw.time_us[12])
    assert raw_rows(concat_raw([select_raw(raw, late), select_raw(raw, ~late)])) == raw_rows(raw)
    masks = random_masks(5, 9)
    assert mask_rows(
        concat_masks([select_masks(masks, slice(0, 4)), select_masks(masks, slice(4, 9))])
    ) == mask_rows(masks)


def test_empty_sets_join_to_empty() -> None:
    assert len(merge_parts(empty_parts(("gflop",), ("power_w",)))) == 0
    assert len(merge_parts([])) == 0
    assert len(concat_masks([empty_masks()])) == 0
    assert len(concat_raw([empty_raw(), empty_raw()])) == 0
    assert concat_raw([]).values == {}


def test_nodes_without_rows_leave_the_table() -> None:
    parts = random_parts(6, 8, nodes=("only", "never"), **NAMES)
    only = select_parts(parts, parts.node == 0)
    assert concat_parts([only]).nodes == ("only",)
