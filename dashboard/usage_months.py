"""The Usage page's parts about freezing a month, as pure functions of the API's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from dash import dcc, html
from dash.development.base_component import Component

from dashboard.tags import attributes
from dashboard.words import NONE, number

Json = Mapping[str, Any]
_SHOWN = 12
_COLUMNS = ("Owner", "Model", "Cause", "GPU-hours", "Active", "PFLOP-hours", "kWh")


def frozen_words(frozen: Json, zone: ZoneInfo) -> str:
    """Since when, by whom, and the first digits of the sum by which it can be checked."""
    moment = datetime.fromisoformat(frozen["time"]).astimezone(zone)
    note = f", “{frozen['note']}”" if frozen["note"] else ""
    digits = frozen["sha256"][:_SHOWN]
    return f"since {moment:%d %b %Y %H:%M} by {frozen['by']}{note}; SHA-256 {digits}…"


def freeze_card(words: str) -> Component:
    """What a person does with a month that is final; `assets/usage.js` does it."""
    text = (
        "Every hour is there and final. Frozen, the month stays as it is: what is learnt later is"
        " listed as adjustments, to be booked in the month in which it becomes known."
    )
    return html.Section(
        [
            html.Div(html.H2(f"Freeze {words}", className="pw-title"), className="pw-card-head"),
            html.Div(
                [
                    html.P(text, className="pw-note"),
                    _field("us-by", "Your name", 100),
                    _field("us-why", "Note, as you like", 1_000),
                    html.Button("Freeze the month", type="button", className="pw-button",
                                **attributes(data_act="freeze")),
                    html.P(id="us-sign-said", className="pw-note us-sign-said", role="status"),
                ],
                className="us-sign",
            ),
        ],
        className="pw-card nd-card us-card",
    )  # fmt: skip


def _field(name: str, words: str, longest: int) -> Component:
    field = dcc.Input(
        id=name, type="text", placeholder=words, maxLength=longest, className="us-field"
    )
    return html.Label([html.Span(words, className="pw-unseen"), field])


def adjustments_card(answer: Json, month: str) -> Component:
    """What the frozen month would be more or less by, as far as that is known now."""
    rows: Sequence[Json] = answer["rows"]
    parts: list[Component] = [html.H2("Adjustments since", className="pw-title")]
    if not rows:
        parts.append(html.Span("none: nothing has been learnt since", className="pw-note"))
        return html.Section(
            html.Div(parts, className="pw-card-head"), className="pw-card nd-card us-card"
        )
    path = f"/api/v1/adjustments?month={month}&each=true&format=csv"
    link = html.A("Adjustments as CSV", href=path, className="pw-button",
                  download=f"adjustments-{month}.csv")  # fmt: skip
    note = "not in the figures below: to be booked in the month in which each became known"
    parts += [html.Span(note, className="pw-note"), link]
    head = [
        html.Th(title, scope="col", className="pw-right" if at > 2 else "")
        for at, title in enumerate(_COLUMNS)
    ]
    body = [html.Tr(_cells(row)) for row in rows]
    table = html.Table(
        [html.Thead(html.Tr(head)), html.Tbody(body)], className="pw-table us-adjustments"
    )
    return html.Section(
        [
            html.Div(parts, className="pw-card-head"),
            html.Div(table, className="pw-table-box us-scroll"),
        ],
        className="pw-card nd-card us-card",
    )


def _cells(row: Json) -> list[Component]:
    figures = ("gpu_hours", "active_gpu_hours", "pflop_hours", "kwh")
    return [
        html.Th(row["tenant"] or row["owner_kind"], scope="row"),
        html.Td(row["model"] or NONE),
        html.Td(row["cause"]),
        *(html.Td(signed(row[name]), className="pw-right") for name in figures),
    ]


def signed(value: float) -> str:
    """A figure with its sign, also where that is a plus."""
    return ("+" if value > 0 else "") + number(value, 1)
