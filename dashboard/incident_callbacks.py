"""What an incident's page does as time goes on."""

from __future__ import annotations

from typing import Any

from dash import Input, Output, State, no_update

from dashboard.api_client import ApiClient, ApiError
from dashboard.incident_chart import evidence
from dashboard.incident_page import below, head, side

Json = dict[str, Any]


def add_incident_callbacks(dash: Any, api: ApiClient) -> None:
    """Registers the callbacks on `dash`, asking `api`."""

    @dash.callback(
        Output("in-chart", "figure"),
        Output("in-of", "children"),
        Output("in-said", "children"),
        Output("in-graph", "hidden"),
        Input("in-incident", "data"),
    )
    async def draw(incident: Json) -> tuple[Any, ...]:  # pyright: ignore[reportUnusedFunction]
        try:
            figure, of = await evidence(api, incident)
        except ApiError as error:
            return no_update, "", str(error), True
        return figure, of, "", False

    @dash.callback(
        Output("in-head", "children"),
        Output("in-side", "children"),
        Output("in-below", "children"),
        Output("in-incident", "data"),
        Input("in-tick", "n_intervals"),
        State("in-incident", "data"),
        prevent_initial_call=True,
    )
    async def renew(_ticks: int | None, incident: Json) -> tuple[Any, ...]:  # pyright: ignore[reportUnusedFunction]
        try:
            found = await api.incident(incident["id"])
        except ApiError:
            # What is there stays, with its times.
            return no_update, no_update, no_update, no_update
        fresh = found["incident"]
        # The chart of one that is over has been drawn already.
        same = fresh["state"] == incident["state"] == "resolved"
        return head(fresh), side(found), below(found), no_update if same else fresh
