"""The history of alerts: all of the log once, whatever restarts, and found again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from collectors.contract.alerts import Alert, Control, Delivery, Incident, Member, Subject
from collectors.contract.bus import Bus, Message
from collectors.contract.topics import ALERTS, CONTROL, dumps, topic_specs
from collectors.kit.clock import SystemClock
from pipeline.books import alert_history as history
from pipeline.books.alert_history import AlertKeeper
from pipeline.books.database import Database
from pipeline.bus import open_bus
from pipeline.health import HealthBoard

_GPU = Subject("gpu", "n1/0", "A", "r1", "n1", "0000:01:00.0")


def _alert(number: int, state: str = "firing") -> Alert:
    return Alert(
        f"f{number}", "xid_79", "critical", state, _GPU, 10 + number, 10 + number, incident="i1"
    )


def _incident(name: str, opened_us: int, state: str = "open", revision: int = 1) -> Incident:
    member = Member("f1", "xid_79", "critical", _GPU, 11)
    return Incident(
        name, state, "critical", "N1/0: off the bus", "lost", "off_bus", _GPU, opened_us,
        opened_us, revision, 1, members=(member,), tenants=("Acme 50%",), jobs=("job-7",),
    )  # fmt: skip


def _messages(*records: Alert | Incident | Delivery | Control) -> list[Message]:
    return [
        Message(CONTROL if isinstance(one, Control) else ALERTS, one.key, dumps(one))
        for one in records
    ]


async def _kept(bus: Bus, database: Database, until: int) -> None:
    """Runs a keeper until it has taken so many records."""
    clock, stop = SystemClock(), asyncio.Event()
    board = HealthBoard("books", "a", clock)
    running = asyncio.create_task(AlertKeeper(bus, database, "", clock, board).run(stop))
    async with asyncio.timeout(20):
        while board.total("alert_history_records") < until:
            await clock.sleep(0.01)
    stop.set()
    await running


async def test_the_log_is_copied_once_over_restarts_and_found(tmp_path: Path) -> None:
    bus = open_bus(f"sqlite:///{tmp_path}/bus.db", SystemClock())
    database = Database(f"sqlite:///{tmp_path}/books.db")
    await bus.create_topics(topic_specs())
    await database.start()
    producer = bus.producer()
    await producer.start()
    ack = Control("acknowledge", "i1", "operator", 20, incident="i1")
    await producer.send(
        _messages(
            _alert(1), _alert(2, "pending"), _incident("i1", 10), _incident("i2", 30),
            _incident("i1", 10, "resolved", 2), Delivery("on-call", "i1", 1, "sent", 12), ack,
        )
    )  # fmt: skip
    broken = [Message(ALERTS, b"alert/x", b"{"), Message(ALERTS, b"odd", b"{}")]
    await producer.send(broken)
    await _kept(bus, database, 7)
    note = Control("comment", "c1", "operator", 25, incident="i1", text="looking")
    await producer.send(_messages(_alert(1, "resolved"), note))
    gone = msgspec.structs.replace(ack, deleted=True)
    await producer.send(_messages(gone))
    await _kept(bus, database, 3)
    await producer.stop()

    found = await database.read(history.find_incidents)
    assert [(one.id, one.state, one.revision) for one in found] == [
        ("i2", "open", 1),
        ("i1", "resolved", 2),
    ]
    by_word = await database.read(lambda one: history.find_incidents(one, search="ACME 50% job-7"))
    assert len(by_word) == 2
    assert await database.read(lambda one: history.find_incidents(one, search="50_")) == []
    page = await database.read(lambda one: history.find_incidents(one, before=(30, "i2")))
    assert [one.id for one in page] == ["i1"]
    alerts = await database.read(lambda one: history.alerts_of(one, "i1"))
    assert [one.state for one in alerts] == ["firing", "resolved"]
    controls = await database.read(lambda one: history.read_controls(one, incident="i1"))
    assert controls == [note]
    sent = await database.read(lambda one: history.deliveries_of(one, "i1"))
    assert [one.outcome for one in sent] == ["sent"]
    assert (await database.read(lambda one: history.read_incident(one, "i3"))) is None
    await database.close()
    await bus.close()
