"""The minute in memory is a semilattice: against a plain dictionary, in any order and batching."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT
from collectors.contract.identity import Slot, pack_slot
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.wire import encode
from pipeline.decode.reader import Reader
from pipeline.decode.slots import SlotTable
from pipeline.series.columns import concat_parts, merge_parts
from pipeline.series.port import MASK_BITS, MinuteParts, NodeMasks
from pipeline.store.minutes import MINUTE_US, Minutes
from pipeline.store.validate import TimeRules, Validator

SLOTS = [pack_slot(Slot(0, i + 1, 0, 0)) for i in range(3)]
COUNTERS = ("energy_mj", "gflop")
GAUGES = ("power_w", "gpu_temperature_c")


@st.composite
def record(draw: st.DrawFn) -> NodeRecord:
    slots = draw(st.sampled_from([SLOTS, SLOTS[:2], SLOTS[::-1]]))
    n = len(slots)
    counter = st.one_of(st.just(COUNTER_ABSENT), st.integers(0, 5))
    gauge = st.one_of(st.just(math.nan), st.integers(0, 5).map(float))
    values: dict[str, list[float]] = {}
    for names, value in ((COUNTERS, counter), (GAUGES, gauge)):
        for name in names:
            if draw(st.booleans()):
                values[name] = draw(st.lists(value, min_size=n, max_size=n))
    return NodeRecord(
        draw(st.sampled_from(["a", "b"])), Origin.SIMULATED, draw(st.integers(1, 2)),
        draw(st.integers(0, 100)), 1000 * MINUTE_US + draw(st.integers(0, 5)) * 25_000_000,
        draw(st.integers(0, 1)), slots, [7] * n, values,
    )  # fmt: skip


Reference = dict[tuple[Any, ...], Any]


def reference(records: list[NodeRecord]) -> Reference:
    """Firsts, lasts, ranges by plain comparison, from the definition."""
    out: Reference = {}
    for r in records:
        for name, column in r.values.items():
            for slot, value in zip(r.slots, column, strict=True):
                if value == COUNTER_ABSENT or math.isnan(value):
                    continue
                key = (r.node, slot, r.time_us // MINUTE_US, r.run, r.label_epoch, name)
                point = (r.time_us, value)
                first, last, low, high = out.get(key, (point, point, value, value))
                out[key] = (min(first, point), max(last, point), min(low, value), max(high, value))
    return out


def flat(parts: MinuteParts) -> Reference:
    out: Reference = {}
    for i in range(len(parts)):
        where = (
            parts.nodes[parts.node[i]], int(parts.slot[i]), int(parts.minute[i]),
            int(parts.run[i]), int(parts.label_epoch[i]),
        )  # fmt: skip
        assert where not in out
        for name in COUNTERS:
            c = parts.counters.get(name)
            if c is not None and c.first[i] != COUNTER_ABSENT:
                first, last = (
                    (int(c.first_us[i]), int(c.first[i])),
                    (int(c.last_us[i]), int(c.last[i])),
                )
                out[*where, name] = (first, last)
        for name in GAUGES:
            g = parts.gauges.get(name)
            if g is not None and not math.isnan(g.last[i]):
                out[*where, name] = (
                    (int(g.last_us[i]), float(g.last[i])),
                    float(g.minimum[i]),
                    float(g.maximum[i]),
                )
    return out


def expected(records: list[NodeRecord]) -> Reference:
    return {
        key: (first, last) if key[-1] in COUNTERS else (last, low, high)
        for key, (first, last, low, high) in reference(records).items()
    }


def seen(masks: list[NodeMasks]) -> set[tuple[str, int, int]]:
    return {
        (m.nodes[int(m.node[i])], int(m.run[i]), int(m.block[i]) * MASK_BITS + bit)
        for m in masks
        for i in range(len(m))
        for bit in range(MASK_BITS)
        if int(m.mask[i]) >> bit & 1
    }


@settings(max_examples=80, deadline=None)
@given(st.lists(record(), min_size=1, max_size=25), st.integers(0, 2**30), st.integers(1, 3))
def test_any_order_any_batching_any_writer(
    records: list[NodeRecord], seed: int, workers: int
) -> None:
    rng = random.Random(seed)
    datas = [encode(r) for r in records] * 2
    rng.shuffle(datas)
    table = SlotTable()
    reader = Reader(table)
    stores = [Minutes(table, writer) for writer in range(workers)]
    parts: list[MinuteParts] = []
    masks: list[NodeMasks] = []
    while datas:
        size = rng.randint(1, 8)
        batch, datas = datas[:size], datas[size:]
        store = rng.choice(stores)
        for group in reader.read(batch).groups:
            store.add(group)
        if rng.random() < 0.5:
            new, mask = store.take()
            parts += new
            masks += [mask] if mask is not None else []
        if rng.random() < 0.2:
            new, mask = store.take()
            parts += new
            masks += [mask] if mask is not None else []
            store.let_go(1001)
    for store in stores:
        new, mask = store.take()
        parts += new
        masks += [mask] if mask is not None else []
    got = flat(merge_parts(concat_parts(parts)))
    assert got == expected(records)
    assert seen(masks) == {(r.node, r.run, r.sequence) for r in records}


def test_a_part_written_again_holds_all_that_it_held() -> None:
    table = SlotTable()
    reader, minutes = Reader(table), Minutes(table, 1)
    keys: dict[tuple[Any, ...], dict[str, Any]] = {}
    for step in range(4):
        values = {"energy_mj": [step, step + 1, COUNTER_ABSENT]}
        r = NodeRecord("a", Origin.SIMULATED, 1, step, 60_000_000 + step, 0, SLOTS, [0] * 3, values)
        for group in reader.read([encode(r)]).groups:
            minutes.add(group)
        parts, _ = minutes.take()
        assert [len(p) for p in parts] == [3]
        span = parts[0].counters["energy_mj"]
        assert span.first.tolist()[:2] == [0, 1]
        assert span.last.tolist()[:2] == [step, step + 1]
        keys[step,] = {}
    assert minutes.take() == ([], None)


def test_ranges_times_and_the_three_that_come_together() -> None:
    table = SlotTable()
    values = {
        "power_w": [math.inf, -1.0, 5.0],
        "gflop": [2**53, 2**53 - 1, COUNTER_ABSENT],
        "observed_us": [1, 2, 3],
        "down_us": [0, 0, COUNTER_ABSENT],
        "active_us": [0, COUNTER_ABSENT, 0],
    }
    bus_us = 10**15
    times = [bus_us, bus_us + 60_000_000, bus_us + 60_000_001, bus_us - 72 * 3600 * 10**6 - 1]
    datas = [
        encode(NodeRecord("a", Origin.MEASURED, 1, i, t, 0, SLOTS, [0] * 3, values))
        for i, t in enumerate(times)
    ]
    (group,) = Reader(table).read(datas).groups
    validator = Validator(TimeRules())
    kept, broken = validator.validate(group, np.full(4, bus_us, np.int64))
    assert kept.sequence.tolist() == [0, 1]
    assert [(b.index, b.reason) for b in broken] == [(2, "future"), (3, "ancient")]
    power = kept.gauges[[m.name for m in CATALOGUE.gauges].index("power_w"), 0]
    assert np.isnan(power[:2]).all()
    assert power[2] == 5.0
    names = [m.name for m in CATALOGUE.counters]
    absent = COUNTER_ABSENT
    assert kept.counters[names.index("gflop"), 0].tolist() == [absent, 2**53 - 1, absent]
    for name in ("observed_us", "down_us", "active_us"):
        column = kept.counters[names.index(name), 0].tolist()
        assert column[1:] == [absent, absent]
        assert column[0] != absent
    assert validator.out_of_range == 4 * 3
