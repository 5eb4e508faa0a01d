"""The Usage page's pure parts: months, charts by the site's clock, origins apart."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dashboard.usage_figures import days_figure, hours_figure, main_origin
from dashboard.usage_page import month_before, month_words
from dashboard.usage_parts import jobs_table, share


@pytest.mark.parametrize(
    ("month", "back", "other"),
    [("2026-01", 1, "2025-12"), ("2026-12", -1, "2027-01"), ("2026-10", 13, "2025-09")],
)
def test_months_go_over_the_year(month: str, back: int, other: str) -> None:
    assert month_before(month, back) == other


def test_a_month_in_words() -> None:
    assert month_words("2026-10") == "October 2026"


def test_a_share_of_nothing_is_a_dash() -> None:
    assert (share(None), share(0.0), share(0.256)) == ("–", "0.0\u2009%", "25.6\u2009%")


def row(delivered: float | None, origin: str = "measured", gpu_us: int = 1, **when: Any) -> Any:
    names = ("installed", "reporting", "allocated", "active", "delivered")
    steps = [{"name": name, "share": delivered, "gpu_us": gpu_us} for name in names]
    return {**when, "origin": origin, "steps": steps}


def test_days_have_a_line_per_step_and_gaps_where_nothing_is() -> None:
    figure = days_figure([row(0.5, day="2026-10-01"), row(None, day="2026-10-02")])
    assert [one["name"] for one in figure["data"]] == ["Allocated", "Active", "Delivered"]
    assert figure["data"][2]["y"] == [50.0, None]


def test_each_of_a_few_days_is_named_once() -> None:
    days = [row(0.5, day=f"2026-10-{day:02}") for day in range(1, 32)]
    few, many = (days_figure(days[:count])["layout"]["xaxis"] for count in (3, 31))
    assert few["dtick"] == 24 * 3600 * 1000
    assert "dtick" not in many


def _us(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def test_hours_stand_at_the_sites_clock() -> None:
    rows = [row(0.25, hour_us=_us("2026-10-31T15:00")), row(0.5, hour_us=_us("2026-10-31T16:00"))]
    (heat,) = hours_figure(rows, "Asia/Hong_Kong")["data"]
    assert heat["x"] == ["2026-10-31", "2026-11-01"]
    assert heat["z"][23] == [25.0, None]
    assert heat["z"][0] == [None, 50.0]
    assert heat["z"][12] == [None, None]


def test_where_the_clock_goes_back_the_later_hour_stands() -> None:
    rows = [row(0.1, hour_us=_us("2026-10-25T00:00")), row(0.2, hour_us=_us("2026-10-25T01:00"))]
    (heat,) = hours_figure(rows, "Europe/Berlin")["data"]
    assert heat["z"][2] == [20.0]


def test_only_the_main_origin_is_drawn() -> None:
    rows = [row(0.1, "measured", 5), row(0.2, "simulated", 3), row(0.3, "simulated", 3)]
    assert [one["origin"] for one in main_origin(rows)] == ["simulated", "simulated"]
    assert main_origin([]) == []


def test_a_month_without_idle_jobs_says_which_none_there_are() -> None:
    shown = str(jobs_table({"rows": [], "total": 0, "time_zone": "Europe/Berlin"}))
    assert "No job of an hour or more left its GPUs idle" in shown
