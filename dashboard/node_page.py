"""The Node page: which node, its GPUs' series on one time axis, and who is on it.

`assets/node.js` links the cursor of the charts with the table of values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from dash import dcc, html
from dash.development.base_component import Component

from dashboard.api_client import ApiClient, ApiError
from dashboard.figures import COLOURS, Panel, panels
from dashboard.node_details import EVENTS_SHOWN, details
from dashboard.tags import attributes
from dashboard.words import NONE, THIN, bytes_text, count, number, percent, with_unit

RANGES = (("15 min", 15), ("1 h", 60), ("6 h", 360), ("24 h", 1_440))
"""Words and minutes of the ranges to choose from."""
_REFRESH_MS = 15_000
Json = Mapping[str, Any]


def trouble(sentence: str) -> Component:
    """A page or a part of one that cannot be shown, and why."""
    return html.Div(
        html.P(sentence, className="nd-trouble", role="alert"), className="pw-card nd-card"
    )


def node_list_page() -> Component:
    """The skeleton of the list; `assets/nodes.js` fills it, since Dash takes seconds for 400 rows."""
    entry = dcc.Input(
        id="nd-filter",
        type="search",
        className="nd-filter",
        placeholder="Filter by node, rack, hall or model",
    )
    columns = (
        "Node",
        "Hall",
        "Rack",
        "Model",
        "GPUs",
        "Reporting",
        "Active",
        "Throttled",
        "Down",
        "Hottest",
    )
    head = [html.Th(title, scope="col", className=_side(at)) for at, title in enumerate(columns)]
    table = html.Table([html.Thead(html.Tr(head)), html.Tbody(id="nd-list")], className="pw-table")
    return html.Div(
        [
            html.Div(
                [
                    html.H1("Nodes", className="nd-title"),
                    html.Label([html.Span("Filter the nodes", className="pw-unseen"), entry]),
                    html.Span(
                        "Loading the nodes …", id="nd-list-said", className="pw-note", role="status"
                    ),
                ],
                className="nd-head",
            ),
            html.Div(html.Div(table, className="pw-table-box"), className="pw-card nd-card"),
        ],
        id="pw-nodes",
        className="nd",
    )


def _side(at: int) -> str:
    return "pw-right" if at >= 4 else ""


async def node_page(api: ApiClient, quoted: str) -> Component:
    """One node's page, its charts still empty: they come by their own callback."""
    name = unquote(quoted)
    try:
        node = await api.node(name)
    except ApiError as error:
        return html.Div(trouble(str(error)), id="pw-node", className="nd")
    below = await details_of(api, name, node)
    slots = [str(gpu["slot"]) for gpu in node["gpus"]]
    parts = [
        dcc.Store(id="nd-node", data={"name": name, "slots": slots}),
        dcc.Store(id="nd-window", data={"minutes": RANGES[0][1], "zoom": None}),
        dcc.Interval(id="nd-tick", interval=_REFRESH_MS),
        _head(name, node),
        html.Div([_charts(), _side_panel(node)], className="nd-body"),
        html.Div(below, id="nd-details", className="nd-details"),
    ]
    return html.Div(parts, id="pw-node", className="nd")


async def details_of(api: ApiClient, name: str, node: Json) -> list[Component]:
    """The cards below the charts; without events they say why."""
    try:
        return details(node, await api.events(name, EVENTS_SHOWN))
    except ApiError as error:
        return details(node, str(error))


def range_id(minutes: int) -> str:
    """The id of the button that chooses a range."""
    return f"nd-range-{minutes}"


def _range_buttons() -> Component:
    buttons = [
        html.Button(
            words,
            id=range_id(minutes),
            type="button",
            className="pw-segment nd-range",
            **attributes(aria_pressed=str(minutes == RANGES[0][1]).lower()),
        )
        for words, minutes in RANGES
    ]
    return html.Div(
        buttons, className="pw-segments", role="group", **attributes(aria_label="Range")
    )


def _head(name: str, node: Json) -> Component:
    facts = [
        f"{count(len(node['gpus']), 'GPU')} · {node['model']}",
        f"{node.get('hall') or NONE} · rack {node.get('rack') or NONE}",
        " · ".join(node.get("tenants") or ["unallocated"]),
    ]
    return html.Div(
        [
            html.H1(name, className="nd-title"),
            html.Div(id="nd-picker", className="nd-picker"),
            html.Div([html.Span(fact) for fact in facts], className="nd-facts"),
            html.Span(id="nd-status", className="pw-note nd-status"),
            _range_buttons(),
        ],
        className="nd-head",
    )


def _charts() -> Component:
    graph = dcc.Graph(
        id="nd-charts",
        className="nd-charts",
        config={"displayModeBar": False, "doubleClick": "autosize", "responsive": True},
        figure={"data": [], "layout": {"height": 860, "paper_bgcolor": "rgba(0,0,0,0)"}},
    )
    hint = "Drag to zoom, double-click to go back."
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Series of every GPU, one time axis (UTC)", className="pw-title"),
                    html.Span(hint, className="pw-note"),
                ],
                className="pw-card-head",
            ),
            html.P("Loading the series …", id="nd-said", className="nd-said", role="status"),
            html.Div(graph, id="nd-graph", className="nd-graph"),
        ],
        className="pw-card nd-card",
    )


def _side_panel(node: Json) -> Component:
    return html.Div(
        [
            html.Section(
                [
                    html.Div(
                        [
                            html.H2("Values", className="pw-title"),
                            html.Span("latest", id="nd-moment", className="pw-note"),
                        ],
                        className="pw-card-head",
                    ),
                    html.Div(values_table(node["gpus"]), id="nd-values", className="pw-table-box"),
                    html.P("Choose a GPU to see it alone.", className="pw-note nd-hint"),
                ],
                className="pw-card nd-card",
            ),
            html.Section(
                [
                    html.Div(html.H2("GPUs", className="pw-title"), className="pw-card-head"),
                    html.Div(_gpu_table(node["gpus"]), className="pw-table-box"),
                ],
                className="pw-card nd-card",
            ),
        ],
        className="nd-side",
    )


def values_table(gpus: Sequence[Json]) -> Component:
    """The legend: one row per GPU in its colour, a cell per panel with the newest value."""
    shown = panels()
    head = [html.Th("GPU", scope="col")] + [
        html.Th(
            [panel.title, html.Span(panel.unit, className="nd-unit")],
            scope="col",
            className="pw-right",
        )
        for panel in shown
    ]
    rows = [_values_row(place, gpu, shown) for place, gpu in enumerate(gpus)]
    return html.Table([html.Thead(html.Tr(head)), html.Tbody(rows)], className="pw-table nd-values")


def _values_row(place: int, gpu: Json, shown: Sequence[Panel]) -> Component:
    swatch = html.Span(className="nd-swatch", style={"background": COLOURS[place % len(COLOURS)]})
    button = html.Button(
        [swatch, str(place)],
        type="button",
        className="nd-gpu",
        **attributes(data_gpu=str(place), aria_pressed="false"),
    )
    cells = [
        html.Td(_latest(gpu, panel), className="pw-right", **attributes(data_panel=panel.key))
        for panel in shown
    ]
    return html.Tr([html.Th(button, scope="row"), *cells], **attributes(data_gpu=str(place)))


def _latest(gpu: Json, panel: Panel) -> str:
    """The newest value of a gauge; rates are read from the charts."""
    value = gpu.get("values", {}).get(panel.metrics[0])
    if value is None or len(panel.metrics) > 1 or panel.key == "delivered":
        return NONE
    return number(value * panel.scale, panel.decimals)


def _gpu_table(gpus: Sequence[Json]) -> Component:
    columns = ("GPU", "Slot", "Tenant", "Occupant", "Margin", "Memory", "Age")
    rows = [html.Tr(_gpu_cells(place, gpu)) for place, gpu in enumerate(gpus)]
    head = html.Tr(
        [html.Th(title, scope="col", className=_side(at)) for at, title in enumerate(columns)]
    )
    return html.Table([html.Thead(head), html.Tbody(rows)], className="pw-table")


def _gpu_cells(place: int, gpu: Json) -> list[Component]:
    values: Json = gpu.get("values", {})
    used, total = values.get("memory_used_bytes"), values.get("memory_total_bytes")
    memory = NONE if used is None else f"{bytes_text(used)} ({percent(used, total)})"
    age = gpu.get("age_s")
    where = "down" if gpu.get("down") else with_unit(age, "s", 1)
    return [
        html.Th(str(place), scope="row"),
        html.Td(gpu["slot"], title=gpu.get("uuid") or ""),
        html.Td(gpu.get("tenant") or "unallocated"),
        html.Td(gpu.get("occupant") or NONE),
        html.Td(with_unit(values.get("thermal_margin_c"), "K"), className="pw-right"),
        html.Td(memory.replace(" ", THIN), className="pw-right"),
        html.Td(where, className="pw-right"),
    ]
