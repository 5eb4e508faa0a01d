"""Incidents, words of people, silences and the audit through the API, from the bus and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from api_parts import Centre, client_of, inventory, until
from fastapi import FastAPI

from collectors.contract.alerts import Alert, Control, Delivery, Incident, Member, Subject
from collectors.contract.bus import Message
from collectors.contract.topics import ALERTS, CONTROL, dumps
from pipeline.api.alert_desk import AlertDesk
from pipeline.api.models_alerts import AuditRows, IncidentDetail, Incidents, Silences
from pipeline.books.acts import Outbox
from pipeline.books.alert_history import AlertKeeper
from pipeline.books.database import Database
from pipeline.books.queries import BooksReader
from pipeline.health import HealthBoard

_GPU = Subject("gpu", "a01n01/0", "hall a", "a01", "a01n01", "0000:1b:00.0")


def alert(state: str = "firing", at_us: int = 1_000) -> Alert:
    return Alert("f1", "xid_79", "critical", state, _GPU, 1_000, at_us, incident="i1")


def incident(name: str = "i1", *, severity: str = "critical", **more: Any) -> Incident:
    opened_us = more.pop("opened_us", 1_000_000)
    wanted: dict[str, Any] = {"revision": 1, "notice": 1, "state": "open", **more}
    return Incident(
        id=name, severity=severity, title="A01n01/0: off the bus", family="lost", cause="off_bus",
        subject=_GPU, opened_us=opened_us, changed_us=opened_us, tenants=("Lantau Vision",),
        members=(Member("f1", "xid_79", severity, _GPU, 1_000),), runbook="gpu-lost", **wanted,
    )  # fmt: skip


async def send(centre: Centre, *records: Alert | Incident | Delivery | Control) -> None:
    producer = centre.bus.producer()
    await producer.start()
    await producer.send(
        [
            Message("t." + (CONTROL if isinstance(one, Control) else ALERTS), one.key, dumps(one))
            for one in records
        ]
    )
    await producer.stop()


def desk_of(app: FastAPI) -> AlertDesk:
    return app.state.api.alert_desk


@asynccontextmanager
async def with_books(
    centre: Centre, folder: Path
) -> AsyncGenerator[tuple[FastAPI, httpx.AsyncClient, HealthBoard]]:
    """An application whose books follow the alerts, as `petawatch up` has them."""
    database = Database(f"sqlite:///{folder}/books.db")
    await database.start()
    board = HealthBoard("books", "1", centre.clock)
    centre.books = BooksReader(database, inventory)
    centre.acts = Outbox(database, centre.bus, centre.clock, centre.board)
    stop = asyncio.Event()
    keeper = AlertKeeper(centre.bus, database, "t.", centre.clock, board)
    running = asyncio.create_task(keeper.run(stop))
    app = centre.app()
    try:
        async with client_of(app) as client:
            yield app, client, board
    finally:
        stop.set()
        await running
        await database.close()


async def test_what_is_open_is_known_without_the_books(centre: Centre) -> None:
    await send(centre, incident(), alert(), incident("i2", severity="warning", opened_us=5))
    await send(centre, incident("i3"), incident("i3", state="resolved", revision=2, resolved_us=9))
    app = centre.app()
    async with client_of(app) as client:
        await until(lambda: desk_of(app).changes >= 5)
        answer = Incidents.model_validate((await client.get("/api/v1/incidents")).json())
        assert [row.id for row in answer.incidents] == ["i1", "i2"]
        warnings = (await client.get("/api/v1/incidents?severity=warning")).json()["incidents"]
        assert [row["id"] for row in warnings] == ["i2"]
        detail = (await client.get("/api/v1/incidents/i1")).json()
        assert [one["rule"] for one in detail["alerts"]] == ["xid_79"]
        assert (await client.get("/api/v1/incidents?state=all")).status_code == 503
        assert (await client.post("/api/v1/incidents/i1/acknowledge", json={})).status_code == 503
        assert (await client.get("/api/v1/incidents/nil")).status_code == 404
        firing = (await client.get("/api/v1/alerts")).json()["alerts"]
        assert [one["fingerprint"] for one in firing] == ["f1"]


async def test_words_of_people_reach_bus_books_and_audit(centre: Centre, tmp_path: Path) -> None:
    async with with_books(centre, tmp_path) as (app, client, board):
        await send(centre, incident(), alert(), Delivery("on-call", "i1", 1, "sent", 2_000))
        await until(lambda: "i1" in desk_of(app).open)
        said = {"X-Petawatch-Actor": "kim"}
        took = await client.post(
            "/api/v1/incidents/i1/acknowledge", json={"text": "mine"}, headers=said
        )
        assert took.status_code == 200
        await client.post("/api/v1/incidents/i1/comments", json={"text": "reseated"}, headers=said)
        await until(lambda: desk_of(app).acknowledged("i1") is not None)
        await until(lambda: len(desk_of(app).controls) == 2)
        await until(lambda: board.total("alert_history_records") >= 5)
        detail = IncidentDetail.model_validate((await client.get("/api/v1/incidents/i1")).json())
        assert detail.incident.acknowledged is not None
        assert detail.incident.acknowledged.actor == "local (kim)"
        assert [one["text"] for one in detail.comments] == ["reseated"]
        assert [one["target"] for one in detail.deliveries] == ["on-call"]
        assert [one["action"] for one in detail.acts] == [
            "incident.comment",
            "incident.acknowledge",
        ]
        await client.delete("/api/v1/incidents/i1/acknowledge")
        await until(lambda: desk_of(app).acknowledged("i1") is None)
        acts = AuditRows.model_validate((await client.get("/api/v1/audit?limit=1")).json()).acts
        assert [one["action"] for one in acts] == ["incident.let_go"]
        empty = await client.post("/api/v1/incidents/i1/comments", json={"text": " "})
        assert empty.status_code == 422
        gone = await client.post("/api/v1/incidents/i9/acknowledge", json={})
        assert gone.status_code == 404
        words = await client.post("/api/v1/incidents/i9/comments", json={"text": "what?"})
        assert words.status_code == 404
        again = await client.delete("/api/v1/incidents/i1/acknowledge")
        assert again.status_code == 404


async def test_silences_show_and_end(centre: Centre, tmp_path: Path) -> None:
    async with with_books(centre, tmp_path) as (app, client, _):
        await send(centre, incident())
        await until(lambda: "i1" in desk_of(app).open)
        wanted = {"match": {"rack": "a0*"}, "for_s": 3_600, "text": "new pumps"}
        made = (await client.post("/api/v1/silences", json=wanted)).json()
        await until(lambda: len(desk_of(app).controls) == 1)
        rows = Silences.model_validate((await client.get("/api/v1/silences")).json()).silences
        assert [(one.id, one.active, one.actor) for one in rows] == [(made["id"], True, "local")]
        shown = (await client.get("/api/v1/incidents")).json()["incidents"]
        assert [one["silenced"] for one in shown] == [True]
        ended = await client.delete(f"/api/v1/silences/{made['id']}")
        assert ended.status_code == 200
        await until(lambda: not desk_of(app).controls)
        assert (await client.get("/api/v1/silences")).json() == {"silences": []}
        assert (await client.delete("/api/v1/silences/nil")).status_code == 404


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"match": {"rak": "x"}, "for_s": 60, "text": "x"}, "no such field 'rak'; there is rule"),
        ({"match": {"rack": "x"}, "text": "x"}, "a silence has an end"),
        ({"match": {"rack": "x"}, "text": "x", "for_s": 60, "until": "2030-01-01"}, "Write until"),
        ({"match": {"rack": "x"}, "text": "x", "until": "2020-01-01"}, "must lie ahead"),
        ({"match": {}, "text": "x", "for_s": 60}, "match"),
        ({"match": {"rack": "x"}, "text": "", "for_s": 60}, "text"),
    ],
)
async def test_a_silence_that_cannot_be_is_refused(
    centre: Centre, tmp_path: Path, body: dict[str, Any], said: str
) -> None:
    async with with_books(centre, tmp_path) as (_, client, _board):
        answer = await client.post("/api/v1/silences", json=body)
        assert answer.status_code == 422
        assert said in answer.text
        assert (await client.get("/api/v1/audit")).json() == {"acts": []}


async def test_history_is_searched_page_by_page(centre: Centre, tmp_path: Path) -> None:
    async with with_books(centre, tmp_path) as (_, client, board):
        many = [
            incident(f"n{number:03}", opened_us=number, state="resolved", resolved_us=number + 1)
            for number in range(150)
        ]
        await send(centre, *many)
        await until(lambda: board.total("alert_history_records") >= 150)
        first = (await client.get("/api/v1/incidents?state=resolved&search=lantau")).json()
        assert len(first["incidents"]) == 100
        rest = (await client.get(f"/api/v1/incidents?state=resolved&after={first['next']}")).json()
        ids = [row["id"] for row in (*first["incidents"], *rest["incidents"])]
        assert ids == [f"n{number:03}" for number in reversed(range(150))]
        assert rest["next"] is None
        assert (await client.get("/api/v1/incidents?state=all&search=pump")).json()[
            "incidents"
        ] == []
        assert (await client.get("/api/v1/incidents?state=all&after=x")).status_code == 422


async def test_a_test_message_is_asked_for(centre: Centre, tmp_path: Path) -> None:
    async with with_books(centre, tmp_path) as (_, client, _board):
        assert (
            await client.post("/api/v1/alerts/test", json={"target": "mail"})
        ).status_code == 200
        consumer = centre.bus.consumer(["t." + CONTROL], None)
        await consumer.start()
        async with asyncio.timeout(10):
            while not (chunks := await consumer.fetch(0.5)):
                pass
        control = msgspec.json.decode(chunks[0].values[0], type=Control)
        assert (control.kind, control.incident, control.actor) == ("notify_test", "mail", "local")
        await consumer.stop()
