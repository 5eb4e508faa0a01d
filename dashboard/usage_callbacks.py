"""The Usage page's charts and jobs, which ask for more than its page waits for."""

from __future__ import annotations

from typing import Any

from dash import Input, Output, no_update

from dashboard.api_client import ApiClient, ApiError
from dashboard.usage_figures import days_figure, hours_figure, main_origin
from dashboard.usage_parts import jobs_card, jobs_table

_WASTED_JOBS = 15


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

    @dash.callback(Output("us-jobs", "children"), Input("us-month", "data"))
    async def jobs(month: str) -> Any:  # pyright: ignore[reportUnusedFunction]
        try:
            answer = await api.get(
                "/usage/efficiency", month=month, waste="true", sort="idle_gpu_hours",
                limit=str(_WASTED_JOBS),
            )  # fmt: skip
        except ApiError as error:
            return jobs_card(str(error))
        return jobs_table(answer)
