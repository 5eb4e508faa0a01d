"""Figures of the Node page as pure functions of the API's JSON; no I/O, no browser.

A figure is a plain Plotly object.  Colours of text and grid are the style
sheet's, so that one figure serves both themes; the GPUs' colours have a
contrast of 3 : 1 or more on either ground.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, Kind

Json = Mapping[str, Any]
Floats = NDArray[np.float64]

COLOURS = ("#3f8fd9", "#c9820c", "#1d9a6c", "#e0574f", "#8b74e0", "#8a9020", "#1a96a8", "#cf5c9e")
"""Of GPU 0, 1, … on every panel; an ninth GPU begins again with a dash."""
_DASHES = ("solid", "dot", "dash")
_GAP_STEPS = 2.5
"""Samples further apart than this many usual steps are not joined by a line."""
_JITTER = 0.1
_PANEL_PX = 118
_BETWEEN = 0.16
_HEADING = 0.2
"""Parts of a panel's height: the space below it, and its heading's."""
_MARGIN = {"l": 56, "r": 14, "t": 8, "b": 30}


@dataclass(frozen=True, slots=True)
class Panel:
    """One small multiple: the sum over `metrics`, times `scale`, in `unit`.

    Counters are shown by their rate, as the API gives it.
    """

    key: str
    title: str
    unit: str
    metrics: tuple[str, ...]
    scale: float = 1.0
    decimals: int = 0
    least: float | None = None
    """Where the axis starts; None lets it follow the data."""
    most: float | None = None
    """What the sum cannot exceed: reasons that hold at once share their time."""


def panels() -> tuple[Panel, ...]:
    """The panels from top to bottom; what throttles is read from the catalogue."""
    throttles = tuple(
        metric.name
        for metric in CATALOGUE
        if metric.shown == "throttle" and metric.kind is Kind.COUNTER
    )
    return (
        Panel("temperature", "Temperature", "°C", ("gpu_temperature_c",)),
        Panel("power", "Power", "W", ("power_w",)),
        Panel("clock", "SM clock", "MHz", ("sm_clock_mhz",)),
        Panel("utilisation", "Utilisation", "%", ("gpu_utilization",), 100.0, 0, 0.0),
        Panel("tensor", "Tensor activity", "%", ("tensor_activity",), 100.0, 0, 0.0),
        Panel("delivered", "Delivered", "TFLOPS", ("gflop",), 1.0, 0, 0.0),
        Panel("throttled", "Throttled", "% of time", throttles, 100.0, 1, 0.0, 100.0),
    )


def metrics_of(shown: Sequence[Panel]) -> list[str]:
    """Every metric that the panels need, once."""
    return list(dict.fromkeys(name for panel in shown for name in panel.metrics))


def columns(series: Json) -> tuple[NDArray[np.int64], Floats]:
    """(time in µs, value) of one series: a counter's rate, a gauge's value; absent is NaN."""
    times = np.asarray(series["time_us"], np.int64)
    values = series["rate"] if "rate" in series else series["value"]
    return times, np.array([np.nan if value is None else value for value in values], np.float64)


def summed(found: Sequence[Json]) -> tuple[NDArray[np.int64], Floats]:
    """The sum of several series of one GPU; a moment counts when any has a value."""
    parts = [columns(series) for series in found]
    times = np.unique(np.concatenate([part[0] for part in parts]))
    total = np.zeros(len(times))
    known = np.zeros(len(times), np.bool_)
    for own_times, values in parts:
        at = np.searchsorted(times, own_times)
        has = ~np.isnan(values)
        np.add.at(total, at[has], values[has])
        known[at[has]] = True
    return times, np.where(known, total, np.nan)


def points(times_us: NDArray[np.int64], values: Floats) -> dict[str, Any]:
    """A trace's x and y, with None where samples are missing.

    An even grid goes out as `x0` and `dx` (a fifth of the bytes of dates);
    else x is in ms since 1970.
    """
    if len(times_us) < 2:
        return {"x": (times_us / 1000).tolist(), "y": _listed(values)}
    step_us = float(np.median(np.diff(times_us)))
    place: Floats = (times_us - times_us[0]) / step_us
    index: NDArray[np.int64] = np.rint(place).astype(np.int64)
    if float(np.abs(place - index).max()) <= _JITTER and len(np.unique(index)) == len(index):
        grid = np.full(int(index[-1]) + 1, np.nan)
        grid[index] = values
        return {"x0": int(times_us[0]) / 1000, "dx": step_us / 1000, "y": _listed(grid)}
    after = np.flatnonzero(np.diff(times_us) > _GAP_STEPS * step_us) + 1
    x = np.insert(times_us / 1000, after, times_us[after - 1] / 1000 + step_us / 1000)
    return {"x": x.tolist(), "y": _listed(np.insert(values, after, np.nan))}


def _listed(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 3) for value in values]


def node_figure(answer: Json, slots: Sequence[str], window: tuple[str, str]) -> dict[str, Any]:
    """All panels over one time axis.

    `answer` is that of `/api/v1/series`, `slots` the node's in order (they
    decide the colours) and `window` the axis' first and last moment (ISO 8601).
    """
    shown = panels()
    traces: list[dict[str, Any]] = []
    for number, panel in enumerate(shown):
        for place, slot in enumerate(slots):
            found = [
                series
                for series in answer["series"]
                if series["slot"] == slot and series["metric"] in panel.metrics
            ]
            if found:
                traces.append(_trace(panel, number, place, found))
    return {"data": traces, "layout": _layout(shown, window)}


def _trace(panel: Panel, number: int, place: int, found: Sequence[Json]) -> dict[str, Any]:
    times, values = summed(found)
    if panel.most is not None:
        values = np.minimum(values, panel.most / panel.scale)
    dash = _DASHES[(place // len(COLOURS)) % len(_DASHES)]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"GPU {place}",
        "meta": {"gpu": place, "panel": panel.key, "decimals": panel.decimals},
        "xaxis": "x",
        "yaxis": _axis("y", number),
        "line": {"color": COLOURS[place % len(COLOURS)], "width": 1.3, "dash": dash},
        "hoverinfo": "none",
        **points(times, values * panel.scale),
    }


def _axis(letter: str, number: int) -> str:
    return letter if number == 0 else f"{letter}{number + 1}"


def _layout(shown: Sequence[Panel], window: tuple[str, str]) -> dict[str, Any]:
    count = len(shown)
    layout: dict[str, Any] = {
        "height": count * _PANEL_PX + _MARGIN["t"] + _MARGIN["b"],
        "margin": _MARGIN,
        "showlegend": False,
        "hovermode": "x",
        "dragmode": "zoom",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "Inter, system-ui, sans-serif", "size": 11},
        "uirevision": "|".join(window),
        "annotations": [],
        "xaxis": _time_axis(_axis("y", count - 1), window),
    }
    step = 1 / (count - _BETWEEN)
    for number, panel in enumerate(shown):
        top = 1 - number * step
        bottom = max(0.0, top - (1 - _BETWEEN) * step)
        domain = (bottom, top - _HEADING * step)
        layout["yaxis" + _axis("y", number)[1:]] = _value_axis(panel, domain)
        layout["annotations"].append(_heading(panel, top))
    return layout


def _time_axis(anchor: str, window: tuple[str, str]) -> dict[str, Any]:
    return {
        "type": "date",
        "range": list(window),
        "anchor": anchor,
        "showgrid": True,
        "zeroline": False,
        "showspikes": True,
        "spikemode": "across",
        "spikesnap": "hovered data",
        "spikethickness": 1,
        "spikedash": "solid",
        "nticks": 12,
        "tickformatstops": [
            {"dtickrange": [None, 60_000], "value": "%H:%M:%S"},
            {"dtickrange": [60_000, 86_400_000], "value": "%H:%M"},
            {"dtickrange": [86_400_000, None], "value": "%-d %b"},
        ],
    }


def _value_axis(panel: Panel, domain: tuple[float, float]) -> dict[str, Any]:
    axis: dict[str, Any] = {
        "domain": list(domain),
        "fixedrange": True,
        "nticks": 4,
        "zeroline": False,
        "tickformat": ",~f",
        "anchor": "x",
    }
    if panel.least is not None:
        axis |= {"rangemode": "tozero"}
    return axis


def _heading(panel: Panel, top: float) -> dict[str, Any]:
    return {
        "text": f"<b>{panel.title}</b>  {panel.unit}",
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": top,
        "yref": "paper",
        "yanchor": "top",
        "showarrow": False,
        "font": {"size": 12},
    }
