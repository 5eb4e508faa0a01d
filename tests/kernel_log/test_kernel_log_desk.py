"""Each happening once though two sources tell it; storms in sums; memory bounded."""

from __future__ import annotations

import pytest
from agent.manual_clock import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from collectors.agent.events import MAX_STORMS, EventDesk
from collectors.contract.identity import Slot, pack_slot
from collectors.contract.source import DeviceEvent

SLOT = pack_slot(Slot(0, 0x38, 0, 0))
INSTANCE = pack_slot(Slot(0, 0x38, 0, 0, 2, 0))


def make() -> tuple[EventDesk, ManualClock]:
    clock = ManualClock()
    return EventDesk("n1", clock, lambda slot: f"job on {slot}"), clock


def xid(code: int = 13, slot: int | None = SLOT, text: str = "") -> DeviceEvent:
    return DeviceEvent("xid", slot, code=code, text=text)


@pytest.mark.parametrize("order", [("driver", "kernel_log"), ("kernel_log", "driver")])
def test_two_sources_within_ten_seconds_tell_of_one(order: tuple[str, str]) -> None:
    desk, clock = make()
    [first] = desk.take(xid(), order[0])
    assert (first.source, first.count, first.slot) == (order[0], 1, "0000:38:00.0")
    assert first.occupant == f"job on {SLOT}"
    clock.move(9)
    assert desk.take(xid(), order[1]) == []
    clock.move(60)
    assert desk.due() == []
    assert desk.repeated == 1


def test_two_sources_further_apart_tell_of_two() -> None:
    desk, clock = make()
    desk.take(xid(), "driver")
    clock.move(11)
    assert desk.take(xid(), "kernel_log") == []
    clock.move(50)
    [summed] = desk.due()
    assert summed.count == 1


def test_a_source_that_repeats_itself_tells_of_more() -> None:
    desk, clock = make()
    assert len(desk.take(xid(), "driver")) == 1
    for _ in range(3):
        clock.move(1)
        assert desk.take(xid(text="again"), "driver") == []
    clock.move(57)
    [summed] = desk.due()
    assert (summed.count, summed.code, summed.action) == (3, 13, "restart_app")
    assert summed.text == "3 more, the last after 3 s: again"
    assert summed.time_us == clock.wall - 57_000_000
    clock.move(60)
    assert desk.due() == []
    assert len(desk.take(xid(), "driver")) == 1


def test_a_storm_that_goes_on_is_summed_each_minute_and_not_told_anew() -> None:
    desk, clock = make()
    told = desk.take(xid(), "driver")
    for _ in range(240):
        clock.move(1)
        told += desk.take(xid(), "driver") + desk.due()
    clock.move(120)
    told += desk.due()
    assert sum(record.count for record in told) == 241
    assert len(told) <= 6


def test_both_sources_in_a_storm_count_once() -> None:
    desk, clock = make()
    told = desk.take(xid(), "driver") + desk.take(xid(), "kernel_log")
    for _ in range(50):
        clock.move(0.5)
        told += desk.take(xid(), "kernel_log")
        clock.move(0.5)
        told += desk.take(xid(), "driver")
    clock.move(61)
    told += desk.due()
    assert sum(record.count for record in told) == 51


def test_an_instance_and_its_gpu_are_one_place() -> None:
    desk, _ = make()
    [first] = desk.take(xid(slot=INSTANCE), "kernel_log")
    assert first.slot == "0000:38:00.0/2/0"
    assert desk.take(xid(), "driver") == []


def test_a_worse_report_does_not_wait_in_a_sum() -> None:
    desk, _ = make()
    desk.take(xid(149, text="NETIR_BER_EVENT Nonfatal Link 03"), "kernel_log")
    assert desk.take(xid(149, text="NETIR_BER_EVENT Nonfatal Link 04"), "kernel_log") == []
    [worse] = desk.take(xid(149, text="NETIR_LINK_EVT Fatal Link 03"), "kernel_log")
    assert worse.action == "reset_gpu"
    assert desk.take(xid(149, text="NETIR_LINK_EVT Fatal Link 05"), "kernel_log") == []
    assert desk.take(xid(149), "driver") == []
    [summed] = desk.rest()
    assert summed.count == 2


def test_a_late_report_keeps_its_time() -> None:
    desk, clock = make()
    [late] = desk.take(xid()._replace(time_us=clock.wall - 5_000_000), "kernel_log")
    assert late.time_us == clock.wall - 5_000_000


def test_memory_is_bounded_and_nothing_is_lost_by_it() -> None:
    desk, _ = make()
    told = 0
    for code in range(2 * MAX_STORMS):
        told += sum(record.count for record in desk.take(xid(1_000 + code), "driver"))
        told += sum(record.count for record in desk.take(xid(1_000 + code), "driver"))
    told += sum(record.count for record in desk.rest())
    assert told == 4 * MAX_STORMS


REPORT = st.tuples(
    st.floats(0, 40), st.sampled_from(["driver", "kernel_log"]), st.sampled_from([13, 43, 79, 149]),
    st.sampled_from([SLOT, INSTANCE, None]), st.sampled_from(["", "Fatal", "Nonfatal"]),
)  # fmt: skip


@given(st.lists(REPORT, max_size=60))
def test_every_report_is_told_summed_or_a_repeat(
    reports: list[tuple[float, str, int, int | None, str]],
) -> None:
    desk, clock = make()
    told = 0
    for wait_s, source, code, slot, text in reports:
        clock.move(wait_s)
        told += sum(record.count for record in desk.take(xid(code, slot, text), source))
        told += sum(record.count for record in desk.due())
    told += sum(record.count for record in desk.rest())
    assert told + desk.repeated == len(reports)
