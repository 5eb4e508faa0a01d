"""The reader's pure parts: values out of a field's bytes, counters, cadence, epochs, checks."""

from __future__ import annotations

import math
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.source import UnsupportedError
from collectors.nvml.cadence import Cadence
from collectors.nvml.counters import GrowingCounter
from collectors.nvml.epoch import EnergyEpochs
from collectors.nvml.fields import plan_fields, raw_value
from collectors.nvml.throttle import ThrottleCheck

DOUBLE, UINT, ULONG, ULONGLONG, SLLONG, SINT, USHORT = range(7)
SECOND_US = 1_000_000


def bits(code: str, value: float) -> int:
    return int.from_bytes(struct.pack(f"<{code}", value).ljust(8, b"\xaa"), "little")


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (DOUBLE, bits("d", 390.5), 390.5), (UINT, bits("I", 390_780), 390_780),
        (ULONG, bits("Q", 5), 5), (ULONGLONG, bits("Q", 2**40), 2**40),
        (SLLONG, bits("q", -7), -7), (SINT, bits("i", -2), -2), (USHORT, bits("H", 31), 31),
        (DOUBLE, bits("d", math.nan), None), (DOUBLE, bits("d", math.inf), None),
        (UINT, bits("I", 2**32 - 1), None), (ULONGLONG, bits("Q", 2**64 - 1), None),
        (ULONGLONG, bits("Q", 2**32 - 1), None), (ULONGLONG, 0x7FFFFFFFFFFFFFF0, None),
        (SLLONG, 0x7FFFFFFFFFFFFFF2, None), (SINT, bits("i", 2**31 - 1), None),
        (USHORT, bits("H", 2**16 - 1), None), (7, 1, None), (-1, 0, None),
    ],
)  # fmt: skip
def test_bytes_become_values_and_sentinels_none(kind: int, raw: int, value: float | None) -> None:
    assert raw_value(kind, raw) == value


@given(st.integers(0, 6), st.integers(0, 2**64 - 1))
def test_whatever_the_bytes_a_planned_value_is_in_the_rows_range(kind: int, raw: int) -> None:
    value = raw_value(kind, raw)
    for planned in plan_fields(CATALOGUE, (580, 95)):
        made = None if value is None else planned.convert(value)
        low, high = CATALOGUE.by_name[planned.metric].valid
        traffic = planned.metric.endswith("_bytes")
        assert made is None or low <= made <= (math.inf if traffic else high)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50), st.integers(0, 2**32 - 1))
def test_a_wrapping_counter_gives_exactly_what_was_added(steps: list[int], start: int) -> None:
    counter = GrowingCounter(2e9)
    total = start
    first = grown = counter.take(start, 0)
    for number, step in enumerate(steps, 1):
        total += step
        grown = counter.take(total % 2**32, number * SECOND_US)
    assert grown - first == sum(steps)


@given(st.lists(st.integers(0, 2**63), min_size=2, max_size=50))
def test_a_garbled_counter_never_grows_faster_than_it_can(readings: list[int]) -> None:
    counter, most_per_s = GrowingCounter(1e9), 10**9
    totals = [counter.take(raw, at * SECOND_US) for at, raw in enumerate(readings)]
    for before, after in pairwise(totals):
        assert after - before <= most_per_s
        assert 0 <= after < 2**52


def test_a_counter_that_wraps_unseen_is_given_up() -> None:
    counter = GrowingCounter(128e9)
    for at, raw in enumerate((9, 1, 9, 1, 9)):
        counter.take(raw, at * SECOND_US)
    with pytest.raises(UnsupportedError, match="32 bits"):
        counter.take(1, 5 * SECOND_US)


def test_a_total_begins_again_before_it_is_too_large_to_be_exact() -> None:
    counter = GrowingCounter(1e15)
    totals = [counter.take(raw, raw // 10**8) for raw in range(4 * 10**15, 6 * 10**15, 10**14)]
    assert max(totals) < 2**52
    assert sum(after < before for before, after in pairwise(totals)) == 1


def test_seldom_things_come_at_first_and_then_one_after_another() -> None:
    cadence = Cadence({"a": 30.0, "b": 30.0, "c": 30.0, 30.0: 30.0, "fan": 10.0}, phase=0.5)
    seen: dict[str | float, list[int]] = {}
    at_once: list[int] = []
    for second in range(91):
        due = cadence.due(second * SECOND_US)
        at_once.append(len(due))
        for thing in due:
            seen.setdefault(thing, []).append(second)
    assert at_once[0] == 5
    assert max(at_once[1:]) <= 2
    for thing, every in (("a", 30), ("b", 30), ("c", 30), (30.0, 30), ("fan", 10)):
        later = [after - before for before, after in pairwise(seen[thing][1:])]
        assert set(later) <= {every, every - 1, every + 1}
        assert seen[thing][1] <= every


def test_after_a_pause_a_thing_is_due_once() -> None:
    cadence = Cadence({"a": 30.0})
    assert cadence.due(0) == ["a"]
    assert cadence.due(600 * SECOND_US) == ["a"]
    assert cadence.due(601 * SECOND_US) == []


@pytest.mark.parametrize(
    ("readings", "epochs"),
    [
        ([(0, 5_000), (1, 705_000), (2, 1_400_000)], 1),
        ([(0, 5_000_000), (1, 100)], 2),  # the GPU was reset
        ([(0, 5_000), (1, 10**12)], 2),  # no board takes a gigajoule in a second
        ([(0, 5_000), (1, 10**12), (2, 6_000)], 3),
        ([(0, 5_000), (3600, 5_000 + 3_600_000 * 700)], 1),  # an hour without an answer
        ([(0, 5_000), (1, 5_000)], 1),
    ],
)
def test_energy_epoch_ends_where_the_counter_does_not_go_on(
    readings: list[tuple[int, int]], epochs: int
) -> None:
    energy = EnergyEpochs("GPU-a", "boot")
    seen = {energy.epoch}
    for second, energy_mj in readings:
        energy.take(energy_mj, second * SECOND_US, 1_700_000_000_000_000 + second * SECOND_US)
        seen.add(energy.epoch)
    assert len(seen) == epochs


def throttled(reasons: int, **counters: int) -> dict[str, float]:
    values: dict[str, float] = {"clocks_event_reasons": reasons}
    return values | {f"throttle_{k}_us": v for k, v in counters.items()}


def test_a_counter_that_stands_while_its_bit_is_set_is_another() -> None:
    check = ThrottleCheck()
    wrong = [
        check.wrong(throttled(0x20, sw_thermal=7, hw_thermal=5), s * SECOND_US) for s in range(5)
    ]
    assert wrong == [frozenset(), frozenset(), frozenset(), {"throttle_sw_thermal_us"}, frozenset()]


@pytest.mark.parametrize(
    ("reasons", "values"),
    [
        ([0x20, 0x20, 0, 0x20, 0x20, 0x20], [7] * 6),  # never set for three seconds
        ([0x20] * 6, [7, 7, 8, 8, 8, 8]),  # it has moved once: it is what it is taken for
        ([0x40] * 6, [7] * 6),  # another's bit
        ([0x1] * 6, [7] * 6),
    ],
)
def test_a_counter_that_may_be_right_is_kept(reasons: list[int], values: list[int]) -> None:
    check = ThrottleCheck()
    for second, (bit, value) in enumerate(zip(reasons, values, strict=True)):
        assert not check.wrong(throttled(bit, sw_thermal=value), second * SECOND_US)
