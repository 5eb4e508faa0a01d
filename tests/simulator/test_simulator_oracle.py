"""The oracle against cases counted by hand, and the laws that hold for any records."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_tools import ABSENT, HOUR, NODE, STATES, H, S, ask, claim, key, sample, site

from collectors.contract.catalogue import COUNTER_LIMIT
from collectors.contract.wire import BrokenRecordError
from collectors.simulator.fleet import Fleet
from collectors.simulator.oracle import Oracle, observable_truth
from collectors.simulator.plain import PlainRecord, read_ordinary, read_record
from collectors.simulator.sites import make_site


def test_states_of_one_segment_and_the_rest_of_the_hour():
    truth = ask(
        [
            sample(H + 10 * S, observed_us=0),
            sample(H + 20 * S, observed_us=8 * S, down_us=1 * S, active_us=3 * S),
        ]
    )
    row = truth.rows[key(0)]
    assert (row["active_us"], row["idle_us"], row["down_us"]) == (3 * S, 5 * S, 1 * S)
    assert row["unobserved_us"] == HOUR - 9 * S
    assert row["origin"] == 3
    assert truth.samples == {NODE: 2}


def test_a_segment_over_the_hour_boundary_is_split_by_the_floor_rule():
    truth = ask(
        [
            sample(H - 10 * S, observed_us=0, gflop=7),
            sample(H + 20 * S, observed_us=30 * S, active_us=10 * S, gflop=107),
        ]
    )
    # A third of the way: V = 7 + 100·10//30 = 40, so 33 and 67.
    before, after = truth.rows[key(-1)], truth.rows[key(0)]
    assert (before["gflop"], after["gflop"]) == (33, 67)
    assert (before["active_us"], after["active_us"]) == (3_333_333, 6_666_667)
    assert before["active_us"] + before["idle_us"] == 10 * S
    assert after["active_us"] + after["idle_us"] == 20 * S


def test_known_time_is_never_more_than_the_time_that_passed():
    truth = ask(
        [
            sample(H, observed_us=0),
            sample(H + 10 * S, observed_us=9 * S, down_us=5 * S, active_us=12 * S),
        ]
    )
    row = truth.rows[key(0)]
    # K = 10 s, of it 9 observed and all of them active, 1 down.
    assert [row[name] for name in STATES] == [9 * S, 0, 1 * S, HOUR - 10 * S]


def test_of_overlapping_runs_the_earlier_keeps_the_time():
    records = [
        sample(H, run=1, observed_us=0, gflop=0),
        sample(H + 20 * S, run=1, observed_us=20 * S, gflop=20),
        sample(H + 10 * S, run=2, observed_us=0, gflop=0),
        sample(H + 40 * S, run=2, observed_us=30 * S, gflop=300),
    ]
    row = ask(records).rows[key(0)]
    # Of run 2 only [20 s, 40 s) counts: 20 of its 30 s, 200 of its 300 GFLOP.
    assert row["idle_us"] == 40 * S
    assert row["gflop"] == 20 + 200


def test_a_later_run_on_both_sides_of_an_earlier_one_counts_on_both():
    records = [
        sample(H, run=2, gflop=0), sample(H + 30 * S, run=2, gflop=30),
        sample(H + 10 * S, run=1, gflop=0), sample(H + 20 * S, run=1, gflop=7),
    ]  # fmt: skip
    assert ask(records).rows[key(0)]["gflop"] == 10 + 7 + 10


def test_energy_is_bridged_over_runs_while_its_epoch_holds_and_other_counters_are_not():
    records = [
        sample(H, run=1, energy_mj=1000, gflop=0), sample(H + 10 * S, run=1, energy_mj=2000, gflop=5),
        sample(H + 70 * S, run=2, energy_mj=8000, gflop=0), sample(H + 80 * S, run=2, energy_mj=9000, gflop=3),
    ]  # fmt: skip
    row = ask(records).rows[key(0)]
    assert row["energy_mj"] == 8000
    assert row["gflop"] == 8


def test_a_new_energy_epoch_is_not_bridged():
    records = [
        sample(H, energy_mj=1000, energy_epoch=1), sample(H + 10 * S, energy_mj=2000, energy_epoch=1),
        sample(H + 70 * S, energy_mj=8000, energy_epoch=2, epoch=1),
        sample(H + 80 * S, energy_mj=9500, energy_epoch=2, epoch=1),
    ]  # fmt: skip
    assert ask(records).rows[key(0)]["energy_mj"] == 1000 + 1500


@pytest.mark.parametrize(("gap_us", "bridged"), [(72 * HOUR, True), (72 * HOUR + 1, False)])
def test_an_energy_gap_is_bridged_up_to_72_hours(gap_us: int, bridged: bool):
    truth = ask([sample(H, energy_mj=0), sample(H + gap_us, run=2, energy_mj=72_000)])
    assert sum(row["energy_mj"] for row in truth.rows.values()) == (72_000 if bridged else 0)
    if bridged:
        assert truth.rows[key(40)]["energy_mj"] == 1000
        assert truth.rows[key(40)]["origin"] == 3


def test_a_gap_of_a_run_is_linear_but_its_unknown_time_stays_unobserved():
    records = [
        sample(H, observed_us=0, gflop=0), sample(H + 10 * S, observed_us=10 * S, gflop=10),
        sample(H + 610 * S, observed_us=20 * S, gflop=40),
    ]  # fmt: skip
    row = ask(records).rows[key(0)]
    assert row["idle_us"] == 20 * S
    assert row["gflop"] == 40


def test_a_claim_that_begins_mid_minute_divides_the_segment_around_it():
    records = [
        sample(H, observed_us=0, active_us=0, gflop=0),
        sample(H + 10 * S, observed_us=10 * S, active_us=10 * S, gflop=99),
    ]
    truth = ask(records, claim("a", H + 3 * S, H + 1800 * S))
    nobody, tenant = truth.rows[key(0)], truth.rows[key(0, "tenant", "a")]
    assert (nobody["active_us"], tenant["active_us"]) == (3 * S, 7 * S)
    # V(3 s) = 99·3//10 = 29.
    assert (nobody["gflop"], tenant["gflop"]) == (29, 70)
    assert sum(tenant[name] for name in STATES) == 1797 * S
    assert sum(nobody[name] for name in STATES) == 1803 * S


def test_maintenance_beats_all_and_else_the_greatest_claim_holds():
    records = [sample(H, gflop=0), sample(H + 40 * S, gflop=40)]
    truth = ask(
        records,
        claim("a", H, H + 40 * S),
        claim("b", H + 10 * S, H + 20 * S),
        claim("m", H, H + 5 * S, kind="maintenance"),
        claim("z", H, H + 40 * S, subjects=[{"node": NODE, "slots": ["0000:43:00.0"]}]),
        claim("c", H + 30 * S, H + 35 * S, subjects=[{"node": NODE}]),
        claim("d", H + 10 * S, H + 40 * S),
        claim("d", H + 10 * S, H + 40 * S, deleted=True),
        claim("a", H, H + 38 * S),
    )
    gflop = {(k.owner_kind, k.job): row["gflop"] for k, row in truth.rows.items()}
    assert gflop == {
        ("maintenance", ""): 5,
        ("tenant", "a"): 5 + 10 + 3,
        ("tenant", "b"): 10,
        ("tenant", "c"): 5,
        ("unallocated", ""): 2,
    }


def test_of_equal_starts_the_greater_source_then_id_holds():
    records = [sample(H, gflop=0), sample(H + 10 * S, gflop=10)]
    truth = ask(records, claim("b", H), claim("a", H), claim("a", H, source="y", tenant="t-y"))
    assert {k.tenant for k, row in truth.rows.items() if row["gflop"]} == {"t-y"}


def test_a_fall_of_a_counter_breaks_that_counter_alone():
    records = [
        sample(H, gflop=0, throttle_power_cap_us=900), sample(H + 60 * S, gflop=60, throttle_power_cap_us=950),
        sample(H + 120 * S, gflop=120, throttle_power_cap_us=10, epoch=1),
        sample(H + 150 * S, gflop=150, throttle_power_cap_us=15, epoch=1),
    ]  # fmt: skip
    row = ask(records).rows[key(0)]
    assert row["gflop"] == 150
    assert row["throttle_power_cap_us"] == 50 + 5


@pytest.mark.parametrize("absent", [ABSENT, COUNTER_LIMIT])
def test_absent_values_are_bridged_and_never_read_as_numbers(absent: int):
    records = [
        sample(H + 0 * S, gflop=absent, energy_mj=1), sample(H + 10 * S, gflop=0, energy_mj=absent),
        sample(H + 20 * S, gflop=10, energy_mj=21), sample(H + 30 * S, gflop=absent, energy_mj=absent),
    ]  # fmt: skip
    row = ask(records).rows[key(0)]
    assert (row["gflop"], row["energy_mj"]) == (10, 20)


def test_a_sample_that_lacks_one_of_the_three_state_counters_has_none():
    records = [
        sample(H, observed_us=0),
        sample(H + 10 * S, observed_us=10 * S, active_us=ABSENT),
        sample(H + 20 * S, observed_us=15 * S),
    ]
    row = ask(records).rows[key(0)]
    assert (row["idle_us"], row["active_us"]) == (15 * S, 0)


def test_only_firsts_and_lasts_of_a_minute_are_kept():
    records = [
        sample(H + at * S, observed_us=seen * S) for at, seen in ((0, 0), (20, 30), (40, 40))
    ]
    # The middle point would cut the first segment's known time at 20 s.
    assert ask(records).rows[key(0)]["idle_us"] == 40 * S


def test_ties_in_time_go_by_value():
    records = [
        sample(H, gflop=5, sequence=1), sample(H, gflop=3, sequence=2),
        sample(H + 10 * S, gflop=9, sequence=3), sample(H + 10 * S, gflop=7, sequence=4),
    ]  # fmt: skip
    truth = ask(records)
    assert truth.rows[key(0)]["gflop"] == 9 - 3
    assert truth.samples == {NODE: 4}


def test_time_outside_the_inventory_belongs_to_nobody():
    inventory = site(from_us=H + 600 * S, to_us=H + 1200 * S)
    truth = ask([sample(H, gflop=0), sample(H + 1800 * S, gflop=1800)], inventory=inventory)
    row = truth.rows[key(0)]
    assert row["gflop"] == 600
    assert row["unobserved_us"] == 600 * S
    assert ask([sample(H, gflop=0)], inventory=site(to_us=H)).rows == {}


def test_a_silent_slot_is_unobserved_and_has_no_origin():
    inventory = site(slots=(0x1B00, 0x4300))
    truth = ask([sample(H, gflop=0)], claim("a", H, subjects=[{"node": NODE}]), inventory=inventory)
    silent = [row for k, row in truth.rows.items() if k.slot == 0x4300]
    assert [row["unobserved_us"] for row in silent] == [HOUR]
    assert [row["origin"] for row in silent] == [0]


def test_refused_records_are_counted_by_reason_and_count_for_nothing():
    oracle = Oracle(site())
    good = sample(H, gflop=0)
    oracle.add_record(good, H - 60 * S)
    oracle.add_record(good, H - 60 * S - 1)
    oracle.add_record(good, H + 72 * HOUR)
    oracle.add_record(good, H + 72 * HOUR + 1)
    oracle.add_record(good[:-1], H)
    oracle.add_record(b"", H)
    oracle.add_record(good[:1] + b"\x02" + good[2:], H)
    truth = oracle.finish()
    assert truth.samples == {NODE: 1}
    assert truth.rejected == {"future": 1, "ancient": 1, "undecodable": 1, "schema": 2}


_COUNTERS = ("observed_us", "down_us", "active_us", "energy_mj", "gflop", "throttle_sync_boost_us")
_VALUES = st.one_of(st.integers(0, 200 * S), st.just(ABSENT))


def _record(at: int, run: int, epoch: int, energy_epoch: int, values: tuple[int, ...]) -> bytes:
    counters = dict(zip(_COUNTERS, values, strict=True))
    return sample(H + at * S // 4, run=run, epoch=epoch, energy_epoch=energy_epoch, **counters)


def _claim(id_: str, start: int, length: int | None, kind: str) -> bytes:
    to_us = None if length is None else H + (start + length) * S
    return claim(id_, H + start * S, to_us, kind=kind)


_RECORDS = st.lists(
    st.builds(
        _record,
        st.integers(-1000, 1000),
        st.integers(1, 3),
        st.integers(0, 1),
        st.integers(1, 2),
        st.tuples(*[_VALUES] * len(_COUNTERS)),
    ),
    max_size=30,
)
_CLAIMS = st.lists(
    st.builds(
        _claim,
        st.sampled_from("abc"),
        st.integers(-400, 400),
        st.one_of(st.none(), st.integers(0, 300)),
        st.sampled_from(("job", "reservation", "maintenance")),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(_RECORDS, _CLAIMS, st.randoms(use_true_random=False))
def test_order_and_duplicates_change_nothing(
    records: list[bytes], claims: list[bytes], random: Random
):
    hours = range(H // HOUR - 1, H // HOUR + 1)
    mixed = records + records[::2]
    random.shuffle(mixed)
    one, other = ask(records, *claims, hours=hours), ask(mixed, *claims, hours=hours)
    assert one.rows == other.rows
    assert one.samples == other.samples


@settings(max_examples=150, deadline=None)
@given(_RECORDS, _CLAIMS)
def test_owners_and_states_both_sum_to_what_is_installed(records: list[bytes], claims: list[bytes]):
    truth = ask(records, *claims, hours=range(H // HOUR - 1, H // HOUR + 1))
    for hour in truth.by_hour().values():
        assert sum(hour[name] for name in STATES) == HOUR
    assert all(value >= 0 for row in truth.rows.values() for value in row.values())


def test_the_function_is_the_class():
    records = [(sample(H, gflop=0), H), (sample(H + 10 * S, gflop=10), H + 10 * S)]
    truth = observable_truth(records, [claim("a", H)], site())
    assert truth.by_tenant()["tenant", "t-a"]["gflop"] == 10
    assert truth.totals()["gflop"] == 10


def test_the_last_hour_can_end_early():
    oracle = Oracle(site())
    for record in (sample(H, gflop=0), sample(H + 100 * S, gflop=100)):
        oracle.add_record(record, H + 100 * S)
    row = oracle.finish(until_us=H + 40 * S).rows[key(0)]
    assert (row["gflop"], row["unobserved_us"]) == (40, 40 * S)


@cache
def _fleet_records() -> list[bytes]:
    fleet = Fleet(make_site("demo"), 1, H)
    return [record for _ in range(2) for record in fleet.step().records]


_DAMAGE = st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 255)), max_size=3)


@settings(max_examples=400, deadline=None)
@given(st.deferred(lambda: st.sampled_from(_fleet_records())), _DAMAGE, st.integers(0, 3))
def test_the_plain_reader_reads_what_the_ordinary_parser_reads(
    record: bytes, damage: list[tuple[int, int]], cut: int
):
    data = bytearray(record[: len(record) - cut])
    for place, value in damage:
        data[place % len(data)] = value

    def told(read: Callable[[bytes], PlainRecord]) -> PlainRecord | str:
        try:
            return read(bytes(data))
        except BrokenRecordError as error:
            return error.reason

    assert told(read_record) == told(read_ordinary)
