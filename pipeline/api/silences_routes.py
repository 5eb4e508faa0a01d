"""Silences, test messages, and who did what."""

from __future__ import annotations

import asyncio
import re
import secrets
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response
from sqlalchemy import Connection

from collectors.contract.alerts import Control
from collectors.contract.inventory import Inventory
from pipeline.api import models_alerts as models
from pipeline.api.actor import Actor, Acts
from pipeline.api.alerts_routes import act_row, books_of, decide
from pipeline.api.deps import Served, json_response
from pipeline.api.problems import ProblemError
from pipeline.api.ranges import parse_time, time_text
from pipeline.books.acts import Act, Audited, read_audit
from pipeline.notify.quiet import SILENCE_FIELDS

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ROOT = Path(__file__).resolve().parents[2]
_RUNBOOKS = (_ROOT / "pipeline" / "runbooks", _ROOT / "docs" / "runbooks")
"""In an installed package, and in a checkout."""
router = APIRouter(prefix="/api/v1", tags=["alerts"])


@router.get("/silences", response_model=models.Silences, summary="Silences")
async def silences(api: Served) -> Response:
    """Those that hold now or later."""
    now_us = api.deps.clock.wall_us()
    rows = [
        {
            "id": one.id,
            "match": one.match,
            "from_time": time_text(one.from_us),
            "until": None if one.until_us is None else time_text(one.until_us),
            "actor": one.actor,
            "text": one.text,
            "active": one.from_us <= now_us,
        }
        for one in api.alert_desk.silences(now_us)
    ]
    return json_response({"silences": rows})


@router.post("/silences", response_model=models.Done, summary="Silence alerts")
async def silence(api: Served, acts: Acts, actor: Actor, wanted: models.NewSilence) -> Response:
    """Holds messages back; pages go on showing everything."""
    wrong = [name for name in wanted.match if name not in SILENCE_FIELDS]
    if wrong:
        known = ", ".join(SILENCE_FIELDS)
        raise ProblemError(422, f"match: no such field {wrong[0]!r}; there is {known}.")
    now_us = api.deps.clock.wall_us()
    from_us = now_us if wanted.from_ is None else parse_time(wanted.from_, "from")
    if (wanted.until is None) == (wanted.for_s is None):
        raise ProblemError(422, "Write until (a time) or for_s (seconds): a silence has an end.")
    if wanted.until is not None:
        until_us = parse_time(wanted.until, "until")
    else:
        until_us = from_us + int((wanted.for_s or 0.0) * 1e6)
    if until_us <= max(now_us, from_us):
        raise ProblemError(422, "until must lie ahead, and behind from.")
    name = secrets.token_hex(8)
    control = Control(
        "silence", name, actor, now_us, wanted.match, from_us=from_us, until_us=until_us,
        text=wanted.text,
    )  # fmt: skip
    detail = {"match": wanted.match, "until": time_text(until_us), "text": wanted.text}
    return await decide(api, acts, Act(actor, "silence.add", name, detail), control)


@router.delete("/silences/{silence}", response_model=models.Done, summary="End a silence")
async def end_silence(api: Served, acts: Acts, actor: Actor, silence: str) -> Response:
    """What is still open is told again of."""
    known = api.alert_desk.controls.get(("silence", silence))
    if known is None:
        raise ProblemError(404, f"No silence is called {silence!r}.")
    at_us = api.deps.clock.wall_us()
    control = msgspec.structs.replace(known, actor=actor, at_us=at_us, deleted=True)
    return await decide(api, acts, Act(actor, "silence.end", silence), control)


@router.post("/alerts/test", response_model=models.Done, summary="Send a test message")
async def send_test(api: Served, acts: Acts, actor: Actor, wanted: models.TestWanted) -> Response:
    """Asks the notifier for a test message to one target or all."""
    name = secrets.token_hex(8)
    control = Control("notify_test", name, actor, api.deps.clock.wall_us(), incident=wanted.target)
    act = Act(actor, "notify.test", wanted.target or "all", {"id": name})
    return await decide(api, acts, act, control)


@router.get("/audit", response_model=models.AuditRows, summary="Who did what")
async def audit(
    api: Served,
    subject: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 200,
) -> Response:
    """The last acts, the newest first."""

    def ask(connection: Connection, _: Inventory) -> list[Audited]:
        return read_audit(connection, subject=subject, limit=limit)

    return json_response({"acts": [act_row(one) for one in await books_of(api).ask(ask)]})


@router.get("/runbooks/{name}", response_model=models.Runbook, summary="A runbook")
async def runbook(name: str) -> Response:
    """Its text in Markdown, as it is shipped."""
    text = await asyncio.to_thread(runbook_text, name)
    if text is None:
        raise ProblemError(404, f"No runbook is called {name!r}.")
    return json_response({"name": name, "text": text})


def runbook_text(name: str) -> str | None:
    """A shipped runbook; None where there is none of that name."""
    if not _NAME.fullmatch(name):
        return None
    for folder in _RUNBOOKS:
        path = folder / f"{name}.md"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return None
