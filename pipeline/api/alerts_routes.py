"""Incidents, what people say of them, silences, and who did what."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from sqlalchemy import Connection

from collectors.contract.alerts import SEVERITIES, Alert, Control, Incident
from collectors.contract.bus import Message
from collectors.contract.inventory import Inventory
from collectors.contract.topics import CONTROL, dumps
from pipeline.api import models_alerts as models
from pipeline.api.actor import Actor, Acts
from pipeline.api.deps import Api, Served, UsageReader, json_response
from pipeline.api.problems import ProblemError
from pipeline.api.ranges import parse_time, time_text
from pipeline.books import alert_history as history
from pipeline.books.acts import Act, Audited, read_audit
from pipeline.notify.quiet import Quiet

router = APIRouter(prefix="/api/v1", tags=["alerts"])
State = Literal["open", "resolved", "all"]
_PAGE = 100


def books_of(api: Api) -> UsageReader:
    if api.deps.books is None:
        raise ProblemError(503, "This server has no books; what is over is only known there.")
    return api.deps.books


def incident_row(api: Api, one: Incident, quiet: Quiet | None = None) -> dict[str, Any]:
    """An incident as JSON, with what people said of it."""
    row: dict[str, Any] = msgspec.to_builtins(one)
    ack = api.alert_desk.acknowledged(one.id)
    now_us = api.deps.clock.wall_us()
    why = quiet.why(one, now_us, api.deps.inventory()) if quiet and one.state == "open" else None
    said = None
    if ack is not None:
        said = {"actor": ack.actor, "time": time_text(ack.at_us), "text": ack.text}
    return {
        "resolved_us": None, "confidence": None, "pflops": None, "gpus": 0, "tenants": [],
        "jobs": [], "runbook": "", "action": "", "text": "", "member_count": 0, **row,
        "opened": time_text(one.opened_us),
        "resolved": None if one.resolved_us is None else time_text(one.resolved_us),
        "acknowledged": said,
        "silenced": why is not None,
    }  # fmt: skip


def _quiet(api: Api) -> Quiet:
    quiet = Quiet()
    for one in api.alert_desk.silences(api.deps.clock.wall_us()):
        quiet.take_control(one)
    return quiet


def _grave(one: Incident) -> tuple[int, int, str]:
    return -SEVERITIES.index(one.severity), -one.opened_us, one.id


@router.get("/incidents", response_model=models.Incidents, summary="Incidents")
async def incidents(
    api: Served,
    state: State = "open",
    severity: Annotated[list[str], Query()] = [],  # noqa: B006 (FastAPI copies it)
    concerns: str | None = None,
    search: Annotated[str, Query(max_length=200)] = "",
    from_: Annotated[str | None, Query(alias="from")] = None,
    to: str | None = None,
    after: Annotated[str | None, Query(description="`next` of the page before.")] = None,
) -> Response:
    """Open ones, the gravest first, from memory; others, and searches, from the books."""
    if state == "open" and not (search or from_ or to or after):
        found = [
            one
            for one in api.alert_desk.open.values()
            if severity in ([], [one.severity]) and concerns in (None, one.concerns)
        ]
        rows = sorted(found, key=_grave)
        return _page(api, rows, None)
    wanted: dict[str, Any] = {
        "states": ("open", "resolved") if state == "all" else (state,),
        "severities": severity,
        "concerns": concerns,
        "search": search,
        "from_us": None if from_ is None else parse_time(from_, "from"),
        "to_us": None if to is None else parse_time(to, "to"),
        "before": None if after is None else _cursor(after),
        "limit": _PAGE + 1,
    }

    def ask(connection: Connection, _: Inventory) -> list[Incident]:
        return history.find_incidents(connection, **wanted)

    rows = await books_of(api).ask(ask)
    more = f"{rows[_PAGE - 1].opened_us}-{rows[_PAGE - 1].id}" if len(rows) > _PAGE else None
    return _page(api, rows[:_PAGE], more)


def _page(api: Api, rows: list[Incident], more: str | None) -> Response:
    quiet = _quiet(api)
    return json_response({"incidents": [incident_row(api, r, quiet) for r in rows], "next": more})


def _cursor(text: str) -> tuple[int, str]:
    opened, _, name = text.partition("-")
    if not opened.isdecimal() or not name:
        raise ProblemError(422, "after: write what the page before gave as next.")
    return int(opened), name


@router.get(
    "/incidents/{incident}", response_model=models.IncidentDetail, summary="All of an incident"
)
async def incident(api: Served, incident: str) -> Response:
    """Its alerts in order of time, comments, what was told to whom, and who did what."""

    def ask(connection: Connection, _: Inventory) -> tuple[Incident | None, dict[str, Any]]:
        acts = [act_row(one) for one in read_audit(connection, subject=incident)]
        return history.read_incident(connection, incident), {
            "alerts": [alert_row(one) for one in history.alerts_of(connection, incident)],
            "deliveries": [
                {**msgspec.to_builtins(one), "time": time_text(one.at_us)}
                for one in history.deliveries_of(connection, incident)
            ],
            "acts": acts,
        }

    kept, more = None, dict[str, Any](alerts=[], deliveries=[], acts=[])
    if api.deps.books is not None:
        kept, more = await api.deps.books.ask(ask)
    found = api.alert_desk.open.get(incident) or kept
    if found is None:
        raise ProblemError(404, f"No incident is called {incident!r}.")
    if not more["alerts"]:
        firing = api.alert_desk.firing.values()
        more["alerts"] = [alert_row(one) for one in firing if one.incident == incident]
    comments = [
        {"actor": one.actor, "time": time_text(one.at_us), "text": one.text}
        for (kind, _), one in api.alert_desk.controls.items()
        if kind == "comment" and one.incident == incident
    ]
    row = incident_row(api, found, _quiet(api))
    return json_response({"incident": row, **more, "comments": comments})


def alert_row(one: Alert) -> dict[str, Any]:
    """A transition as JSON."""
    row: dict[str, Any] = msgspec.to_builtins(one)
    return {**row, "since": time_text(one.since_us), "at": time_text(one.at_us)}


def act_row(one: Audited) -> dict[str, Any]:
    return {
        "time": time_text(one.at_us), "actor": one.actor, "action": one.action,
        "subject": one.subject, "detail": dict(one.detail),
    }  # fmt: skip


@router.get("/alerts", response_model=models.Firing, summary="Alerts that fire now")
async def alerts(api: Served, severity: str | None = None) -> Response:
    """All of them, in an incident or, like information, in none."""
    firing = sorted(api.alert_desk.firing.values(), key=lambda one: (one.at_us, one.fingerprint))
    rows = [alert_row(one) for one in firing if severity in (None, one.severity)]
    return json_response({"alerts": rows})


async def decide(api: Api, acts: Acts, act: Act, control: Control) -> Response:
    """Writes an act together with its record for the bus."""
    topic = api.deps.topic_prefix + CONTROL
    message = Message(topic, control.key, dumps(control))
    await acts.act(dataclasses.replace(act, messages=[message]))
    return json_response({"id": control.id})


def _open(api: Api, incident: str) -> Incident:
    found = api.alert_desk.open.get(incident)
    if found is None:
        raise ProblemError(404, f"No incident that is open is called {incident!r}.")
    return found


@router.post(
    "/incidents/{incident}/acknowledge", response_model=models.Done, summary="Take an incident on"
)
async def acknowledge(
    api: Served, acts: Acts, actor: Actor, incident: str, said: models.Said
) -> Response:
    """Says that somebody is at it."""
    found = _open(api, incident)
    control = Control(
        "acknowledge", found.id, actor, api.deps.clock.wall_us(), incident=found.id, text=said.text
    )
    act = Act(actor, "incident.acknowledge", found.id, {"text": said.text})
    return await decide(api, acts, act, control)


@router.delete(
    "/incidents/{incident}/acknowledge", response_model=models.Done, summary="Let an incident go"
)
async def let_go(api: Served, acts: Acts, actor: Actor, incident: str) -> Response:
    """Takes an acknowledgement back."""
    if api.alert_desk.acknowledged(incident) is None:
        raise ProblemError(404, f"Nobody has taken {incident!r} on.")
    control = Control(
        "acknowledge", incident, actor, api.deps.clock.wall_us(), incident=incident, deleted=True
    )
    return await decide(api, acts, Act(actor, "incident.let_go", incident), control)


@router.post(
    "/incidents/{incident}/comments", response_model=models.Done, summary="Comment on an incident"
)
async def comment(
    api: Served, acts: Acts, actor: Actor, incident: str, said: models.Said
) -> Response:
    """Writes a comment, on one that is over too."""
    if not said.text.strip():
        raise ProblemError(422, "text: write something.")
    if incident not in api.alert_desk.open:

        def ask(connection: Connection, _: Inventory) -> Incident | None:
            return history.read_incident(connection, incident)

        if await books_of(api).ask(ask) is None:
            raise ProblemError(404, f"No incident is called {incident!r}.")
    name = secrets.token_hex(8)
    control = Control(
        "comment", name, actor, api.deps.clock.wall_us(), incident=incident, text=said.text
    )
    act = Act(actor, "incident.comment", incident, {"id": name, "text": said.text})
    return await decide(api, acts, act, control)
