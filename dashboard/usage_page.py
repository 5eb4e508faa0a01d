"""The Usage page: a month's way from what is installed to what was delivered, and to whom.

A month has an address of its own, `/usage/2026-10`; without one it is the month
of the newest sample.  Charts and jobs come by callbacks of their own,
since they ask for more than the rest has to wait for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from dash import dcc, html
from dash.development.base_component import Component

from dashboard.api_client import ApiClient, ApiError
from dashboard.node_page import trouble
from dashboard.tags import attributes
from dashboard.usage_months import adjustments_card, freeze_card, frozen_words
from dashboard.usage_parts import bridge, jobs_card, tenants_table, tiles, waterfall

_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
_CHART_PX = 300
Json = Mapping[str, Any]


def month_before(month: str, back: int = 1) -> str:
    """`2026-01` → `2025-12`; a negative `back` goes forward."""
    year, number = (int(part) for part in month.split("-"))
    months = year * 12 + number - 1 - back
    return f"{months // 12:04d}-{months % 12 + 1:02d}"


def month_words(month: str) -> str:
    """`October 2026`."""
    return date.fromisoformat(f"{month}-01").strftime("%B %Y")


async def current_month(api: ApiClient) -> str:
    """The site's month of the newest sample; that of the reader's clock has no say.

    Raises ApiError.
    """
    layout = await api.get("/layout")
    live = await api.get("/live")
    moment = live.get("time")
    if moment is None:
        raise ApiError("There are no samples yet.")
    zone = ZoneInfo(layout["time_zone"])
    return f"{datetime.fromisoformat(str(moment)).astimezone(zone):%Y-%m}"


async def usage_page(api: ApiClient, month: str = "") -> Component:
    """The page of a month."""
    try:
        if month and not _MONTH.fullmatch(month):
            raise ApiError("A month is written like 2026-10.")
        now = await current_month(api)
        month = month or now
        body = await _body(api, month)
    except ApiError as error:
        return html.Div(trouble(str(error)), id="pw-usage", className="us")
    return html.Div(
        [_head(month, now), *body],
        id="pw-usage",
        className="us",
        **attributes(data_month=month, data_words=month_words(month)),
    )


async def _body(api: ApiClient, month: str) -> list[Component]:
    falls = await api.get("/usage/waterfall", month=month)
    rows: list[Json] = falls["rows"]
    if not rows:
        return [html.Div(trouble(f"The ledger has nothing of {month_words(month)}."))]
    tenants = await api.get("/usage/tenants", month=month)
    parts: list[Component] = [dcc.Store(id="us-month", data=month), _standing(falls)]
    if falls["frozen"]:
        parts.append(adjustments_card(await api.get("/adjustments", month=month), month))
    elif falls["final"]:
        parts.append(freeze_card(month_words(month)))
    for row in rows:
        parts += [tiles(row), html.Div([waterfall(row), bridge(row)], className="us-two")]
    return [
        *parts,
        html.Div([_chart("us-days", "By day"), _chart("us-hours", "By hour")], className="us-two"),
        tenants_table(tenants),
        html.Div(jobs_card("Loading …"), id="us-jobs"),
    ]


def _head(month: str, now: str) -> Component:
    recent = [month_before(now, back) for back in range(5, -1, -1)]
    links = [_month_link(one, current=one == month) for one in recent]
    before = dcc.Link("‹", href=f"/usage/{month_before(month)}", title="The month before",
                      className="pw-segment us-month")  # fmt: skip
    after = dcc.Link("›", href=f"/usage/{month_before(month, -1)}", title="The month after",
                     className="pw-segment us-month")  # fmt: skip
    return html.Div(
        [
            html.H1(f"Usage, {month_words(month)}", className="nd-title"),
            html.Nav(
                [before, *links, after], className="pw-segments", **attributes(aria_label="Month")
            ),
            html.A(
                "CSV to be signed off",
                href=f"/api/v1/usage/monthly.csv?month={month}",
                className="pw-button",
                download=f"usage-{month}.csv",
            ),
            html.A("Jobs as CSV", href=f"/api/v1/usage/efficiency?month={month}&limit=10000&format=csv",
                   className="pw-button", download=f"jobs-{month}.csv"),
        ],
        className="nd-head",
    )  # fmt: skip


def _month_link(month: str, *, current: bool) -> Component:
    words = date.fromisoformat(f"{month}-01").strftime("%b %Y")
    if current:
        return html.Span(words, className="pw-segment us-month", **attributes(aria_current="page"))
    return dcc.Link(words, href=f"/usage/{month}", className="pw-segment us-month")


def _standing(answer: Json) -> Component:
    """Whether it may be signed, and as of when; or who has frozen it."""
    zone = ZoneInfo(answer["time_zone"])
    as_of = answer["as_of"]
    when = (
        "–" if as_of is None else f"{datetime.fromisoformat(as_of).astimezone(zone):%d %b %Y %H:%M}"
    )
    word = "Final" if answer["final"] else "Provisional"
    rest = "every hour is final" if answer["final"] else f"the ledger reaches {when}"
    frozen = answer["frozen"]
    if frozen:
        word, rest = "Frozen", frozen_words(frozen, zone)
    return html.P(
        [
            html.Span(word, className="us-standing", **attributes(data_final=str(answer["final"]).lower())),
            f" {rest}; days are those of {answer['time_zone']}. Definition {answer['definition']}.",
        ],
        className="pw-note us-note",
    )  # fmt: skip


def _chart(name: str, title: str) -> Component:
    graph = dcc.Graph(
        id=name,
        className="nd-charts",
        # A chart that follows its card's size needs one: an empty card has no height.
        style={"height": f"{_CHART_PX}px"},
        config={"displayModeBar": False, "responsive": True},
        figure={"data": [], "layout": {"height": _CHART_PX, "paper_bgcolor": "rgba(0,0,0,0)"}},
    )
    return html.Section(
        [
            html.Div(
                [
                    html.H2(title, className="pw-title"),
                    html.Span("Loading …", id=f"{name}-said", className="pw-note", role="status"),
                ],
                className="pw-card-head",
            ),
            graph,
        ],
        className="pw-card nd-card",
    )
