"""The Usage page's charts, which ask for a month by day and by hour."""

from __future__ import annotations

from typing import Any

from dash import Input, Output, no_update

from dashboard.api_client import ApiClient, ApiError
from dashboard.usage_figures import days_figure, hours_figure, main_origin


def add_usage_callbacks(dash: Any, api: ApiClient) -> None:
    """Registers the callbacks on `dash`, asking `api`."""

    @dash.callback(
        Output("us-days", "figure"), Output("us-days-said", "children"), Input("us-month", "data")
    )
    async def days(month: str) -> tuple[Any, str]:  # pyright: ignore[reportUnusedFunction]
        try:
            answer = await api.get("/usage/waterfall", month=month, resolution="day")
        except ApiError as error:
            return no_update, str(error)
        return days_figure(main_origin(answer["rows"])), "% of the installed nameplate"

    @dash.callback(
        Output("us-hours", "figure"),
        Output("us-hours-said", "children"),
        Input("us-month", "data"),
    )
    async def hours(month: str) -> tuple[Any, str]:  # pyright: ignore[reportUnusedFunction]
        try:
            answer = await api.get("/usage/waterfall", month=month, resolution="hour")
        except ApiError as error:
            return no_update, str(error)
        rows = main_origin(answer["rows"])
        return hours_figure(rows, answer["time_zone"]), "delivered, % of the nameplate"
