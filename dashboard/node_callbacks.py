"""What happens on the Node page when someone picks, zooms or waits.

Every callback is a coroutine: a plain function would run on the event loop
and hold up every viewer's frames while it waits for the API.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from dash import Input, Output, State, ctx, no_update
from dash.exceptions import PreventUpdate

from dashboard.api_client import ApiClient, ApiError
from dashboard.figures import metrics_of, node_figure, panels
from dashboard.node_page import RANGES, details_of, range_id
from dashboard.words import count

Json = dict[str, Any]


def add_node_callbacks(dash: Any, api: ApiClient) -> None:
    """Registers the callbacks on `dash`, asking `api`."""

    @dash.callback(
        Output("nd-window", "data"),
        *[Input(range_id(minutes), "n_clicks") for _, minutes in RANGES],
        Input("nd-charts", "relayoutData"),
        State("nd-window", "data"),
        prevent_initial_call=True,
    )
    async def pick_window(*given: Any) -> Json:  # pyright: ignore[reportUnusedFunction]
        relayout, window = given[-2:]
        trigger = _trigger()
        for _, minutes in RANGES:
            if trigger == range_id(minutes):
                return {"minutes": minutes, "zoom": None}
        return {**window, "zoom": zoomed(relayout or {})}

    @dash.callback(
        Output("nd-charts", "figure"),
        Output("nd-said", "children"),
        Output("nd-graph", "hidden"),
        Output("nd-status", "children"),
        Input("nd-window", "data"),
        Input("nd-tick", "n_intervals"),
        State("nd-node", "data"),
    )
    async def draw(window: Json, _ticks: int | None, node: Json) -> tuple[Any, ...]:  # pyright: ignore[reportUnusedFunction]
        if _trigger() == "nd-tick" and window["zoom"]:
            raise PreventUpdate
        try:
            return await _drawn(api, window, node)
        except ApiError as error:
            return no_update, str(error), True, ""

    _add_renewal(dash, api)


def _add_renewal(dash: Any, api: ApiClient) -> None:
    """The cards below the charts, anew at each tick."""

    @dash.callback(
        Output("nd-details", "children"),
        Input("nd-tick", "n_intervals"),
        State("nd-node", "data"),
        prevent_initial_call=True,
    )
    async def renew(_ticks: int | None, node: Json) -> Any:  # pyright: ignore[reportUnusedFunction]
        try:
            return await details_of(api, node["name"], await api.node(node["name"]))
        except ApiError:
            # What is there stays, with its times; the charts say what is wrong.
            return no_update


def _trigger() -> Any:
    context: Any = ctx  # has no types
    return context.triggered_id


def zoomed(relayout: Json) -> list[str] | None:
    """First and last moment after a zoom, None after its end.

    Raises PreventUpdate when the axis has not moved.
    """
    if relayout.get("xaxis.autorange"):
        return None
    start, end = relayout.get("xaxis.range[0]"), relayout.get("xaxis.range[1]")
    if start is None or end is None:
        raise PreventUpdate
    return [_moment(str(start)), _moment(str(end))]


def _moment(text: str) -> str:
    """ISO 8601 in UTC of what Plotly writes: `2026-11-24 05:50:12.1234`, rounded to ms."""
    moment = datetime.fromisoformat(text[:26].replace(" ", "T")).replace(tzinfo=UTC)
    return _iso(moment)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _window(api: ApiClient, window: Json) -> tuple[str, str]:
    """First and last moment: the newest sample ends a range, not the reader's clock."""
    if window["zoom"]:
        start, end = window["zoom"]
        return start, end
    newest = (await api.get("/live")).get("time")
    if newest is None:
        raise ApiError("There are no samples yet.")
    end = datetime.fromisoformat(str(newest))
    return _iso(end - timedelta(minutes=window["minutes"])), _iso(end + timedelta(milliseconds=1))


async def _drawn(api: ApiClient, window: Json, node: Json) -> tuple[Any, ...]:
    start, end = await _window(api, window)
    answer = await api.series(node["name"], metrics_of(panels()), start, end)
    if not any(series["time_us"] for series in answer["series"]):
        return no_update, "There are no samples of this node in this range.", True, ""
    figure = node_figure(answer, node["slots"], (start, end))
    most = max(len(series["time_us"]) for series in answer["series"])
    words = {"raw": "every sample", "minute": "by minute"}.get(answer["resolution"], "")
    return figure, "", False, f"{words}, {count(most, 'point')} per line"
