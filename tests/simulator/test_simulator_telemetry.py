"""Records on their way: what each telemetry fault does to them, and what the oracle makes of it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from collectors.contract.catalogue import CATALOGUE, COUNTER_LIMIT
from collectors.contract.record import NodeRecord
from collectors.contract.wire import BrokenRecordError, parse
from collectors.simulator.faults import FAULTS, Family, names
from collectors.simulator.fleet import Fleet
from collectors.simulator.oracle import Oracle
from collectors.simulator.scenario import FaultEvent
from collectors.simulator.sites import make_site
from collectors.simulator.telemetry import ARRIVAL_DELAY_US, Outgoing, Telemetry

START_US = 1_800_000_000_000_000
HIT, NEIGHBOUR = "a01n02", "a01n03"
AT, LONG, TICKS = 10, 60, 120


def _event(name: str, strength: float | None = None) -> FaultEvent:
    kind = FAULTS[name]
    if strength is None:
        strength = kind.strength.default if kind.strength else 0.0
    for_us = LONG * 1_000_000 if kind.lasts_s else None
    place = "node" if "node" in kind.scopes else "gpu"
    where = HIT if place == "node" else f"{HIT}/3"
    return FaultEvent(kind, AT * 1_000_000, for_us, place, where, strength)


def _run(*events: FaultEvent) -> tuple[list[Outgoing], Telemetry]:
    fleet = Fleet(make_site("demo"), 4, START_US, faults=events)
    telemetry = Telemetry(events, fleet.entries, 4, START_US)
    out: list[Outgoing] = []
    for number in range(TICKS):
        out += telemetry.through(fleet.step(), START_US + (number + 1) * 1_000_000)
    out += telemetry.rest()
    assert [one.arrival_us for one in out] == sorted(one.arrival_us for one in out)
    return out, telemetry


def _records(out: list[Outgoing], node: str = HIT) -> list[NodeRecord]:
    return [parse(one.record) for one in out if one.node == node]


def _readable(data: bytes) -> bool:
    try:
        parse(data)
    except BrokenRecordError:
        return False
    return True


def test_without_faults_all_arrives_at_once_and_as_it_was():
    out, _ = _run()
    assert Counter(one.node for one in out) == Counter(dict.fromkeys({o.node for o in out}, TICKS))
    assert {one.arrival_us - parse(one.record).time_us for one in out} == {ARRIVAL_DELAY_US}


def test_late_and_reordered_records_all_come():
    for name, most_s in (("late", 40.0), ("reordered", 5.0)):
        out, _ = _run(_event(name, most_s))
        mine = [one for one in out if one.node == HIT]
        assert sorted(parse(one.record).sequence for one in mine) == list(range(TICKS))
        delays_us = [one.arrival_us - parse(one.record).time_us for one in mine]
        assert 0.8 * most_s * 1e6 < max(delays_us) <= most_s * 1e6 + ARRIVAL_DELAY_US
        sequences = [parse(one.record).sequence for one in mine]
        assert sequences != sorted(sequences)


def test_duplicates_are_the_same_bytes_and_losses_are_counted():
    out, _ = _run(_event("duplicated", 0.5))
    seen = Counter(one.record for one in out if one.node == HIT)
    assert len(seen) == TICKS
    assert 15 <= sum(count == 2 for count in seen.values()) <= 45
    out, telemetry = _run(_event("lost", 0.5))
    lost = TICKS - len(_records(out))
    assert 15 <= lost <= 45
    assert telemetry.lost == {HIT: lost}


@pytest.mark.parametrize("name", ["corrupt", "truncated", "oversized"])
def test_broken_records_are_refused_with_a_reason(name: str):
    out, _ = _run(_event(name, 0.5))
    oracle = Oracle(make_site("demo"))
    for one in out:
        oracle.add_record(one.record, one.arrival_us)
    broken = sum(not _readable(one.record) for one in out)
    assert 15 <= broken <= 45
    assert sum(oracle.rejected.values()) == broken
    if name == "oversized":
        assert set(oracle.rejected) == {"slots"}


@pytest.mark.parametrize("skew_s", [20.0, -30.0])
def test_a_skewed_clock_begins_a_run_and_ends_it(skew_s: float):
    records = _records(_run(_event("clock_skew", skew_s))[0])
    runs = [run for run, _ in Counter(record.run for record in records).items()]
    assert len(runs) == 3
    for run in runs:
        mine = [record for record in records if record.run == run]
        assert [record.sequence for record in mine] == list(range(len(mine)))
        first = mine[0].values
        assert set(first["observed_us"]) == set(first["active_us"]) == {0}
        for name in ("observed_us", "gflop", "gflop_lo", "gflop_hi"):
            column = np.array([record.values[name] for record in mine], np.int64)
            assert (np.diff(column, axis=0) >= 0).all()
    middle = [record for record in records if record.run == runs[1]]
    true_us = [START_US + (AT + index) * 1_000_000 for index in range(len(middle))]
    for record, at_us in zip(middle, true_us, strict=True):
        assert abs(record.time_us - at_us - skew_s * 1e6) < 1_000_000


def test_a_drifting_clock_stays_one_run_and_comes_back():
    out, _ = _run(_event("clock_drift", 500.0))
    records = _records(out)
    assert len({record.run for record in records}) == 1
    offsets = [
        parse(one.record).time_us + ARRIVAL_DELAY_US - one.arrival_us
        for one in out
        if one.node == HIT
    ]
    assert max(offsets) == pytest.approx(LONG * 500, abs=600)
    assert offsets[AT - 1] == 0
    assert abs(offsets[-1]) < max(offsets)


def test_a_counter_reset_has_a_new_epoch_and_a_wrap_has_none():
    for name, renewed in (("counter_reset", True), ("counter_wrap", False)):
        records = _records(_run(_event(name))[0])
        energy = [record.values["energy_mj"][3] for record in records]
        falls = [at for at in range(1, len(energy)) if energy[at] < energy[at - 1]]
        assert falls == [AT + 1]
        before, after = records[AT], records[AT + 1]
        assert (before.energy_epochs[3] != after.energy_epochs[3]) == renewed
        assert after.label_epoch == before.label_epoch + 1
        assert before.run == after.run


def test_sensors_lie_about_values_and_never_about_counters():
    true = _records(_run()[0])
    stuck = _records(_run(_event("sensor_stuck"))[0])
    held = {record.values["power_w"][3] for record in stuck[AT + 1 : AT + LONG]}
    assert len(held) == 1
    assert [r.values["energy_mj"] for r in stuck] == [r.values["energy_mj"] for r in true]
    spiked = _records(_run(_event("sensor_spike", 0.5))[0])
    differ = sum(
        a.values["power_w"][3] != b.values["power_w"][3] for a, b in zip(true, spiked, strict=True)
    )
    assert 15 <= differ <= 45
    blank = _records(_run(_event("sensor_sentinel", 0.5))[0])
    over = CATALOGUE.by_name["power_w"].valid[1]
    assert 15 <= sum(r.values["power_w"][3] > over for r in blank) <= 45
    assert 15 <= sum(r.values["energy_mj"][3] >= COUNTER_LIMIT for r in blank) <= 45


def test_a_node_that_lies_about_its_name_sends_as_its_neighbour():
    out, _ = _run(_event("false_name"))
    told = Counter(parse(one.record).node for one in out if one.node == HIT)
    assert told == {HIT: TICKS - LONG, NEIGHBOUR: LONG}


def test_every_kind_of_telemetry_fault_is_tried_here():
    tried = {
        "late", "reordered", "duplicated", "lost", "corrupt", "truncated", "oversized",
        "clock_skew", "clock_drift", "counter_reset", "counter_wrap", "sensor_stuck",
        "sensor_spike", "sensor_sentinel", "false_name",
    }  # fmt: skip
    assert tried == set(names(Family.TELEMETRY))
