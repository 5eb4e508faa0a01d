"""The physical truth, the observable one, and that an undisturbed run brings them together."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.contract.identity import slot_text
from collectors.contract.topics import dumps
from collectors.simulator.fleet import Fleet
from collectors.simulator.meter import PhysicalMeter
from collectors.simulator.observable import ObservableTruth
from collectors.simulator.oracle import Oracle
from collectors.simulator.sites import make_site
from collectors.simulator.truth import PhysicalTruth, read_truth, write_observable, write_physical

HOUR_US = 3_600_000_000
HOUR = 500_000
START_US = HOUR * HOUR_US - 300_000_000
TICKS = 600


@pytest.fixture(scope="module")
def truths() -> tuple[PhysicalTruth, ObservableTruth]:
    """Ten minutes of the demonstration site over the end of an hour."""
    site = make_site("demo")
    fleet, oracle = Fleet(site, 8, START_US), Oracle(site)
    meter = PhysicalMeter(fleet, 8)
    for _ in range(TICKS):
        tick = fleet.step()
        meter.note(tick)
        for allocation in tick.allocations:
            oracle.add_allocation(dumps(allocation))
        for record, time_us in zip(tick.records, tick.times_us, strict=True):
            oracle.add_record(record, time_us)
    return meter.finish(), oracle.finish()


def test_physical_owners_sum_to_what_is_installed(truths: tuple[PhysicalTruth, ObservableTruth]):
    physical = truths[0]
    by_hour: dict[int, int] = {}
    for row in physical.rows:
        assert row.gpu_us >= 0
        by_hour[row.hour] = by_hour.get(row.hour, 0) + row.gpu_us
    assert by_hour == {499_999: 64 * 300_000_000, 500_000: 64 * 300_000_000}
    assert sum(physical.sent.values()) == 8 * TICKS


def test_observable_owners_and_states_sum_to_what_is_installed(
    truths: tuple[PhysicalTruth, ObservableTruth],
):
    observable = truths[1]
    assert set(observable.by_hour()) == {499_999, 500_000}
    for hour in observable.by_hour().values():
        states = ("active_us", "idle_us", "down_us", "unobserved_us")
        assert sum(hour[name] for name in states) == 64 * HOUR_US
    assert observable.samples == dict.fromkeys(observable.samples, TICKS)
    assert observable.rejected == {}


def test_what_is_observed_is_what_happened_within_the_bounds(
    truths: tuple[PhysicalTruth, ObservableTruth],
):
    physical, observable = truths[0].by_tenant(), truths[1].by_tenant()
    assert {key for key, told in physical.items() if told[0]} == {
        key for key, row in observable.items() if sum(row.values())
    }
    down_mj = 700 * TICKS * 1000
    for key, (_, active_us, gflop, energy_mj) in physical.items():
        row = observable[key]
        # Two ticks at the edges and, per job, the ticks in which it starts and ends.
        slack = 0.02
        assert row["gflop_lo"] * (1 - slack) - 1e6 <= gflop <= row["gflop_hi"] * (1 + slack) + 1e6
        assert row["active_us"] == pytest.approx(active_us, rel=slack, abs=10_000_000)
        assert energy_mj - down_mj * 1.01 <= row["energy_mj"] <= energy_mj * (1 + slack) + 1e6


def test_those_who_share_a_gpu_are_in_both_truths_with_what_is_left(
    truths: tuple[PhysicalTruth, ObservableTruth],
):
    physical = {(row.tenant, row.project): row.gpu_us for row in truths[0].rows if row.hour == HOUR}
    told: dict[tuple[str, str], int] = {}
    sharing = {(k.tenant, k.project) for k in truths[1].rows if "." in k.job}
    for key, row in truths[1].rows.items():
        if key.hour == HOUR:
            us = sum(row[n] for n in ("active_us", "idle_us", "down_us", "unobserved_us"))
            told[key.tenant, key.project] = told.get((key.tenant, key.project), 0) + us
    assert len(sharing) >= 4
    assert any(physical[one] % 300_000_000 for one in sharing)
    for one in sharing:
        # Claims are open to the end of the hour; the simulation ends five minutes into it.
        unseen = HOUR_US - 300_000_000
        assert told[one] == pytest.approx(physical[one] * HOUR_US / (HOUR_US - unseen), abs=1e3)


def test_the_occupant_of_a_shared_gpu_names_all_who_hold_it():
    fleet = Fleet(make_site("aisc-phase1"), 8, START_US)
    shared = [one for one in fleet.step().allocations if one.shared]
    places = {one.subjects for one in shared}
    assert len(places) >= 2
    entries = {entry.name: index for index, entry in enumerate(fleet.entries)}
    for (subject,) in places:
        labels = {slot_text(one.slot): one.occupant for one in fleet.labels(entries[subject.node])}
        names = sorted(one.id for one in shared if one.subjects == (subject,))
        assert labels[subject.slots[0]] == ",".join(names)


def test_faults_are_named_with_their_slots(truths: tuple[PhysicalTruth, ObservableTruth]):
    faults = truths[0].faults
    assert {fault.kind for fault in faults} == {"gpu_down", "poor_cooling"}
    down = next(fault for fault in faults if fault.kind == "gpu_down")
    lost = {(k.node, k.slot) for k, row in truths[1].rows.items() if row["down_us"]}
    assert {node for node, _ in lost} == {subject.node for subject in down.subjects}


def test_the_files_read_back_as_they_were(
    truths: tuple[PhysicalTruth, ObservableTruth], tmp_path: Path
):
    write_physical(tmp_path / "t", truths[0])
    write_observable(tmp_path / "t", truths[1])
    assert read_truth(tmp_path / "t") == truths


def test_another_format_is_refused(tmp_path: Path):
    (tmp_path / "physical.jsonl").write_text('{"format":99}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="format 99"):
        read_truth(tmp_path)
