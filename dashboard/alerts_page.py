"""The Alerts page: what is open, how grave, whose work it hits, and what to do about it.

A skeleton that `assets/alerts.js` fills every two seconds; an incident's own
page is in `incident_page`.
"""

from __future__ import annotations

from dash import dcc, html
from dash.development.base_component import Component

from dashboard.tags import attributes

STATES = (("Open", "open"), ("Resolved", "resolved"), ("All", "all"))
TILES = (
    ("critical", "Critical", "incidents open"),
    ("warning", "Warning", "incidents open"),
    ("gpus", "GPUs hit", "by what is open"),
    ("pflops", "At stake", "PFLOP/s of nameplate"),
    ("untaken", "Not taken on", "nobody has acknowledged"),
)
_COLUMNS = ("Severity", "What", "Where", "Now", "Open for", "Hits", "Tenants", "State", "")


def alerts_page() -> Component:
    """The page, empty."""
    return html.Div(
        [
            _head(),
            html.Div([_tile(*tile) for tile in TILES], className="al-tiles"),
            html.Div([_table(), _side()], className="al-body"),
        ],
        id="pw-alerts",
        className="al",
    )


def _head() -> Component:
    search = dcc.Input(
        id="al-search",
        type="search",
        className="nd-filter",
        placeholder="Search by place, tenant, job, rule or cause",
        debounce=False,
    )
    buttons = [
        html.Button(
            words, type="button", className="pw-segment",
            **attributes(data_state=state, aria_pressed=str(state == "open").lower()),
        )
        for words, state in STATES
    ]  # fmt: skip
    return html.Div(
        [
            html.H1("Alerts", className="nd-title"),
            html.Div(
                buttons,
                id="al-states",
                className="pw-segments",
                role="group",
                **attributes(aria_label="Which incidents"),
            ),
            html.Label([html.Span("Search the incidents", className="pw-unseen"), search]),
            html.Span("Loading …", id="al-said", className="pw-note nd-status", role="status"),
        ],
        className="nd-head",
    )


def _tile(key: str, title: str, note: str) -> Component:
    return html.Section(
        [
            html.H2(title, className="pw-title"),
            html.P("–", id=f"al-{key}", className="al-figure"),
            html.P(note, className="pw-note"),
        ],
        className="pw-card al-tile",
        **attributes(data_key=key),
    )


def _table() -> Component:
    right = {"Open for", "Hits"}
    head = [
        html.Th(
            title or html.Span("Do", className="pw-unseen"),
            scope="col",
            className="pw-right" if title in right else "",
        )
        for title in _COLUMNS
    ]
    table = html.Table(
        [html.Thead(html.Tr(head)), html.Tbody(id="al-list")], className="pw-table al-table"
    )
    more = html.Button("Show more", id="al-more", type="button", className="pw-button", hidden=True)
    return html.Section(
        [
            html.Div(html.H2("Incidents", className="pw-title"), className="pw-card-head"),
            html.Div(table, className="pw-table-box"),
            html.P(id="al-none", className="nd-said", hidden=True),
            more,
        ],
        className="pw-card nd-card",
    )


def _side() -> Component:
    return html.Div(
        [
            html.Section(
                [
                    html.Div(html.H2("Silences", className="pw-title"), className="pw-card-head"),
                    html.Ul(id="al-silences", className="al-items"),
                    html.P("Messages are held back; pages show everything.", className="pw-note"),
                ],
                className="pw-card nd-card",
            ),
            html.Section(
                [
                    html.Div(
                        html.H2("For information", className="pw-title"), className="pw-card-head"
                    ),
                    html.Ul(id="al-information", className="al-items"),
                ],
                className="pw-card nd-card",
            ),
            html.Section(
                [
                    html.Div(html.H2("Messages", className="pw-title"), className="pw-card-head"),
                    html.Button("Send a test", id="al-test", type="button", className="pw-button"),
                    html.P(id="al-test-said", className="pw-note", role="status"),
                ],
                className="pw-card nd-card",
            ),
        ],
        className="al-side",
    )
