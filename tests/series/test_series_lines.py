"""Lines rendered as matrices say what a plain renderer says, whatever is absent."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series_data import FIRST_MINUTE, MINUTE_US, random_masks, random_parts, random_raw, slot_at

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, COUNTER_LIMIT, Kind
from collectors.contract.identity import Slot, pack_slot, slot_text
from collectors.contract.record import Origin
from pipeline.series import lines
from pipeline.series.columns import select_raw
from pipeline.series.digits import floats, integers, render
from pipeline.series.port import RawSamples

Point = tuple[str, frozenset[tuple[str, str]], frozenset[tuple[str, Any]], int]
_TAG = re.compile(r"(?<!\\),")


def parse(line: str) -> Point:
    """One line as (measurement, tags, fields, ns); numbers exactly."""
    head, fields, time_ns = re.split(r"(?<!\\) ", line.strip())
    measurement, *tags = _TAG.split(head)
    values: list[tuple[str, Any]] = []
    for field in fields.split(","):
        name, _, value = field.partition("=")
        values.append((name, int(value[:-1]) if value.endswith("i") else Decimal(value)))
    pairs = [_unescaped(tag).partition("=") for tag in tags]
    names = frozenset((name, value) for name, _, value in pairs)
    return measurement, names, frozenset(values), int(time_ns)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([,= ])", r"\1", text)


def points(blocks: Any) -> list[Point]:
    text = b"".join(bytes(block.lines) for block in blocks).decode()
    return [parse(line) for line in text.splitlines()]


def expected(samples: RawSamples) -> list[Point]:
    rows: list[Point] = []
    for i in range(len(samples)):
        fields: list[tuple[str, Any]] = []
        for name, column in samples.values.items():
            metric = CATALOGUE.by_name[name]
            if metric.kind is Kind.COUNTER:
                if int(column[i]) != COUNTER_ABSENT:
                    fields.append((name, int(column[i])))
            elif not np.isnan(column[i]):
                digit = Decimal(1).scaleb(-metric.decimals)
                exact = Decimal(float(column[i])).quantize(digit, ROUND_HALF_EVEN)
                fields.append((name, exact))
        tags = {
            ("node", str(samples.nodes[int(samples.node[i])])),
            ("slot", slot_text(int(samples.slot[i]))),
            ("origin", Origin(int(samples.origin[i])).name.lower()),
        }
        if fields:
            time_ns = int(samples.time_us[i]) * 1_000
            rows.append(("gpu", frozenset(tags), frozenset(fields), time_ns))
    return rows


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.05, 0.5, 1.0]))
@settings(deadline=None, max_examples=25)
def test_raw_lines_are_what_a_plain_renderer_says(seed: int, absent: float) -> None:
    samples = random_raw(seed, 8, nodes=("a", "node with, odd=name"), absent=absent)
    origin = np.random.default_rng(seed).integers(1, 4, len(samples)).astype(np.uint8)
    samples = replace(samples, origin=origin)
    assert Counter(points(lines.raw_blocks(samples))) == Counter(expected(samples))


def test_rows_of_large_patterns_and_the_rest_are_all_there() -> None:
    samples = random_raw(3, 200, nodes=("a", "b", "c", "d"), absent=0.0)
    random = np.random.default_rng(3)
    values: dict[str, Any] = {name: column.copy() for name, column in samples.values.items()}
    values["gflop"][samples.node == 1] = COUNTER_ABSENT
    values["memory_temperature_c"][samples.node >= 2] = np.nan
    for name in ("power_w", "fan_speed", "energy_mj"):
        gone = random.random(len(samples)) < 0.01
        values[name][gone] = COUNTER_ABSENT if name == "energy_mj" else np.nan
    samples = replace(samples, values=values)
    blocks = list(lines.raw_blocks(samples))
    assert sum(block.rows for block in blocks) == len(samples)
    assert len(blocks) > 2
    assert Counter(points(blocks)) == Counter(expected(samples))


def test_slots_of_many_lengths_and_nodes_of_many_lengths() -> None:
    raw = random_raw(11, 3, nodes=("a", "a-much-longer-name", "ü"), slots=6, absent=0.1)
    slots = [
        pack_slot(Slot(0, 0x1B, 0, 0)),
        pack_slot(Slot(0x10000, 0xAF, 0, 0)),
        pack_slot(Slot(0, 0x1B, 0, 0, 1, 0)),
        pack_slot(Slot(0, 0x1B, 0, 0, 13, 0)),
        pack_slot(Slot(0x10000, 0x1B, 0, 0, 13, 11)),
        pack_slot(Slot(0, 0x1C, 0, 0)),
    ]
    slot = np.array(slots, np.uint64)[np.arange(len(raw)) % 6]
    raw = replace(raw, slot=slot)
    assert Counter(points(lines.raw_blocks(raw))) == Counter(expected(raw))


def test_blocks_hold_what_the_server_takes_best() -> None:
    samples = random_raw(4, 600, nodes=[f"n{i}" for i in range(10)], absent=0.0, only=("power_w",))
    blocks = list(lines.raw_blocks(samples))
    assert [block.rows for block in blocks] == [5_000, 5_000, 2_000]
    assert all(bytes(block.lines).count(b"\n") == block.rows for block in blocks)
    parts = random_parts(4, 4_500, counters=("gflop",), gauges=("power_w",), absent=0.0)
    assert [block.rows for block in lines.part_blocks(parts)][-1] <= 2_000
    assert sum(block.rows for block in lines.part_blocks(parts)) == 4_500


numbers = st.floats(-(2.0**40), 2.0**40, width=32)


@given(st.lists(st.one_of(numbers, st.just(float("nan"))), min_size=1), st.integers(0, 5))
@settings(deadline=None)
def test_floats_keep_their_digits(values: list[float], decimals: int) -> None:
    field = floats(b"x", np.array(values, np.float32), decimals)
    prefix = np.tile(np.frombuffer(b"m", np.uint8), (len(values), 1))
    times = np.full(len(values), 1_700_000_000_000_000_000)
    present = [value for value in values if not np.isnan(value)]
    assert (field is None) == (not present)
    if field is None:
        return
    text = bytes(render(prefix, [field], times)).decode()
    # The product is rounded to a double before it is rounded to an integer.
    scaled = [float(np.float64(np.float32(value)) * 10.0**decimals) for value in present]
    found = [float(dict(parse(line)[2])["x"] * 10**decimals) for line in text.splitlines()]
    assert found == [float(round(value)) for value in scaled]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1))
@settings(deadline=None)
def test_integers_lose_nothing(values: list[int]) -> None:
    field = integers(b"x", np.array(values, np.uint64))
    assert field is not None
    prefix = np.tile(np.frombuffer(b"m", np.uint8), (len(values), 1))
    text = bytes(render(prefix, [field], np.full(len(values), 10**18))).decode()
    found = [dict(parse(line)[2])["x"] for line in text.splitlines()]
    assert [value % 2**64 for value in found] == values
    assert all(-(2**63) <= value < 2**63 for value in found)


def test_infinite_and_enormous_gauges_are_absent() -> None:
    raw = random_raw(5, 1, nodes=("a",), slots=3, absent=0.0, only=("power_w", "energy_mj"))
    powers = np.array([np.inf, 1e30, 12.5], np.float32)
    found = points(lines.raw_blocks(replace(raw, values={**raw.values, "power_w": powers})))
    assert ["power_w" in dict(point[2]) for point in found] == [False, False, True]


@pytest.mark.parametrize("name", ["", "a\\", "a\nb", "a\\,b", "x" * 2_000, "a\x00b"])
def test_a_node_that_no_line_can_say_is_refused(name: str) -> None:
    raw = random_raw(6, 2, nodes=("fine", name), absent=0.0, only=("power_w",))
    writable, refused = lines.writable_raw(raw)
    assert len(writable) == 4
    assert len(refused) == 4
    assert {point[1] for point in points(lines.raw_blocks(writable))} == {
        point[1] for point in expected(select_raw(raw, raw.node == 0))
    }
    parts, refused = lines.writable_parts(random_parts(6, 20, nodes=("fine", name)))
    assert len(parts) + len(refused) == 20
    masks, refused = lines.writable_masks(random_masks(6, 10, nodes=("fine", name)))
    assert (len(masks), len(refused)) == (5, 5)


def test_key_offsets_are_as_documented() -> None:
    """splitmix64 in plain Python; points of another hash would stand beside the old ones."""

    def offset(*keys: int) -> int:
        state = 0
        for key in keys:
            state = (state + key + 0x9E3779B97F4A7C15) % 2**64
            state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) % 2**64
            state = ((state ^ state >> 27) * 0x94D049BB133111EB) % 2**64
            state ^= state >> 31
        return state % 60_000_000_000

    columns = np.random.default_rng(7).integers(0, 2**64, (4, 50), np.uint64)
    found = lines.key_offset_ns(*columns).tolist()
    assert found == [offset(*map(int, row)) for row in columns.T]
    assert lines.key_offset_ns(np.array([1], np.uint64)).tolist() == [offset(1)]


def test_a_minute_part_is_few_fields() -> None:
    """The server's CPU goes by the field."""
    parts = random_parts(8, 40, nodes=("a", "b=,"), absent=0.1)
    text = b"".join(bytes(block.lines) for block in lines.part_blocks(parts)).decode()
    fields = [re.split(r"(?<!\\) ", line.strip())[1] for line in text.splitlines()]
    assert len(fields) == 40
    names = [re.findall(r"(\w+)=", re.sub(r'"[^"]*"', "", field)) for field in fields]
    assert all(found == ["part", "gauges", "holds1"] for found in names)
    times = [int(line.rsplit(" ", 1)[1]) for line in text.splitlines()]
    assert times == lines.part_times_ns(parts).tolist()


def test_limits_of_the_wire_fit_a_line() -> None:
    raw = random_raw(9, 1, nodes=("n",), slots=1, absent=0.0, only=("energy_mj",))
    for value in (0, 9, 10, 99_999, 2**32 - 1, 2**32, COUNTER_LIMIT - 1):
        values = {"energy_mj": np.array([value], np.uint64)}
        (point,) = points(lines.raw_blocks(replace(raw, values=values)))
        assert dict(point[2]) == {"energy_mj": value}
        assert point[3] == FIRST_MINUTE * MINUTE_US * 1_000
    assert slot_at(0) == raw.slot[0]
