"""One incident's page: what is thought to be wrong and why, whose work it hits, what was done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from dash import dcc, html
from dash.development.base_component import Component

from dashboard.api_client import ApiClient, ApiError
from dashboard.incident_story import moment_words, step, time_words, timeline
from dashboard.node_page import trouble
from dashboard.tags import attributes
from dashboard.words import NONE, count, number, with_unit

_REFRESH_MS = 5_000
SILENCES = (("1 h", 3_600), ("4 h", 14_400), ("24 h", 86_400))
_UNITS = {"c": "°C", "w": "W", "mhz": "MHz", "s": "s", "k": "K"}
Json = Mapping[str, Any]


async def incident_page(api: ApiClient, quoted: str) -> Component:
    """The page of an incident by id."""
    name = unquote(quoted)
    try:
        found = await api.incident(name)
    except ApiError as error:
        return html.Div(trouble(str(error)), className="al")
    incident = found["incident"]
    return html.Div(
        [
            dcc.Store(id="in-incident", data=incident),
            dcc.Interval(id="in-tick", interval=_REFRESH_MS),
            html.Div(head(incident), id="in-head"),
            html.Div(
                [
                    _evidence(),
                    html.Div([_doing(incident), html.Div(side(found), id="in-side")], className="al-side"),
                ],
                className="al-body",
            ),
            html.Div(below(found), id="in-below"),
        ],
        id="pw-incident",
        className="al",
        **attributes(data_incident=incident["id"]),
    )  # fmt: skip


def _evidence() -> Component:
    graph = dcc.Graph(
        id="in-chart",
        className="nd-charts",
        config={"displayModeBar": False, "responsive": True},
        figure={"data": [], "layout": {"height": 420, "paper_bgcolor": "rgba(0,0,0,0)"}},
    )
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Evidence", className="pw-title"),
                    html.Span(id="in-of", className="pw-note"),
                ],
                className="pw-card-head",
            ),
            html.P(id="in-said", className="nd-said", role="status"),
            html.Div(graph, id="in-graph"),
        ],
        className="pw-card nd-card",
    )


def mark(severity: str) -> Component:
    """A shape beside the word, since colour alone says nothing to some."""
    return html.Span(className="nd-mark", **attributes(data_severity=severity, aria_hidden="true"))


def head(incident: Json) -> list[Component]:
    """Title and the facts in one line."""
    state = "resolved" if incident["state"] == "resolved" else incident["severity"]
    taken = incident.get("acknowledged")
    facts = [
        f"since {time_words(incident['opened'])}",
        f"until {time_words(incident['resolved'])}" if incident["resolved"] else "open",
        _hits(incident),
        f"taken on by {taken['actor']}" if taken else "nobody has taken it on",
    ]
    if incident.get("silenced"):
        facts.append("silenced")
    return [
        html.Div(
            [
                html.H1([mark(state), incident["title"]], className="nd-title"),
                html.Div([html.Span(fact) for fact in facts], className="nd-facts"),
            ],
            className="nd-head",
        ),
        html.P(incident.get("text") or "", className="al-text"),
    ]


def _hits(incident: Json) -> str:
    pflops = incident.get("pflops")
    stake = "" if pflops is None else f", {number(pflops, 1)} PFLOP/s of nameplate"
    return f"{count(incident.get('gpus') or 0, 'GPU')}{stake}"


def _doing(incident: Json) -> Component:
    """What may be done; `assets/alerts.js` does it."""
    silences = [
        html.Button(
            f"Silence {words}", type="button", className="pw-button",
            **attributes(data_act="silence", data_seconds=str(seconds)),
        )
        for words, seconds in SILENCES
    ]  # fmt: skip
    buttons = [
        html.Button("Take it on", type="button", className="pw-button al-first",
                    **attributes(data_act="acknowledge")),
        html.Button("Let it go", type="button", className="pw-button",
                    **attributes(data_act="let-go")),
        *silences,
    ]  # fmt: skip
    words = dcc.Textarea(
        id="in-words", className="al-words", maxLength=2000,
        placeholder="A comment, or why it is silenced",
    )  # fmt: skip
    return html.Section(
        [
            html.Div(html.H2("Do", className="pw-title"), className="pw-card-head"),
            html.P((incident.get("action") or "").replace("`", ""), className="al-action"),
            html.Div(buttons, className="al-buttons"),
            html.Label([html.Span("Comment", className="pw-unseen"), words]),
            html.Button("Comment", type="button", className="pw-button",
                        **attributes(data_act="comment")),
            html.P(id="in-act-said", className="pw-note", role="status"),
        ],
        className="pw-card nd-card",
    )  # fmt: skip


def side(found: Json) -> list[Component]:
    """Cause, whom it hits, and the figures that speak for it."""
    incident = found["incident"]
    figures: Mapping[str, float] = lead(found).get("evidence") or {}
    sure = incident.get("confidence")
    cause = str(incident["cause"]).replace("_", " ")
    # What the driver or a level says is no guess.
    thought = [("Thought to be", cause), ("Confidence", with_unit(100 * sure, "%"))] if sure else []
    rows = [
        *(thought or [("Rule", cause)]),
        ("Place", _place(incident["subject"])),
        ("Tenants", ", ".join(incident["tenants"]) or NONE),
        ("Jobs", ", ".join(incident["jobs"]) or NONE),
        ("Concerns", incident.get("concerns", "operator")),
        *(evidence_row(name, value) for name, value in figures.items()),
    ]
    link = _runbook(incident.get("runbook"))
    return [
        html.Section(
            [
                html.Div(
                    [html.H2("What is known", className="pw-title"), *link],
                    className="pw-card-head",
                ),
                html.Dl(
                    [html.Div([html.Dt(name), html.Dd(value)]) for name, value in rows],
                    className="nd-facts-list",
                ),
            ],
            className="pw-card nd-card",
        )
    ]


def _runbook(name: str | None) -> list[Component]:
    if not name:
        return []
    address = f"/runbooks/{quote(name)}"
    return [dcc.Link("Open the runbook", href=address, className="pw-note pw-link")]


def evidence_row(name: str, value: float) -> tuple[str, str]:
    """A named figure as people read it: a metric by its name, others by the unit at their end."""
    if name == "code":
        return "Code", number(value, 0)
    if name == "gpu_utilization":
        return "GPU utilisation", with_unit(100 * value, "%")
    words, _, unit = name.rpartition("_")
    unit = _UNITS.get(unit, "")
    text = (words if unit else name).replace("_", " ").replace("gpu ", "GPU ")
    text = text.replace("sm clock", "SM clock")
    shown = with_unit(value, unit, 1) if unit else number(value, 2)
    return text[:1].upper() + text[1:], shown


def _place(subject: Json) -> str:
    parts = [subject.get(key) for key in ("hall", "rack", "node", "slot")]
    return " / ".join(part for part in parts if part) or str(subject.get("name", ""))


def lead(found: Json) -> Json:
    """The alert whose evidence is shown: the last that says the incident's own cause, as what
    follows from it (a GPU that throttles) is no evidence of it; else the last with any."""
    alerts: Sequence[Json] = found["alerts"]
    with_evidence = [one for one in alerts if one.get("evidence")]
    cause = found["incident"]["cause"]
    of_cause = [one for one in with_evidence if (one.get("cause") or one["rule"]) == cause]
    chosen = of_cause[-1:] or with_evidence[-1:] or alerts[:1]
    return chosen[0] if chosen else {}


def below(found: Json) -> list[Component]:
    """Members, and everything that happened in order of time."""
    steps = html.Ol([step(*one) for one in timeline(found)], className="al-items")
    story = html.Section(
        [
            html.Div(html.H2("What happened", className="pw-title"), className="pw-card-head"),
            steps,
        ],
        className="pw-card nd-card",
    )
    return [html.Div([_members(found["incident"]), story], className="al-halves")]


def _members(incident: Json) -> Component:
    members: Sequence[Json] = incident.get("members") or []
    many = incident.get("member_count") or len(members)
    shown = "" if many <= len(members) else f"the gravest {len(members)} of {number(many)}"
    columns = [html.Th(name, scope="col") for name in ("Alert", "Where", "Since", "Until")]
    rows = [
        html.Tr(
            [
                html.Th(
                    [mark(one["severity"]), one.get("title") or one["rule"].replace("_", " ")],
                    scope="row",
                ),
                html.Td(_member_place(one["subject"])),
                html.Td(moment_words(one["since_us"])),
                html.Td(moment_words(one.get("resolved_us"))),
            ]
        )
        for one in members
    ]
    table = html.Table([html.Thead(html.Tr(columns)), html.Tbody(rows)], className="pw-table")
    title = html.H2(f"Alerts ({number(many)})", className="pw-title")
    return html.Section(
        [
            html.Div([title, html.Span(shown, className="pw-note")], className="pw-card-head"),
            html.Div(table, className="pw-table-box al-scroll"),
        ],
        className="pw-card nd-card",
    )


def _member_place(subject: Json) -> Any:
    node = subject.get("node")
    return (
        dcc.Link(subject["name"], href=f"/nodes/{quote(node)}", className="pw-link")
        if node
        else subject["name"]
    )


async def runbook_page(api: ApiClient, quoted: str) -> Component:
    """A runbook's text."""
    try:
        found = await api.get(f"/runbooks/{quote(unquote(quoted), safe='')}")
    except ApiError as error:
        return html.Div(trouble(str(error)), className="al")
    text = dcc.Markdown(found["text"], className="al-runbook", link_target="_self")
    return html.Div(html.Article(text, className="pw-card al-article"), className="al")
