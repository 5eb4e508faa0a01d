"""The physical truth, the observable one, and that an undisturbed run brings them together."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.contract.topics import dumps
from collectors.simulator.fleet import Fleet
from collectors.simulator.meter import PhysicalMeter
from collectors.simulator.observable import ObservableTruth
from collectors.simulator.oracle import Oracle
from collectors.simulator.sites import make_site
from collectors.simulator.truth import PhysicalTruth, read_truth, write_observable, write_physical

HOUR_US = 3_600_000_000
START_US = 500_000 * HOUR_US - 300_000_000
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
