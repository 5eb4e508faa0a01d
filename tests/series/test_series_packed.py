"""Packed parts: what goes in comes out, and a plain reader of the documented form agrees."""

from __future__ import annotations

import base64
import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series_data import MINUTE_US, part_rows, random_parts, unique_parts

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT
from pipeline.series.columns import select_parts
from pipeline.series.packed import holds, pack_counters, pack_gauges, word_and_bit
from pipeline.series.port import MinuteParts
from pipeline.series.unpacked import UnpackableError, unpack_counters, unpack_gauges

WIDTHS = (0, 1, 4, 8)
HEAD = ("run", "label_epoch", "writer", "energy_epoch", "eviction", "origin")


def texts(matrix: Any) -> list[str]:
    return [bytes(row).decode() for row in matrix]


def unpacked(parts: MinuteParts, counters: list[str], gauges: list[str]) -> MinuteParts:
    keys, spans = unpack_counters(counters, parts.minute, CATALOGUE.counters)
    found = unpack_gauges(gauges, parts.minute, CATALOGUE.gauges)
    return replace(parts, **keys, counters=spans, gauges=found)


def plain(text: str, head: str) -> tuple[tuple[int, ...], dict[str, tuple[Any, ...]]]:
    """One text read as the format's description says, byte by byte."""
    data = base64.b64decode(text)
    version, times, count = struct.unpack_from("<BBH", data)
    assert version == 1
    codes = [int.from_bytes(data[4 + 3 * i : 7 + 3 * i], "little") for i in range(count)]
    at = 4 + 3 * count
    keys = struct.unpack_from(head, data, at)
    at += struct.calcsize(head)
    spans = [struct.unpack_from("<II", data, at + 8 * i) for i in range(times)]
    at += 8 * times
    rows: dict[str, tuple[Any, ...]] = {}
    for code in codes:
        metric = next(m for m in CATALOGUE if m.number == code >> 12)
        first, second = WIDTHS[code >> 2 & 3], WIDTHS[code & 3]
        one, two = data[at : at + first], data[at + first : at + first + second]
        at += first + second
        first_us, last_us = spans[code >> 4 & 0xFF]
        if metric in CATALOGUE.counters:
            value = int.from_bytes(one, "little")
            if value != 256**first - 1:
                last = (value + int.from_bytes(two, "little")) % 2**64
                rows[metric.name] = (first_us, value, last_us, last)
        else:
            last = struct.unpack("<f", one)[0]
            low, high = struct.unpack("<ff", two) if second else (last, last)
            if not math.isnan(last):
                rows[metric.name] = (low, high, last, last_us)
    return keys, rows


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.2, 1.0]), st.integers(1, 12))
@settings(deadline=None, max_examples=20)
def test_parts_come_out_as_they_went_in(seed: int, absent: float, rows: int) -> None:
    parts = unique_parts(seed, rows, absent=absent)
    counters, gauges = texts(pack_counters(parts)), texts(pack_gauges(parts))
    assert part_rows(unpacked(parts, counters, gauges)) == part_rows(parts)


def test_parts_packed_apart_are_read_together_and_few_metrics_of_them() -> None:
    parts = unique_parts(5, 60, absent=0.3)
    sets = [select_parts(parts, slice(start, start + 7)) for start in range(0, len(parts), 7)]
    counters = [text for one in sets for text in texts(pack_counters(one))]
    gauges = [text for one in sets for text in texts(pack_gauges(one))]
    assert part_rows(unpacked(parts, counters, gauges)) == part_rows(parts)
    few = [CATALOGUE.by_name["gflop"]]
    _, spans = unpack_counters(counters, parts.minute, few)
    assert list(spans) == ["gflop"]
    assert np.array_equal(spans["gflop"].last, parts.counters["gflop"].last)


def test_the_form_is_as_documented() -> None:
    parts = random_parts(6, 9, absent=0.2)
    start_us = (parts.minute * MINUTE_US).tolist()
    counters, gauges = texts(pack_counters(parts)), texts(pack_gauges(parts))
    for row in range(len(parts)):
        keys, found = plain(counters[row], "<QQQQiB")
        assert keys == tuple(int(getattr(parts, name)[row]) for name in HEAD)
        expected = {
            name: (
                int(span.first_us[row]) - start_us[row],
                int(span.first[row]),
                int(span.last_us[row]) - start_us[row],
                int(span.last[row]),
            )
            for name, span in parts.counters.items()
            if int(span.first[row]) != COUNTER_ABSENT
        }
        assert found == expected
        assert {
            name
            for name in parts.counters
            if int(holds(parts)[word_and_bit(CATALOGUE.by_name[name])[0]][row])
            >> word_and_bit(CATALOGUE.by_name[name])[1]
            & 1
        } == set(expected)
        assert plain(gauges[row], "<")[1] == {
            name: (
                float(span.minimum[row]),
                float(span.maximum[row]),
                float(span.last[row]),
                int(span.last_us[row]) - start_us[row],
            )
            for name, span in parts.gauges.items()
            if not np.isnan(span.last[row])
        }


def test_values_at_the_edges_of_their_widths() -> None:
    parts = random_parts(7, 1, absent=0.0, counters=("energy_mj",), gauges=())
    span = parts.counters["energy_mj"]
    for first in (0, 254, 255, 256, 2**32 - 2, 2**32 - 1, 2**53 - 1):
        for gain in (0, 1, 2**32 - 1, 2**32, 1 - first):
            value = np.array([first], np.uint64)
            last = np.array([(first + gain) % 2**64], np.uint64)
            one = replace(parts, counters={"energy_mj": replace(span, first=value, last=last)})
            _, found = unpack_counters(
                texts(pack_counters(one)), one.minute, [CATALOGUE.by_name["energy_mj"]]
            )
            assert (int(found["energy_mj"].first[0]), int(found["energy_mj"].last[0])) == (
                first,
                int(last[0]),
            )


def test_a_text_of_another_version_is_not_guessed_at() -> None:
    parts = random_parts(8, 2, absent=0.0)
    (text, _) = texts(pack_counters(parts))
    data = bytearray(base64.b64decode(text))
    data[0] = 2
    other = base64.b64encode(data).decode()
    with pytest.raises(UnpackableError, match="version"):
        unpack_counters([other], parts.minute[:1], CATALOGUE.counters)
    with pytest.raises(UnpackableError, match="cut off"):
        unpack_counters([text[:-40]], parts.minute[:1], CATALOGUE.counters)
