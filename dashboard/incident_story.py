"""What happened in an incident, in words and in order of time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dash import html
from dash.development.base_component import Component

from dashboard.words import NONE

Json = Mapping[str, Any]


def timeline(found: Json) -> list[tuple[str, str, str]]:
    """(time, who, what), the newest first."""
    steps = [
        (
            one["at"],
            one.get("title") or one["rule"].replace("_", " "),
            f"{one['state']}: {one.get('text', '')}".rstrip(": "),
        )
        for one in found["alerts"]
    ]
    steps += [
        (one["time"], one["target"], f"told ({one['outcome']})")
        for one in found["deliveries"]
        if one["outcome"] != "sending"
    ]
    said = {"incident.acknowledge": "took it on", "incident.let_go": "let it go"}
    for act in found["acts"]:
        text = str(act["detail"].get("text") or "")
        what = said.get(act["action"], "")
        steps.append((act["time"], act["actor"], f"{what}: {text}".strip(": ") or act["action"]))
    return sorted(steps, reverse=True)[:200]


def step(time: str, who: str, what: str) -> Component:
    """One of them as a line."""
    return html.Li(
        [html.Span(time_words(time), className="nd-when"), html.Strong(who), html.Span(what)],
        className="al-step",
    )


def time_words(text: str | None) -> str:
    """`2026-11-24 05:50:12 UTC`."""
    if not text:
        return NONE
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def moment_words(time_us: int | None) -> str:
    """The same of µs since 1970."""
    return (
        NONE
        if time_us is None
        else time_words(datetime.fromtimestamp(time_us / 1e6, UTC).isoformat())
    )
