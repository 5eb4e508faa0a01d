"""Incidents: storms become one, neighbours in time stay apart, the same log says the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from collectors.contract.alerts import Alert, Incident, Subject
from pipeline.watch.incidents import (
    GATHER_US,
    RECENT_US,
    SETTLE_US,
    STORM_US,
    WIDER_US,
    Incidents,
)

_S = 1_000_000
_T0 = 1_700_000_000 * _S


def gpu(rack: int, node: int, slot: int, hall: str = "A") -> Subject:
    name = f"r{rack}n{node}"
    return Subject("gpu", f"{name}/{slot}", hall, f"r{rack}", name, f"0000:0{slot}:00.0")


def rack(number: int, hall: str = "A") -> Subject:
    return Subject("rack", f"{hall}/r{number}", hall, f"r{number}")


def alert(subject: Subject, at_us: int, state: str = "firing", **more: object) -> Alert:
    rule = str(more.pop("rule", "thermal_margin"))
    wanted = {"severity": "warning", "family": "thermal", "gpus": 1, "pflops": 1.0, **more}
    return Alert(
        fingerprint=f"{rule}:{subject.scope}:{subject.name}",
        rule=rule, state=state, subject=subject, since_us=at_us, at_us=at_us, **wanted,  # type: ignore[arg-type]
    )  # fmt: skip


def play(incidents: Incidents, alerts: Iterable[Alert], until_us: int) -> list[Incident]:
    """Feeds second by second from the first alert on; returns all records."""
    pending = sorted(alerts, key=lambda one: (one.at_us, one.fingerprint))
    told: list[Incident] = []
    time_us = pending[0].at_us // _S * _S
    while time_us <= until_us:
        now = [one for one in pending if time_us - _S < one.at_us <= time_us]
        told += incidents.take(now, time_us)[1]
        time_us += _S
    return told


def last(records: Sequence[Incident]) -> dict[str, Incident]:
    return {one.id: one for one in records}


def notices(records: Sequence[Incident]) -> list[tuple[str, int, str]]:
    """The distinct (id, notice, state at its first record) in order."""
    seen: dict[tuple[str, int], str] = {}
    for one in records:
        if one.notice:
            seen.setdefault((one.id, one.notice), one.state)
    return [(name, number, state) for (name, number), state in seen.items()]


def test_a_rack_of_64_is_one_incident_and_two_messages() -> None:
    fires = [
        alert(gpu(1, node, slot), _T0 + (node * 8 + slot) * _S // 2, tenants=(f"t{node % 3}",))
        for node in range(8)
        for slot in range(8)
    ]
    whole = alert(
        rack(1), _T0 + _S, rule="physics", cause="rack_cooling", gpus=64, pflops=64.0,
        severity="critical", runbook="rack-cooling", tenants=("t0", "t1", "t2"),
    )  # fmt: skip
    ends = [
        msgspec.structs.replace(one, state="resolved", at_us=_T0 + 300 * _S)
        for one in (*fires, whole)
    ]
    records = play(Incidents(), [*fires, whole, *ends], _T0 + 400 * _S)
    (incident,) = last(records).values()
    assert [state for _, _, state in notices(records)] == ["open", "resolved"]
    assert incident.state == "resolved"
    assert incident.subject == rack(1)
    assert incident.cause == "rack_cooling"
    assert incident.runbook == "rack-cooling"
    assert (incident.gpus, incident.pflops, incident.member_count) == (64, 64.0, 65)
    assert incident.tenants == ("t0", "t1", "t2")
    assert incident.resolved_us == _T0 + 300 * _S + SETTLE_US
    assert incident.title == "Rack r1 (A): rack cooling, 64 GPUs"


def test_two_faults_in_one_rack_an_hour_apart_are_two_incidents() -> None:
    one = alert(gpu(1, 0, 0), _T0)
    other = alert(gpu(1, 5, 3), _T0 + 2 * STORM_US)
    records = play(Incidents(), [one, other], _T0 + 3 * STORM_US)
    assert len(last(records)) == 2
    assert len(notices(records)) == 2


def test_racks_far_apart_stay_apart_and_families_too() -> None:
    records = play(
        Incidents(),
        [
            alert(gpu(1, 0, 0), _T0),
            alert(gpu(2, 0, 0), _T0),
            alert(gpu(1, 0, 1), _T0, rule="xid_79", family="lost"),
        ],
        _T0 + 10 * _S,
    )
    assert len(last(records)) == 3


def test_one_job_in_two_halls_is_one_incident() -> None:
    one = alert(gpu(1, 0, 0), _T0, rule="nvlink", family="link", jobs=("7",))
    other = alert(gpu(9, 0, 0, "B"), _T0 + _S, rule="nvlink", family="link", jobs=("7",))
    (incident,) = last(play(Incidents(), [one, other], _T0 + 5 * _S)).values()
    assert incident.member_count == 2
    assert incident.gpus == 2


def test_a_graver_alert_and_a_wider_place_are_told_again() -> None:
    records = play(
        Incidents(),
        [
            alert(gpu(1, 0, 0), _T0),
            alert(gpu(1, 0, 0), _T0 + 10 * _S, severity="critical"),
            alert(gpu(1, 0, 1), _T0 + 20 * _S),
        ],
        _T0 + 90 * _S,
    )
    (incident,) = last(records).values()
    assert [number for _, number, _ in notices(records)] == [1, 2, 3]
    told = [one.changed_us - _T0 for one in records if one.notice == 3]
    assert told[0] == 11 * _S + WIDER_US
    assert (incident.severity, incident.subject.scope) == ("critical", "node")


def test_a_storm_of_one_rack_that_nobody_names_is_two_messages() -> None:
    """No word of the rack itself: GPU by GPU, the place grows, and people are not told each time."""
    fires = [
        alert(gpu(1, node, slot), _T0 + (node * 8 + slot) * _S) for node in range(8)
        for slot in range(8)
    ]  # fmt: skip
    records = play(Incidents(), fires, _T0 + 200 * _S)
    (incident,) = last(records).values()
    assert incident.subject == rack(1)
    assert [number for _, number, _ in notices(records)] == [1, 2]


def test_a_word_of_the_whole_rack_is_told_at_once() -> None:
    early = alert(gpu(1, 0, 0), _T0)
    whole = alert(rack(1), _T0 + 5 * _S, rule="physics", cause="rack_cooling", gpus=64)
    records = play(Incidents(), [early, whole], _T0 + 20 * _S)
    assert len(last(records)) == 1
    assert next(one.changed_us - _T0 for one in records if one.notice == 2) == 5 * _S


def test_a_gpu_that_was_hot_long_before_is_not_the_racks_fault() -> None:
    old = alert(gpu(1, 0, 0), _T0)
    later = _T0 + RECENT_US + 2 * _S
    whole = alert(rack(1), later, rule="physics", cause="rack_cooling", gpus=64)
    ended = msgspec.structs.replace(whole, state="resolved", at_us=later + 60 * _S)
    records = play(Incidents(), [old, whole, ended], later + 60 * _S + SETTLE_US)
    of_gpu, of_rack = last(records).values()
    assert (of_gpu.state, of_gpu.subject.scope) == ("open", "gpu")
    assert (of_rack.state, of_rack.subject.scope) == ("resolved", "rack")
    assert len(notices(records)) == 3


def test_incidents_that_a_wider_one_holds_end_as_part_of_it() -> None:
    apart = [alert(gpu(1, 0, 0), _T0), alert(gpu(1, 5, 0), _T0 + 2 * STORM_US)]
    whole = alert(rack(1), _T0 + 3 * STORM_US, rule="physics", cause="rack_cooling", gpus=64)
    records = play(Incidents(), [*apart, whole], _T0 + 3 * STORM_US + 10 * _S)
    ended = [one for one in last(records).values() if one.state == "resolved"]
    alive = [one for one in last(records).values() if one.state == "open"]
    assert [one.text for one in ended] == [f"Part of incident {alive[0].id}."]
    assert alive[0].member_count == 3
    assert alive[0].gpus == 64


def test_what_fires_again_before_it_has_settled_is_the_same_incident() -> None:
    records = play(
        Incidents(),
        [
            alert(gpu(1, 0, 0), _T0),
            alert(gpu(1, 0, 0), _T0 + 10 * _S, "resolved"),
            alert(gpu(1, 0, 0), _T0 + 20 * _S),
        ],
        _T0 + 20 * _S + SETTLE_US * 2,
    )
    (incident,) = last(records).values()
    assert incident.state == "open"
    assert [number for _, number, _ in notices(records)] == [1]


def test_information_makes_no_incident() -> None:
    assert play(Incidents(), [alert(gpu(1, 0, 0), _T0, severity="info")], _T0 + 9 * _S) == []


def test_people_are_told_once_the_storm_is_gathered() -> None:
    records = play(Incidents(), [alert(gpu(1, 0, 0), _T0)], _T0 + 9 * _S)
    first = next(one for one in records if one.notice)
    assert first.changed_us == _T0 + GATHER_US


_STEPS = st.lists(
    st.tuples(
        st.integers(0, 200),
        st.sampled_from(["firing", "resolved"]),
        st.sampled_from(["warning", "critical", "info"]),
        st.sampled_from([gpu(1, 0, 0), gpu(1, 0, 1), gpu(1, 1, 0), gpu(2, 0, 0), rack(1), rack(2)]),
        st.sampled_from(["thermal", "lost", "link"]),
        st.sampled_from([(), ("7",)]),
    ),
    max_size=40,
)


@given(_STEPS, st.integers(0, 200))
def test_a_restart_anywhere_changes_nothing(
    steps: list[tuple[int, str, str, Subject, str, tuple[str, ...]]], cut_s: int
) -> None:
    by_second: dict[int, list[Alert]] = {}
    for second, state, severity, subject, family, jobs in steps:
        more = alert(
            subject, _T0 + second * _S, state, rule=f"r_{family}", severity=severity,
            family=family, jobs=jobs,
        )  # fmt: skip
        by_second.setdefault(second, []).append(more)
    whole, first = Incidents(), Incidents()
    undisturbed: list[Incident] = []
    restarted: list[Incident] = []
    for second in range(300):
        alerts = by_second.get(second, [])
        named, records = whole.take(alerts, _T0 + second * _S)
        undisturbed += records
        if second == cut_s:
            first = Incidents.restored(first.save())
        again, records = first.take(alerts, _T0 + second * _S)
        restarted += records
        assert again == named
    assert restarted == undisturbed
    still_open = [one for one in last(undisturbed).values() if one.state == "open"]
    assert len(still_open) == whole.open_count
