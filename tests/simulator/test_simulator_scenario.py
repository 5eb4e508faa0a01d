"""Scenario files: what is well written is played, what is not is refused with what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.simulator.faults import FAULTS, Family
from collectors.simulator.random_faults import random_faults
from collectors.simulator.scenario import (
    FaultEvent,
    ScenarioError,
    duration_us,
    gpus_of,
    of_family,
    read_scenario,
)
from collectors.simulator.schedule import make_schedule
from collectors.simulator.sites import make_site

ENTRIES = make_site("aisc-phase1").at(0)


def _read(tmp_path: Path, text: str) -> list[FaultEvent]:
    path = tmp_path / "scenario.toml"
    path.write_text(text, encoding="utf-8")
    return read_scenario(path)


def test_events_come_in_order_with_the_kind_s_own_figures_where_none_are_given(tmp_path: Path):
    events = _read(
        tmp_path,
        """
        [[event]]
        fault = "rack_pump_failure"
        at = "10m"
        for = "1h30m"
        rack = "a03"
        strength = 0.8

        [[event]]
        fault = "gpu_off_bus"
        at = 30
        gpu = "a01n02/5"
        """,
    )
    assert [event.kind.name for event in events] == ["gpu_off_bus", "rack_pump_failure"]
    assert events[0].at_us == 30_000_000
    assert events[0].for_us == 6 * 3_600_000_000
    assert gpus_of(events[0], ENTRIES) == [13]
    assert events[1].end_us == 600_000_000 + 5_400_000_000
    assert events[1].strength == 0.8
    assert gpus_of(events[1], ENTRIES) == list(range(2 * 64, 3 * 64))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('fault = "rack_pump_failur"\nrack = "a03"', 'did you mean "rack_pump_failure"'),
        ('fault = "rack_pump_failure"\nnode = "a01n01"', "cannot hit a node: write rack"),
        ('fault = "rack_pump_failure"', "needs one place"),
        ('fault = "rack_pump_failure"\nrack = "a03"\nhall = "Hall A"', "needs one place"),
        ('fault = "rack_pump_failure"\nrack = "a03"\nstrength = 2', "from 0.05 to 1.0"),
        ('fault = "gpu_off_bus"\ngpu = "a01n01/1"\nstrength = 1', "has no strength"),
        ('fault = "node_dark"\nnode = "a01n01"\nat = "soon"', "write 90s, 10m, 1h30m or 2d"),
        ('fault = "node_dark"\nnode = "a01n01"\nwhen = 3', "unknown key 'when'"),
    ],
)
def test_a_slip_is_refused_with_its_line(tmp_path: Path, text: str, said: str):
    with pytest.raises(ScenarioError, match=r"line 2") as refused:
        _read(tmp_path, f"# one event\n[[event]]\n{text}\n")
    assert said in str(refused.value)


def test_places_that_a_site_has_not_are_refused(tmp_path: Path):
    for place in ('gpu = "a01n01/8"', 'gpu = "nobody/1"'):
        [event] = _read(tmp_path, f'[[event]]\nfault = "gpu_off_bus"\n{place}\n')
        with pytest.raises(ScenarioError, match="node/index"):
            gpus_of(event, ENTRIES)
    [event] = _read(tmp_path, '[[event]]\nfault = "rack_dark"\nrack = "a99"\n')
    with pytest.raises(ScenarioError, match="no rack 'a99'"):
        gpus_of(event, ENTRIES)


def test_times_in_words_are_microseconds():
    assert duration_us("1h30m5s") == 5_405_000_000
    assert duration_us(0.5) == 500_000
    for wrong in ("", "h", "5", True, -1, None):
        with pytest.raises(ValueError, match="not a time"):
            duration_us(wrong)


def test_random_faults_come_at_the_published_rates():
    month_us = 730 * 3_600_000_000
    events = random_faults(ENTRIES, 3, month_us, times=50)
    for kind in FAULTS.values():
        expected = (kind.per_gpu_month or 0.0) * 50 * len(ENTRIES) * 8
        found = sum(event.kind is kind for event in events)
        assert abs(found - expected) <= 5 * expected**0.5 + 1, kind.name
    assert random_faults(ENTRIES, 3, month_us, times=50) == events
    assert random_faults(ENTRIES, 4, month_us, times=50) != events


def test_a_schedule_has_every_kind_of_telemetry_fault_that_is_asked_for():
    events = make_schedule({"telemetry_faults": "all"}, ENTRIES, 1, 3_600_000_000)
    told = {event.kind.name for event in of_family(events, Family.TELEMETRY)}
    assert told == {kind.name for kind in FAULTS.values() if kind.family is Family.TELEMETRY}
    some = make_schedule({"telemetry_faults": "late, lost"}, ENTRIES, 1, None)
    assert {event.kind.name for event in some} == {"late", "lost"}
    assert make_schedule({}, ENTRIES, 1, None) == []
    for wrong in ({"faults": "some"}, {"faults": "random:x"}, {"telemetry_faults": "lats"}):
        with pytest.raises(ValueError, match=r"write none|did you mean"):
            make_schedule(wrong, ENTRIES, 1, None)
