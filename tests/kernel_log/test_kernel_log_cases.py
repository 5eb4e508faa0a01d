"""Logs in, events out: each log beside a `.json` of its name is a case."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.agent.events import EventDesk
from collectors.contract.identity import slot_text
from collectors.contract.source import DeviceEvent
from collectors.contract.xids import ACTIONS, advice, kinds, xids
from collectors.kernel_log.lines import read_line
from collectors.kernel_log.messages import MAX_TEXT, parse_message
from collectors.kit.clock import SystemClock

CAPTURES = Path(__file__).parent / "captures"
CASES = sorted(path for path in CAPTURES.glob("*.log") if path.with_suffix(".json").exists())


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Truth of a log."""

    reports: dict[str, int]
    texts: list[str] = []
    first: str = ""


def events_of(path: Path) -> list[DeviceEvent]:
    lines = map(read_line, path.read_text(encoding="utf-8").splitlines())
    found = [(line, parse_message(line.message)) for line in lines if line is not None]
    return [event._replace(time_us=line.time_us) for line, event in found if event is not None]


def named(event: DeviceEvent) -> str:
    return f"{event.kind} {event.code} {'none' if event.slot is None else slot_text(event.slot)}"


def stem(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", CASES, ids=stem)
def test_a_log_tells_what_its_case_says(path: Path) -> None:
    case = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Case)
    events = events_of(path)
    assert Counter(map(named, events)) == case.reports
    assert set(case.texts) <= {event.text for event in events}
    if case.first:
        first_us = int(datetime.fromisoformat(case.first).timestamp() * 1e6 + 0.5)
        assert events[0].time_us == first_us


@pytest.mark.parametrize("path", CASES, ids=stem)
def test_what_is_published_stands_for_every_report(path: Path) -> None:
    case = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Case)
    desk = EventDesk("n1", SystemClock(), lambda _: "job 7")
    told = [record for event in events_of(path) for record in desk.take(event, "kernel_log")]
    told += desk.rest()
    counts = Counter[str]()
    for record in told:
        counts[f"{record.kind} {record.code} {record.slot or 'none'}"] += record.count
    # A GPU falls off the bus once, however many lines say so.
    expected = {what: 1 if "xid 79" in what else many for what, many in case.reports.items()}
    assert counts == expected


def test_the_storm_is_told_by_its_first_and_a_sum_a_minute() -> None:
    desk = EventDesk("n1", SystemClock(), lambda _: "job 7")
    events = events_of(CAPTURES / "dmesg_xid13_xid43_storm.log")
    told = [record for event in events for record in desk.take(event, "kernel_log")]
    told += desk.rest()
    # Nine bursts within a second or two each: a first and a sum of the rest, and seven XID 43.
    assert len(told) == 9 * 2 + 7
    assert [record.count for record in told if record.code == 43] == [1] * 7
    assert told[0].time_us == events[0].time_us
    assert {record.concerns for record in told} == {"tenant"}
    assert {record.occupant for record in told} == {"job 7"}
    firsts = [record for record in told if record.code == 13 and record.count == 1]
    assert len(firsts) == 9
    assert {record.action for record in firsts} == {"restart_app"}


@given(st.text(max_size=400))
def test_no_text_breaks_the_reading(text: str) -> None:
    for start in (
        "",
        "NVRM: Xid (PCI:0000:38:00): 13, ",
        "6,1,2,-;NVRM: ",
        "nvidia-nvswitch0: SXid ",
    ):
        line = read_line(start + text)
        event = None if line is None else parse_message(line.message)
        assert event is None or len(event.text) <= MAX_TEXT


def test_the_table_is_whole() -> None:
    table = xids()
    assert sorted(table) == list(range(1, 173))
    assert {code for code, row in table.items() if row.concerns == "tenant"} == {13, 31, 43, 45}
    for row in [*table.values(), *kinds().values()]:
        assert row.action in ACTIONS
        assert row.then in {*ACTIONS, ""}
        assert row.concerns in {"tenant", "operator"}
        assert row.severity in {"info", "warning", "critical"}
        assert row.name


@pytest.mark.parametrize(
    ("kind", "code", "text", "action", "severity"),
    [
        ("xid", 79, "", "reboot", "critical"),
        ("xid", 145, "RLW_REMAP Nonfatal XC0 i0 Link 00", "check_nvlink", "warning"),
        ("xid", 145, "RLW_RSPCOL Fatal XC0 i0 Link 00", "reset_gpu", "critical"),
        ("xid", 154, "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
         "reboot", "critical"),
        ("xid", 154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)",
         "ignore", "info"),
        ("xid", 154, "", "follow_recovery", "warning"),
        ("xid", 999, "", "look_up", "warning"),
        ("xid", None, "", "look_up", "warning"),
        ("sxid", 20034, "NVSwitch 1: Fatal, Link 48", "reset_fabric", "critical"),
        ("sxid", 12028, "NVSwitch 3: Non-fatal, Link 32", "check_nvlink", "warning"),
        ("recovery_action", 4, "", "drain", "critical"),
        ("poison", None, "fatal poison error", "reset_gpu", "critical"),
        ("poison", None, "non-fatal poison error", "restart_app", "warning"),
        ("page_retired", None, "a page or row was retired", "drain", "warning"),
        ("page_retired", None, "a page or row could not be retired", "reset_gpu", "critical"),
        ("something_new", None, "", "", "info"),
    ],
)  # fmt: skip
def test_advice_heeds_the_text(
    kind: str, code: int | None, text: str, action: str, severity: str
) -> None:
    found = advice(kind, code, text)
    assert (found.action, found.severity, found.concerns) == (action, severity, "operator")
