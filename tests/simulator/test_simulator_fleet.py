"""Records of a fleet: the wire's own bytes, the same by seed, labels when due."""

from __future__ import annotations

from itertools import pairwise

import pytest

from collectors.contract.catalogue import CATALOGUE, CallRead, Kind, Metric
from collectors.contract.identity import run_start_us
from collectors.contract.record import Origin
from collectors.contract.topics import dumps
from collectors.contract.wire import encode, parse
from collectors.simulator.fleet import Fleet, Tick
from collectors.simulator.sites import make_site

START_US = 1_800_000_000_000_000


def _ticks(site: str, seed: int, count: int, interval_s: float = 1.0) -> list[Tick]:
    fleet = Fleet(make_site(site), seed, START_US, interval_s)
    return [fleet.step() for _ in range(count)]


@pytest.mark.parametrize("site", ["demo", "aisc-phase1"])
def test_bytes_are_those_of_the_wire(site: str):
    for tick in _ticks(site, 2, 3):
        for record in tick.records:
            assert encode(parse(record)) == record


def test_the_same_seed_gives_the_same_bytes_and_another_one_others():
    def told(seed: int) -> list[tuple[list[bytes], list[bytes]]]:
        ticks = _ticks("demo", seed, 70)
        return [(list(tick.records), [dumps(each) for each in tick.allocations]) for tick in ticks]

    assert told(1) == told(1)
    assert told(1)[5] != told(2)[5]


def test_headers_count_and_time_goes_on_at_a_phase_of_each_node():
    ticks = _ticks("demo", 3, 50)
    seen: dict[str, list[tuple[int, int]]] = {}
    for tick in ticks:
        assert list(tick.times_us) == sorted(tick.times_us)
        for node, time_us, record in zip(tick.nodes, tick.times_us, tick.records, strict=True):
            told = parse(record)
            assert (told.node, told.time_us, told.origin) == (node, time_us, Origin.SIMULATED)
            assert 0 <= told.time_us - run_start_us(told.run) <= 51_000_000
            seen.setdefault(node, []).append((told.sequence, told.time_us))
    phases = set[int]()
    for times in seen.values():
        assert [sequence for sequence, _ in times] == list(range(50))
        steps = [after[1] - before[1] for before, after in pairwise(times)]
        assert min(steps) >= 990_000
        assert max(steps) <= 1_010_000
        assert len(set(steps)) > 10
        phases.add((times[0][1] - START_US) // 1000)
    assert len(phases) > 4


@pytest.mark.parametrize("interval_s", [0.25, 1.0, 10.0])
def test_labels_come_first_on_change_and_once_a_minute(interval_s: float):
    ticks = _ticks("demo", 4, round(150 / interval_s), interval_s)
    last: dict[str, tuple[int, int, list[str]]] = {}
    for tick in ticks:
        for record in tick.records:
            told = parse(record)
            occupants = [label.occupant for label in told.labels]
            before = last.get(told.node)
            if before is None or told.label_epoch != before[1]:
                assert len(told.labels) == 8
            if told.labels:
                if before is not None:
                    assert told.time_us - before[0] <= 60_100_000
                last[told.node] = (told.time_us, told.label_epoch, occupants)
    assert len(last) == 8


def test_a_job_s_start_and_end_begin_a_label_epoch_where_it_runs():
    fleet = Fleet(make_site("demo"), 4, START_US)
    fleet.step()
    epochs: dict[str, int] = {}
    changes = 0
    for _ in range(600):
        tick = fleet.step()
        touched = {subject.node for each in tick.allocations for subject in each.subjects}
        for record in tick.records:
            told = parse(record)
            if told.node in epochs:
                assert (told.label_epoch != epochs[told.node]) == (told.node in touched)
            epochs[told.node] = told.label_epoch
        changes += len(touched)
    assert changes > 1


def test_a_dark_node_sends_nothing_and_the_others_all():
    fleet = Fleet(make_site("aisc-phase1"), 1, START_US)
    nodes = set(fleet.step().nodes)
    dark = {
        entry.name
        for entry, is_dark in zip(fleet.entries, fleet.hardware.dark, strict=True)
        if is_dark
    }
    assert len(dark) == 1
    assert nodes == {entry.name for entry in fleet.entries} - dark


def test_a_new_catalogue_row_is_on_the_wire_at_once():
    gauge = Metric(
        "coil_whine_db", 190, "dB", "Noise.", (20, 60), Kind.GAUGE, CallRead("coil_whine_db")
    )
    counter = Metric(
        "fan_turns", 191, "", "Turns.", (0, 2**52), Kind.COUNTER, CallRead("fan_turns")
    )
    with CATALOGUE.extended(gauge, counter):
        fleet = Fleet(make_site("demo"), 1, START_US)
        first = parse(fleet.step().records[0])
        record = fleet.step().records[0]
        told = parse(record)
        assert encode(told) == record
    assert all(20 <= value <= 60 for value in told.values["coil_whine_db"])
    assert len(set(told.values["coil_whine_db"])) == 8
    assert told.values["fan_turns"] == [value + 1 for value in first.values["fan_turns"]]
