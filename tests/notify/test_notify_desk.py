"""What is still to be told, whatever order records stand in: a `watch` that was frozen while another
went on sends old ones again, and so does a compacted log."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from notify_tools import incident

from collectors.contract.alerts import Delivery
from collectors.contract.bus import Chunk, Partition
from collectors.contract.topics import ALERTS
from collectors.kit.clock import SystemClock
from pipeline.api.alert_desk import AlertDesk
from pipeline.bus import open_bus
from pipeline.health import HealthBoard
from pipeline.notify.desk import Desk
from pipeline.notify.targets import WebhookTarget
from pipeline.watch.alerts.publish import Published

TARGET = WebhookTarget(name="t", url="http://localhost/")
OPENED, WORSE = incident(notice=1, revision=2), incident(notice=2, revision=5)
OVER = incident(notice=3, revision=9, state="resolved")


def told(desk: Desk) -> list[tuple[int, str]]:
    """Everything that is due, told."""
    out: list[tuple[int, str]] = []
    while due := list(desk.due("t")):
        out += [(one.incident.notice, one.kind) for one in due]
        for one in due:
            desk.take_delivery(Delivery("t", one.incident.id, one.incident.notice, "sent", 1, 1))
    return out


def test_the_same_record_twice_is_told_once() -> None:
    desk = Desk([TARGET])
    for _ in range(2):
        desk.take_incident(OPENED, 1)
    assert told(desk) == [(1, "opened")]
    desk.take_incident(OPENED, 2)
    assert told(desk) == []


@pytest.mark.parametrize("late", [OPENED, WORSE], ids=["opened", "worse"])
def test_what_comes_after_the_end_opens_nothing(late: object) -> None:
    desk = Desk([TARGET])
    for one in (OPENED, WORSE, OVER):
        desk.take_incident(one, 1)
    assert told(desk) == [(1, "opened"), (2, "worse"), (3, "resolved")]
    desk.take_incident(msgspec.convert(late, type(OPENED)), 2)
    assert told(desk) == []
    assert desk.open_at("t") == []


def test_a_log_that_keeps_the_late_record_alone_opens_nothing() -> None:
    """As compaction leaves it, the deliveries before or after it."""
    deliveries = [Delivery("t", "i1", number, "sent", 1, 1) for number in (1, 2, 3)]
    before, after = Desk([TARGET]), Desk([TARGET])
    for one in deliveries:
        before.take_delivery(one)
    before.take_incident(OPENED, 2)
    after.take_incident(OPENED, 2)
    for one in deliveries:
        after.take_delivery(one)
    for desk in (before, after):
        assert told(desk) == []
        assert desk.open_at("t") == []


def test_who_leads_next_repeats_nothing_where_an_old_record_stands_last() -> None:
    published = Published()
    records = [(one.key, msgspec.json.encode(one)) for one in (OPENED, WORSE, OPENED)]
    published.learn(records)
    assert published.new([], [WORSE]) == []
    assert published.new([], [OVER]) == [OVER]


def test_a_page_shows_nothing_that_is_over(tmp_path: Path) -> None:
    clock = SystemClock()
    bus = open_bus(f"sqlite:///{tmp_path}/bus.db", clock)
    page = AlertDesk(bus, "", clock, HealthBoard("serve", "t", clock))
    for one in (OPENED, OVER, OPENED):
        chunk = Chunk(
            Partition(ALERTS, 0), range(1), [1], [one.key], [msgspec.json.encode(one)]
        )  # fmt: skip
        page.take([chunk])
    assert page.open == {}
