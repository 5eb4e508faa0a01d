"""The chart of an incident as a pure function of the API's JSON.

Beside the measured temperature stands what it would be had nothing changed: a
straight line in the power, smoothed over `LAG_S`, fitted to the samples before
the alert began.  It is drawn from these samples alone, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboard.figures import Floats, columns, points

Json = Mapping[str, Any]
LAG_S = 15.0
_FEWEST = 15
"""Samples before the alert without which nothing is expected."""
MARGIN = "thermal_margin_c"
"""Told by Hopper and later, and by few before."""
_PANELS = (
    ("gpu_temperature_c", "Temperature", "°C"),
    (MARGIN, "Margin to the limit", "K"),
    ("power_w", "Power", "W"),
    ("gpu_utilization", "Utilisation", "%"),
)
METRICS = tuple(name for name, _, _ in _PANELS)
_PANEL_PX = 132
_MARGIN = {"l": 56, "r": 14, "t": 8, "b": 30}


def smoothed(times_us: NDArray[np.int64], power_w: Floats) -> Floats:
    """Power through a lag of LAG_S; a gap in it keeps the last value."""
    result = np.empty(len(power_w))
    held = np.nan
    for index in range(len(power_w)):
        value = float(power_w[index])
        if np.isnan(held) or np.isnan(value):
            held = value if np.isnan(held) else held
        else:
            step_s = float(times_us[index] - times_us[index - 1]) / 1e6
            held += (value - held) * (1.0 - float(np.exp(-step_s / LAG_S)))
        result[index] = held
    return result


def expected(
    times_us: NDArray[np.int64], temperature_c: Floats, power_w: Floats, since_us: int
) -> Floats | None:
    """What the temperature would be, °C; None where too little is known from before."""
    lagged = smoothed(times_us, power_w)
    known = (times_us < since_us) & ~np.isnan(lagged) & ~np.isnan(temperature_c)
    if int(known.sum()) < _FEWEST:
        return None
    x, y = lagged[known], temperature_c[known]
    spread = float(np.var(x))
    # With hardly any change of power its slope cannot be told; then it is level.
    slope = float(np.cov(x, y, bias=True)[0, 1]) / spread if spread > 25.0 else 0.0
    slope = min(max(slope, 0.0), 0.2)
    return float(np.mean(y)) + slope * (lagged - float(np.mean(x)))


def evidence_figure(
    answer: Json, slot: str, since_us: int, ended_us: int | None, window: tuple[str, str]
) -> dict[str, Any]:
    """Temperature with what was expected, margin, power and utilisation of one GPU.

    `answer` is that of `/api/v1/series`; `window` the axis' first and last moment.
    """
    found = {one["metric"]: columns(one) for one in answer["series"] if one["slot"] == slot}
    shown = [panel for panel in _PANELS if panel[0] in found and len(found[panel[0]][0])]
    traces: list[dict[str, Any]] = []
    for number, (metric, title, _) in enumerate(shown):
        times, values = found[metric]
        scale = 100.0 if metric == "gpu_utilization" else 1.0
        if metric == "gpu_temperature_c":
            traces += _expected_trace(found, since_us, number)
        traces.append(
            _line(title, number, times, values * scale, "#e0574f" if not number else "#3f8fd9")
        )
    return {"data": traces, "layout": _layout(shown, since_us, ended_us, window)}


def _expected_trace(
    found: Mapping[str, tuple[NDArray[np.int64], Floats]], since_us: int, number: int
) -> list[dict[str, Any]]:
    if "power_w" not in found:
        return []
    times, temperature = found["gpu_temperature_c"]
    at, power = found["power_w"]
    aligned = np.full(len(times), np.nan)
    places = np.searchsorted(at, times)
    same = (places < len(at)) & (at[np.minimum(places, len(at) - 1)] == times)
    aligned[same] = power[places[same]]
    line = expected(times, temperature, aligned, since_us)
    if line is None:
        return []
    trace = _line("Expected from power", number, times, line, "#1d9a6c")
    trace["line"]["dash"] = "dash"
    return [trace]


def _line(
    name: str, number: int, times: NDArray[np.int64], values: Floats, colour: str
) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "name": name, "xaxis": "x",
        "yaxis": "y" if number == 0 else f"y{number + 1}",
        "line": {"color": colour, "width": 1.5},
        "hovertemplate": f"%{{x|%H:%M:%S}} {name}: %{{y:.1f}}<extra></extra>",
        **points(times, values),
    }  # fmt: skip


def _layout(
    shown: Sequence[tuple[str, str, str]], since_us: int, ended_us: int | None,
    window: tuple[str, str],
) -> dict[str, Any]:  # fmt: skip
    count = max(1, len(shown))
    layout: dict[str, Any] = {
        "height": count * _PANEL_PX + _MARGIN["t"] + _MARGIN["b"],
        "margin": _MARGIN,
        "showlegend": False,
        "hovermode": "x unified",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "Inter, system-ui, sans-serif", "size": 11},
        "uirevision": "|".join(window[:1]),
        "xaxis": {
            "type": "date", "range": list(window), "showgrid": True, "zeroline": False,
            "anchor": "y" if count == 1 else f"y{count}", "nticks": 10, "tickformat": "%H:%M",
        },
        "shapes": [_moment(since_us)] + ([] if ended_us is None else [_moment(ended_us)]),
        "annotations": [],
    }  # fmt: skip
    step = 1 / (count - 0.16)
    for number, (metric, title, unit) in enumerate(shown):
        top = 1 - number * step
        bottom = max(0.0, top - 0.84 * step)
        key = "yaxis" if number == 0 else f"yaxis{number + 1}"
        layout[key] = {
            "domain": [bottom, top - 0.2 * step], "fixedrange": True, "nticks": 4,
            "zeroline": False, "anchor": "x",
        }  # fmt: skip
        dashed = ", dashed: expected from power" if metric == "gpu_temperature_c" else ""
        layout["annotations"].append(
            {
                "text": f"<b>{title}</b>  {unit}{dashed}", "x": 0, "xref": "paper",
                "xanchor": "left", "y": top, "yref": "paper", "yanchor": "top",
                "showarrow": False, "font": {"size": 12},
            }
        )  # fmt: skip
    return layout


def _moment(time_us: int) -> dict[str, Any]:
    """A line over all panels where the alert begins or ends."""
    return {
        "type": "line", "xref": "x", "yref": "paper", "x0": time_us / 1000, "x1": time_us / 1000,
        "y0": 0, "y1": 1, "line": {"color": "#c9820c", "width": 1.5, "dash": "dot"},
    }  # fmt: skip
