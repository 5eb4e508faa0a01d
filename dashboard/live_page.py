"""The skeleton of the Live page; `assets/live.js` fills it once a second.

No figure is rendered here: every viewer shows the same frame, so the server
sends bytes and the browser does the rest.
"""

from __future__ import annotations

from dash import dcc, html
from dash.development.base_component import Component

from dashboard.tags import attributes

MODES = (
    ("temperature", "Temperature"),
    ("utilization", "Utilisation"),
    ("power", "Power"),
    ("delivered", "Delivered"),
    ("tenant", "Tenant"),
)
"""What the map can show: key and title."""

STEPS = (
    ("nameplate", "Installed", ""),
    ("reporting", "Reporting", "down or not reporting"),
    ("allocated", "Allocated", "allocated to nobody"),
    ("active", "Active", "allocated but idle"),
    ("delivered", "Delivered", "lost while active"),
)
"""The capacity waterfall: key, title, and the name of the drop from the step before."""

TILES = (
    ("power", "GPU power"),
    ("active", "Active GPUs"),
    ("hottest", "Hottest GPU"),
    ("efficiency", "Efficiency"),
    ("attention", "Needs attention"),
)
"""The small tiles, all of one skeleton: key and title."""


def live_page() -> Component:
    """The whole page, in its starting state."""
    return html.Div(
        [
            html.H1("Live", className="pw-unseen"),
            html.Div([_hero(), *[_tile(key, title) for key, title in TILES]], className="lv-top"),
            html.Div([_map(), _charts()], className="lv-middle"),
            html.Div([_hottest(), _tenants(), _attention()], className="lv-bottom"),
        ],
        id="pw-live",
        className="lv",
        **attributes(data_state="starting"),
    )


def _card(title: str, note: Component | None, *body: Component, name: str) -> Component:
    head = html.Div(
        [html.H2(title, className="pw-title"), *([note] if note is not None else [])],
        className="pw-card-head",
    )
    return html.Section([head, *body], className=f"pw-card {name}")


def _text(identity: str, name: str = "") -> Component:
    return html.Span(id=identity, className=name)


def _hero() -> Component:
    figure = html.Div(
        [
            html.Div(
                [_text("lv-pflops", "lv-figure"), html.Span("PFLOPS", className="lv-unit")],
                className="lv-hero-value",
            ),
            html.Div(_text("lv-bounds"), className="lv-hero-line lv-strong"),
            html.Div(_text("lv-method"), className="lv-hero-line"),
            html.Div(_text("lv-coverage"), className="lv-hero-line"),
            html.Div(_text("lv-estimated"), className="lv-hero-line lv-more"),
            html.Div(_text("lv-change"), className="lv-hero-line lv-more"),
        ],
        className="lv-hero-figure",
    )
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Compute delivered", className="pw-title"),
                    html.Span("dense FP16, per second", id="lv-basis", className="pw-note"),
                ],
                className="pw-card-head",
            ),
            html.Div([figure, _waterfall()], className="lv-hero-body"),
        ],
        className="pw-card lv-hero",
    )


def _waterfall() -> Component:
    head = html.Tr(
        [
            html.Th("Capacity", scope="col"),
            html.Th(html.Span("Bar", className="pw-unseen"), scope="col", className="lv-wf-bar"),
            html.Th("PFLOPS", scope="col", className="pw-right"),
            html.Th("Share", scope="col", className="pw-right"),
            html.Th("Drop from the step above", scope="col", className="lv-wf-drop"),
        ]
    )
    rows = [_step(key, title) for key, title, _ in STEPS]
    return html.Table(
        [
            html.Caption(
                "Capacity waterfall: each step is part of the one above", className="pw-unseen"
            ),
            html.Thead(head),
            html.Tbody(rows),
        ],
        className="lv-waterfall",
        id="lv-waterfall",
    )


def _step(key: str, title: str) -> Component:
    bar = html.Div(
        [
            html.Span(className="lv-bar-drop", id=f"lv-{key}-gap"),
            html.Span(className=f"lv-bar lv-bar-{key}", id=f"lv-{key}-bar"),
            *(
                [html.Span(className="lv-bounds-mark", id="lv-bounds-mark", hidden=True)]
                if key == "delivered"
                else []
            ),
        ],
        className="lv-track",
    )
    return html.Tr(
        [
            html.Th(title, scope="row"),
            html.Td(bar, className="lv-wf-bar"),
            html.Td(_text(f"lv-{key}-value"), className="pw-right lv-strong"),
            html.Td(_text(f"lv-{key}-share"), className="pw-right"),
            html.Td(_text(f"lv-{key}-drop"), className="lv-wf-drop"),
        ],
        className=f"lv-step lv-step-{key}",
    )


def _tile(key: str, title: str) -> Component:
    return html.Section(
        [
            html.H2(title, className="pw-title"),
            html.Div(
                [_text(f"lv-{key}", "lv-tile-figure"), _text(f"lv-{key}-unit", "lv-unit")],
                className="lv-tile-value",
            ),
            html.Canvas(
                id=f"lv-{key}-spark", className="lv-spark", **attributes(aria_hidden="true")
            ),
            html.Div(_text(f"lv-{key}-note"), className="lv-tile-note"),
            html.Div(_text(f"lv-{key}-more"), className="lv-tile-note"),
        ],
        className=f"pw-card lv-tile lv-tile-{key}",
    )


def _map() -> Component:
    modes = html.Div(
        [
            html.Button(
                title,
                type="button",
                className="pw-segment",
                **attributes(
                    data_mode=key, aria_pressed="true" if key == "temperature" else "false"
                ),
            )
            for key, title in MODES
        ],
        id="lv-modes",
        className="pw-segments",
        role="group",
        **attributes(aria_label="What the map shows"),
    )
    note = html.Div([_text("lv-map-note", "pw-note"), modes], className="lv-map-controls")
    canvas = html.Div(
        [
            html.Canvas(
                id="lv-map",
                className="lv-map",
                tabIndex="0",
                role="application",
                **attributes(
                    aria_label="Map of every GPU by hall and rack. "
                    "Arrow keys move, Enter opens the node.",
                    aria_roledescription="map",
                ),
            ),
            html.Div(id="lv-tip", className="lv-tip", hidden=True),
        ],
        className="lv-map-box",
    )
    legend = html.Div(id="lv-legend", className="lv-legend")
    return _card("GPU map", note, canvas, legend, name="lv-map-card")


def _charts() -> Component:
    return html.Div(
        [
            _chart("delivered", "Compute delivered", "PFLOPS"),
            _chart("power", "GPU power", "kW"),
        ],
        className="lv-charts",
    )


def _chart(key: str, title: str, unit: str) -> Component:
    note = html.Span(
        [
            _text(f"lv-chart-{key}-span"),
            html.Span(" · "),
            html.Span(unit, id=f"lv-chart-{key}-unit"),
        ],
        className="pw-note",
    )
    canvas = html.Div(
        html.Canvas(
            id=f"lv-chart-{key}",
            className="lv-chart",
            role="img",
            **attributes(aria_label=f"{title} over the last 15 minutes"),
        ),
        className="lv-chart-box",
    )
    return _card(title, note, canvas, name="lv-chart-card")


def _table(identity: str, columns: tuple[tuple[str, str], ...], empty: str) -> Component:
    head = html.Tr([html.Th(title, scope="col", className=name) for title, name in columns])
    return html.Div(
        [
            html.Table([html.Thead(head), html.Tbody(id=identity)], className="pw-table"),
            html.P(empty, className="lv-empty", id=f"{identity}-empty", hidden=True),
        ],
        className="pw-table-box",
    )


def _hottest() -> Component:
    columns = (
        ("GPU", ""),
        ("Temperature", "pw-right"),
        ("Margin", "pw-right"),
        ("Power", "pw-right"),
        ("Util.", "pw-right"),
        ("Tenant", "lv-tenant"),
    )
    body = _table("lv-hottest-rows", columns, "No temperature has been reported.")
    return _card("Hottest GPUs", None, body, name="lv-table-card")


def _tenants() -> Component:
    columns = (
        ("Tenant", ""),
        ("PFLOPS now", "pw-right"),
        ("of theirs", "pw-right"),
        ("GPUs", "pw-right"),
        ("Active", "pw-right"),
        ("Power", "pw-right"),
    )
    body = _table("lv-tenant-rows", columns, "No GPU is allocated.")
    return _card("Top tenants by PFLOPS now", None, body, name="lv-table-card")


def _attention() -> Component:
    columns = (
        ("State", ""),
        ("Where", ""),
        ("Rack", ""),
        ("GPUs", "pw-right"),
        ("Tenant", "lv-tenant"),
    )
    body = _table("lv-attention-rows", columns, "Nothing is down, silent or throttled.")
    link = dcc.Link("All alerts", href="/alerts", className="pw-note pw-link")
    return _card("Needs attention", link, body, name="lv-table-card")
