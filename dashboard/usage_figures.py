"""Charts of the Usage page as pure functions of the API's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

Json = Mapping[str, Any]
_FONT = {"family": "Inter, system-ui, sans-serif", "size": 11}
_LINES = (
    ("allocated", "Allocated", "#8fa3ba"),
    ("active", "Active", "#3f8fd9"),
    ("delivered", "Delivered", "#1d9a6c"),
)
_DAY_MS, _FEW_DAYS = 86_400_000, 10
_HEAT = [[0.0, "#16222f"], [0.25, "#1f4b73"], [0.5, "#2f7fb8"], [0.75, "#4cb8ff"], [1.0, "#d5efff"]]


def _share(row: Json, name: str) -> float | None:
    found = next(step for step in row["steps"] if step["name"] == name)
    return None if found["share"] is None else round(100 * found["share"], 2)


def _layout(height: int, **more: Any) -> dict[str, Any]:
    return {
        "height": height, "margin": {"l": 44, "r": 12, "t": 8, "b": 34}, "font": _FONT,
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", **more,
    }  # fmt: skip


def _day_axis(days: Sequence[str]) -> dict[str, Any]:
    # Of a few days Plotly would name each several times.
    every = {"dtick": _DAY_MS} if len(days) <= _FEW_DAYS else {}
    return {"type": "date", "showgrid": False, "tickformat": "%-d %b", **every}


def days_figure(rows: Sequence[Json]) -> dict[str, Any]:
    """Per day allocated, active and delivered, % of the installed nameplate; one origin's rows."""
    days = [row["day"] for row in rows]
    data = [
        {
            "type": "scatter", "mode": "lines+markers", "name": title, "x": days,
            "y": [_share(row, name) for row in rows],
            "line": {"color": colour, "width": 2}, "marker": {"size": 5},
            "hovertemplate": f"{title} %{{y:.1f}} %<extra></extra>",
        }
        for name, title, colour in _LINES
    ]  # fmt: skip
    layout = _layout(
        300,
        hovermode="x unified",
        legend={"orientation": "h", "y": 1.12, "x": 0},
        xaxis=_day_axis(days),
        yaxis={"range": [0, 100], "ticksuffix": " %", "nticks": 5, "zeroline": False},
    )
    layout["margin"]["t"] = 26
    return {"data": data, "layout": layout}


def hours_figure(rows: Sequence[Json], time_zone: str) -> dict[str, Any]:
    """Delivered share of the nameplate by day and hour of the site's clock; absent is empty.

    Where a clock goes back, the later of the two hours stands.
    """
    zone = ZoneInfo(time_zone)
    cells: dict[tuple[str, int], float | None] = {}
    for row in rows:
        moment = datetime.fromtimestamp(row["hour_us"] / 1e6, UTC).astimezone(zone)
        cells[f"{moment:%Y-%m-%d}", moment.hour] = _share(row, "delivered")
    days = sorted({day for day, _ in cells})
    values = [[cells.get((day, hour)) for day in days] for hour in range(24)]
    return {
        "data": [
            {
                "type": "heatmap", "x": days, "y": list(range(24)), "z": values, "xgap": 1,
                "ygap": 1, "colorscale": _HEAT,
                "colorbar": {"ticksuffix": " %", "thickness": 10, "outlinewidth": 0, "nticks": 5},
                "hovertemplate": "%{x|%-d %b} %{y}:00, delivered %{z:.1f} %<extra></extra>",
            }
        ],
        "layout": _layout(
            300,
            xaxis=_day_axis(days),
            yaxis={"autorange": "reversed", "showgrid": False, "dtick": 6, "ticksuffix": ":00", "zeroline": False},
        ),
    }  # fmt: skip


def main_origin(rows: Sequence[Json]) -> list[Json]:
    """The rows of the origin with most GPU-time: origins are never drawn as one."""
    totals: dict[str, int] = {}
    for row in rows:
        totals[row["origin"]] = totals.get(row["origin"], 0) + row["steps"][0]["gpu_us"]
    if not totals:
        return []
    chosen = max(sorted(totals), key=lambda origin: totals[origin])
    return [row for row in rows if row["origin"] == chosen]
