"""What every series store must do, on DuckDB and on a real InfluxDB."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from series_data import (
    MINUTE_US,
    mask_rows,
    part_rows,
    random_masks,
    random_parts,
    random_raw,
    raw_rows,
    slot_at,
    unique_parts,
)

from collectors.contract.catalogue import (
    CATALOGUE,
    COUNTER_ABSENT,
    COUNTER_LIMIT,
    Kind,
    Metric,
    Own,
)
from collectors.kit.clock import SystemClock
from pipeline.series import open_series
from pipeline.series.columns import concat_parts, select_parts, select_raw
from pipeline.series.port import (
    CounterSpan,
    MinuteParts,
    RawSamples,
    SeriesStore,
    StoreUnavailableError,
    WriteBatch,
)

NODES = ("node-b", "node-a", 'odd ,="name')


@pytest.fixture
def first_minute() -> int:
    """A minute an hour ago, within every retention."""
    return SystemClock().wall_us() // MINUTE_US - 60


@pytest.fixture(params=["duckdb", pytest.param("influxdb", marks=pytest.mark.stack)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SeriesStore]:
    """A store of the test's own, gone afterwards."""
    if request.param == "duckdb":
        opened = open_series(f"duckdb://{tmp_path}/series.duckdb")
    else:
        influx = request.getfixturevalue("influx")
        opened = open_series(influx.store, token=influx.token, prefix=f"test-{uuid4().hex[:12]}")
    await opened.start()
    try:
        yield opened
    finally:
        await opened.drop()
        await opened.close()


async def all_minutes(store: SeriesStore, minute: int, **options: Any) -> dict[Any, Any]:
    return part_rows(await store.minutes(minute - 100, minute + 100, **options))


async def all_raw(store: SeriesStore, minute: int, nodes: Any = NODES) -> dict[Any, Any]:
    rows: dict[Any, Any] = {}
    for node in nodes:
        span = ((minute - 100) * MINUTE_US, (minute + 100) * MINUTE_US)
        rows |= raw_rows(await store.raw(*span, node=node))
    return rows


async def test_parts_come_back_as_written(store: SeriesStore, first_minute: int) -> None:
    parts = unique_parts(1, 80, nodes=NODES, first_minute=first_minute, slots=3, minutes=3)
    result = await store.write(WriteBatch(minutes=parts))
    assert result.stored == len(parts)
    assert not result.refused
    assert await all_minutes(store, first_minute) == part_rows(parts)


async def test_raw_comes_back_as_recorded_in_order(store: SeriesStore, first_minute: int) -> None:
    raw = random_raw(2, 40, nodes=NODES, first_us=first_minute * MINUTE_US + 7)
    halves = [select_raw(raw, slice(100, None)), select_raw(raw, slice(0, 100))]
    assert (await store.write(WriteBatch(raw=halves))).stored == len(raw)
    assert await all_raw(store, first_minute) == raw_rows(raw)
    one = await store.raw(0, 2**62, node=NODES[0])
    assert list(raw_rows(one)) == sorted(raw_rows(one))


async def test_masks_come_back_as_written(store: SeriesStore, first_minute: int) -> None:
    masks = random_masks(3, 30, nodes=NODES, first_minute=first_minute)
    await store.write(WriteBatch(masks=masks))
    await store.write(WriteBatch(masks=masks))
    found = await store.masks(first_minute, first_minute + 100)
    assert mask_rows(found) == mask_rows(masks)
    few = await store.masks(first_minute, first_minute + 2, nodes=[NODES[2], "nobody"])
    expected = {
        key: row
        for key, row in mask_rows(masks).items()
        if key[0] == NODES[2] and key[1] < first_minute + 2
    }
    assert mask_rows(few) == expected


async def test_written_twice_is_written_once(store: SeriesStore, first_minute: int) -> None:
    parts = unique_parts(4, 30, first_minute=first_minute)
    raw = random_raw(4, 5, first_us=first_minute * MINUTE_US)
    for _ in range(2):
        await store.write(WriteBatch(raw=[raw, raw], minutes=parts))
    assert await all_minutes(store, first_minute) == part_rows(parts)
    assert await all_raw(store, first_minute) == raw_rows(raw)


async def test_a_later_version_of_a_part_replaces_the_earlier(
    store: SeriesStore, first_minute: int
) -> None:
    later = unique_parts(5, 60, first_minute=first_minute, slots=3)
    random = np.random.default_rng(5)
    # An open minute's earlier versions know fewer metrics and earlier last points.
    counters = {
        name: CounterSpan(span.first_us, span.first, span.first_us, span.first)
        for name, span in later.counters.items()
        if random.random() < 0.7
    }
    gauges = {
        name: replace(span, minimum=span.last, maximum=span.last)
        for name, span in later.gauges.items()
        if random.random() < 0.7
    }
    await store.write(WriteBatch(minutes=replace(later, counters=counters, gauges=gauges)))
    await store.write(WriteBatch(minutes=later))
    assert await all_minutes(store, first_minute) == part_rows(later)


async def test_a_part_rewritten_long_after_is_still_one(
    store: SeriesStore, first_minute: int
) -> None:
    old = unique_parts(6, 20, first_minute=first_minute - 50, minutes=1)
    await store.write(WriteBatch(minutes=old))
    for minute in range(first_minute - 40, first_minute, 8):
        new = unique_parts(minute, 10, first_minute=minute, minutes=1)
        await store.write(WriteBatch(minutes=new))
    lower = {
        name: CounterSpan(span.first_us, span.first, span.first_us, span.first)
        for name, span in old.counters.items()
    }
    await store.write(WriteBatch(minutes=replace(old, counters=lower)))
    found = await store.minutes(first_minute - 50, first_minute - 49)
    assert part_rows(found) == part_rows(replace(old, counters=lower))


async def test_only_what_is_asked_for(store: SeriesStore, first_minute: int) -> None:
    parts = unique_parts(7, 90, nodes=NODES, first_minute=first_minute, slots=3, minutes=4)
    await store.write(WriteBatch(minutes=parts))
    found = await store.minutes(
        first_minute + 1,
        first_minute + 3,
        nodes=[NODES[2], NODES[0], "nobody"],
        slots=[slot_at(0), slot_at(2), slot_at(30)],
        counters=["energy_mj"],
        gauges=[],
    )
    chosen = (
        (parts.minute >= first_minute + 1)
        & (parts.minute < first_minute + 3)
        & np.isin(np.array(parts.nodes)[parts.node], [NODES[2], NODES[0]])
        & (parts.slot != slot_at(1))
    )
    expected = select_parts(parts, np.asarray(chosen))
    expected = replace(expected, counters={"energy_mj": expected.counters["energy_mj"]}, gauges={})
    assert len(expected) > 3
    assert part_rows(found) == part_rows(expected)
    assert set(found.counters) == {"energy_mj"}
    assert not found.gauges
    assert len(await store.minutes(first_minute, first_minute + 9, nodes=[])) == 0
    assert len(await store.minutes(first_minute + 50, first_minute + 60)) == 0


async def test_more_nodes_than_a_query_names(store: SeriesStore, first_minute: int) -> None:
    nodes = [f"node-{index:04d}" for index in range(450)]
    parts = unique_parts(
        8, 900, nodes=nodes, first_minute=first_minute, counters=["gflop"], gauges=["power_w"]
    )
    await store.write(WriteBatch(minutes=parts))
    asked = nodes[50:]
    found = await store.minutes(
        first_minute, first_minute + 2, nodes=asked, counters=["gflop"], gauges=["power_w"]
    )
    among = np.isin(np.array(parts.nodes)[parts.node], asked)
    assert part_rows(found) == part_rows(select_parts(parts, among))


async def test_edges_of_numbers(store: SeriesStore, first_minute: int) -> None:
    largest = COUNTER_LIMIT - 1
    zeros = np.zeros(3, np.int32)
    powers = np.array([390.78, 0.0, np.nan], np.float32)
    raw = RawSamples(
        nodes=["n"],
        node=zeros,
        slot=np.array([slot_at(i) for i in range(3)], np.uint64),
        time_us=np.full(3, first_minute * MINUTE_US, np.int64),
        origin=np.array([1, 2, 3], np.uint8),
        values={
            "energy_mj": np.array([largest, 0, COUNTER_ABSENT], np.uint64),
            "power_w": powers,
            "gpu_temperature_c": np.array([-39.5, 0.1, 83.0], np.float32),
            "memory_used_bytes": np.array([84_000_000_000, np.nan, 0], np.float32),
        },
    )
    await store.write(WriteBatch(raw=[raw]))
    found = await all_raw(store, first_minute, ["n"])
    assert found == raw_rows(raw)
    rows = [found[key] for key in sorted(found, key=lambda key: key[1])]
    assert rows[0]["energy_mj"] == largest
    assert rows[0]["power_w"] == np.float32(390.78)
    assert rows[1]["power_w"] == 0.0
    assert "power_w" not in rows[2]


async def test_a_sample_without_values_is_no_row(store: SeriesStore, first_minute: int) -> None:
    raw = random_raw(9, 2, first_us=first_minute * MINUTE_US, absent=1.0)
    assert (await store.write(WriteBatch(raw=[raw]))).stored == len(raw)
    assert await all_raw(store, first_minute) == {}
    powers = raw.values["power_w"].copy()
    powers[::2] = 5.0
    await store.write(WriteBatch(raw=[replace(raw, values={**raw.values, "power_w": powers})]))
    assert len(await all_raw(store, first_minute)) == len(raw) // 2
    asked = await store.raw(0, 2**62, node="node-a", metrics=["gflop"])
    assert len(asked) == 0


async def test_raw_by_range_slot_and_metric(store: SeriesStore, first_minute: int) -> None:
    start_us = first_minute * MINUTE_US
    raw = random_raw(10, 30, first_us=start_us, absent=0.0)
    await store.write(WriteBatch(raw=[raw]))
    found = await store.raw(
        start_us + 5_000_000,
        start_us + 9_000_000,
        node="node-a",
        slots=[slot_at(1)],
        metrics=["power_w", "energy_mj"],
    )
    assert found.time_us.tolist() == [start_us + tick * 1_000_000 for tick in range(5, 9)]
    assert set(found.slot.tolist()) == {slot_at(1)}
    assert set(found.values) == {"power_w", "energy_mj"}
    assert len(await store.raw(0, 2**62, node="nobody")) == 0


async def test_latest(store: SeriesStore, first_minute: int) -> None:
    assert await store.latest_us() is None
    start_us = first_minute * MINUTE_US
    raw = random_raw(11, 12, first_us=start_us)
    early = select_raw(raw, (raw.node == 0) | (raw.time_us < start_us + 4_000_000))
    await store.write(WriteBatch(raw=[early]))
    assert await store.latest_us() == start_us + 11_000_000
    assert await store.latest_us(nodes=["node-a"]) == start_us + 3_000_000
    assert await store.latest_us(nodes=["nobody"]) is None
    assert await store.latest_us(nodes=[]) is None


async def test_nearest(store: SeriesStore, first_minute: int) -> None:
    minutes = first_minute + np.array([0, 3, 9, 20, 21])
    span = random_parts(12, 5, absent=0.0, counters=["energy_mj"], gauges=[])
    span = replace(
        span,
        node=np.zeros(5, np.int32),
        slot=np.full(5, slot_at(0), np.uint64),
        minute=minutes,
        counters={
            "energy_mj": CounterSpan(
                minutes * MINUTE_US,
                np.full(5, 7, np.uint64),
                minutes * MINUTE_US + 5,
                np.full(5, 9, np.uint64),
            )
        },
    )
    await store.write(WriteBatch(minutes=span))
    ask: dict[str, Any] = {"nodes": ["node-b"], "counter": "energy_mj", "reach": 10}

    async def nearest(minute: int, *, before: bool, **other: Any) -> list[int]:
        found = await store.nearest(first_minute + minute, before=before, **(ask | other))
        assert all(place[:2] == ("node-b", slot_at(0)) for place in found)
        return [place[2] - first_minute for place in found]

    assert await nearest(9, before=True) == [3]
    assert await nearest(9, before=False) == [9]
    assert await nearest(10, before=False) == [20]
    assert await nearest(10, before=False, reach=9) == []
    assert await nearest(19, before=True) == [9]
    assert await nearest(19, before=True, reach=9) == []
    assert await nearest(9, before=True, counter="gflop") == []
    assert await nearest(9, before=True, nodes=["node-a"]) == []
    with pytest.raises(ValueError, match="power_w"):
        await nearest(9, before=True, counter="power_w")


async def test_deleting_a_range_of_minutes(store: SeriesStore, first_minute: int) -> None:
    parts = unique_parts(13, 120, nodes=NODES, first_minute=first_minute, slots=3, minutes=5)
    await store.write(WriteBatch(minutes=parts))
    await store.delete_minutes(first_minute + 1, first_minute + 3, node=NODES[2])
    await store.delete_minutes(first_minute, first_minute + 2, node=NODES[0], slot=slot_at(1))
    await store.delete_minutes(first_minute, first_minute, node=NODES[1])
    expected = {
        key: row
        for key, row in part_rows(parts).items()
        if not (key[0] == NODES[2] and first_minute + 1 <= key[2] < first_minute + 3)
        and not (key[0] == NODES[0] and key[1] == slot_at(1) and key[2] < first_minute + 2)
    }
    assert len(expected) < len(parts)
    assert await all_minutes(store, first_minute) == expected


async def test_a_new_catalogue_row_is_stored(store: SeriesStore, first_minute: int) -> None:
    before = unique_parts(14, 10, first_minute=first_minute)
    await store.write(WriteBatch(minutes=before))
    gauge = Metric("coolant_c", 200, "°C", "Made up.", (0, 90), Kind.GAUGE, Own(), 2)
    counter = Metric("pumped_ml", 201, "ml", "Made up.", (0, 2**53 - 1), Kind.COUNTER, Own())
    with CATALOGUE.extended(gauge, counter):
        await store.close()
        await store.start()
        after = unique_parts(15, 10, first_minute=first_minute + 5)
        raw = random_raw(15, 3, first_us=first_minute * MINUTE_US)
        await store.write(WriteBatch(raw=[raw], minutes=after))
        assert "coolant_c" in after.gauges
        assert await all_minutes(store, first_minute) == part_rows(concat_parts([before, after]))
        assert await all_raw(store, first_minute) == raw_rows(raw)


async def test_a_closed_store_is_unavailable_until_started(
    store: SeriesStore, first_minute: int
) -> None:
    parts = unique_parts(18, 10, first_minute=first_minute)
    await store.write(WriteBatch(minutes=parts))
    await store.close()
    with pytest.raises(StoreUnavailableError):
        await store.write(WriteBatch(minutes=parts))
    with pytest.raises(StoreUnavailableError):
        await store.minutes(first_minute, first_minute + 2)
    await store.start()
    assert await all_minutes(store, first_minute) == part_rows(parts)


async def test_health_names_store_and_version(store: SeriesStore) -> None:
    health = await store.health()
    assert health["store"] in {"duckdb", "influxdb"}
    assert health["version"]
    assert not any("token" in name for name in health)


async def test_what_was_dropped_is_gone(store: SeriesStore, first_minute: int) -> None:
    await store.write(WriteBatch(minutes=unique_parts(16, 10, first_minute=first_minute)))
    await store.drop()
    await store.start()
    assert await all_minutes(store, first_minute) == {}


async def test_an_empty_batch_is_no_work(store: SeriesStore) -> None:
    result = await store.write(WriteBatch())
    assert (result.stored, list(result.refused)) == (0, [])


def test_parts_outside_their_minute_are_a_mistake_of_the_caller() -> None:
    from pipeline.series.packed import pack_counters, pack_gauges  # noqa: PLC0415

    parts: MinuteParts = unique_parts(17, 5)
    for pack in (pack_counters, pack_gauges):
        with pytest.raises(ValueError, match="outside its minute"):
            pack(replace(parts, minute=parts.minute + 1))
