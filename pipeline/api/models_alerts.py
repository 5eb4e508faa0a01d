"""Shapes of questions and answers about alerts, as OpenAPI states them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_Text = Annotated[str, Field(max_length=2_000)]


class Acknowledgement(BaseModel):
    """Who has taken an incident on, and since when."""

    actor: str
    time: str
    text: str


class IncidentRow(BaseModel):
    """An incident; times are ISO-8601, `members` at most 100 of `member_count`."""

    model_config = ConfigDict(extra="allow")

    id: str
    state: Literal["open", "resolved"]
    severity: Literal["info", "warning", "critical"]
    title: str
    family: str
    cause: str
    opened: str
    resolved: str | None
    acknowledged: Acknowledgement | None
    silenced: bool
    tenants: list[str]
    jobs: list[str]
    gpus: int
    pflops: float | None
    runbook: str
    member_count: int


class Incidents(BaseModel):
    """Incidents, the newest first; `next` asks for the page after."""

    incidents: list[IncidentRow]
    next: str | None


class IncidentDetail(BaseModel):
    """Everything that is known of an incident."""

    incident: IncidentRow
    alerts: list[dict[str, Any]]
    comments: list[dict[str, Any]]
    deliveries: list[dict[str, Any]]
    acts: list[dict[str, Any]]


class Said(BaseModel):
    """A comment, or a word with an acknowledgement."""

    model_config = ConfigDict(extra="forbid")

    text: _Text = ""


class NewSilence(BaseModel):
    """What is to be silenced, until when and why; write `until` or `for_s`."""

    model_config = ConfigDict(extra="forbid")

    match: Annotated[dict[str, str], Field(min_length=1, max_length=16)]
    until: str | None = None
    for_s: Annotated[float, Field(ge=60, le=90 * 86_400)] | None = None
    from_: Annotated[str | None, Field(alias="from")] = None
    text: Annotated[str, Field(min_length=1, max_length=2_000)]


class SilenceRow(BaseModel):
    """A silence; `active` now, or to come."""

    id: str
    match: dict[str, str]
    from_time: str
    until: str | None
    actor: str
    text: str
    active: bool


class Silences(BaseModel):
    """Silences that hold now or later."""

    silences: list[SilenceRow]


class TestWanted(BaseModel):
    """Whom to send a test message; all where none is named."""

    model_config = ConfigDict(extra="forbid")

    target: Annotated[str, Field(max_length=64)] = ""


class Done(BaseModel):
    """What was written."""

    id: str


class AuditRows(BaseModel):
    """Who did what, the newest first."""

    acts: list[dict[str, Any]]


class Firing(BaseModel):
    """Alerts that fire now, incident or not."""

    alerts: list[dict[str, Any]]


class Runbook(BaseModel):
    """A runbook's text in Markdown."""

    name: str
    text: str
