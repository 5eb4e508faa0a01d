"""Pictures of the simulator for the documents: overlays on recordings, and a gallery of faults.

    python -m benchmarks.pictures [FOLDER]        (the gallery; docs/simulator by default)

Chromium draws them through Playwright.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from playwright.sync_api import sync_playwright

from collectors.simulator.faults import FAULTS, Family, FaultKind
from collectors.simulator.fleet import Fleet
from collectors.simulator.heat import FAST_SHARE
from collectors.simulator.scenario import FaultEvent, gpus_of
from collectors.simulator.sites import make_site

if TYPE_CHECKING:
    from benchmarks.calibrate import Fit

F64 = NDArray[np.float64]
START_US = 1_800_000_000_000_000
_WIDTH, _SEED = 1_100, 7
_BEFORE_S, _LASTS_S, _ALL_S = 240, 900, 1_500
_PLACES = {"gpu": "a01n01/2", "node": "a01n01", "rack": "a01", "hall": "Hall A", "site": ""}
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
          "--disable-background-networking", "--disable-component-update")  # fmt: skip
_PANELS = (("Temperature, °C", "core_c"), ("Power, W", "power_w"), ("SM clock, MHz", "clock_mhz"),
           ("Margin, °C", "margin_c"))  # fmt: skip
_RED, _GREY = "#c2410c", "#94a3b8"


def draw(figures: Mapping[Path, Any]) -> None:
    """Writes each figure as a PNG of its own size."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(_FLAGS))
        for path, figure in figures.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            height = int(figure.layout.height)
            page = browser.new_page(viewport={"width": _WIDTH, "height": height})
            page.set_content(figure.to_html(include_plotlyjs=True, full_html=True))
            page.wait_for_selector(".main-svg")
            page.screenshot(path=path, clip={"x": 0, "y": 0, "width": _WIDTH, "height": height})
            page.close()
        browser.close()


def make_subplots(rows: int, columns: int, titles: Sequence[str]) -> Any:
    """A grid of panels."""
    subplots: Any = importlib.import_module("plotly.subplots")
    return subplots.make_subplots(rows, columns, subplot_titles=list(titles))


def _layout(figure: Any, title: str, height: int) -> Any:
    figure.update_layout(
        template="simple_white", width=_WIDTH - 16, height=height, title=title,
        margin={"l": 50, "r": 20, "t": 60, "b": 40}, font={"size": 12},
        legend={"orientation": "h", "y": -0.15},
    )  # fmt: skip
    return figure


def heat(folder: Path, servers: Mapping[str, Mapping[int, F64]], fits: Sequence[Fit]) -> None:
    """Recorded temperatures of an 8-GPU server with what the model makes of its power."""
    from benchmarks.calibrate import lagged  # noqa: PLC0415 - the two know each other

    name = max(servers, key=lambda one: len(servers[one][0]))
    panels = make_subplots(2, 4, [f"GPU {gpu}" for gpu in servers[name]])
    for fit in (one for one in fits if one.file == name):
        time_s, power_w, core_c = servers[name][fit.gpu].T
        mixed = FAST_SHARE * lagged(time_s, power_w, fit.fast_s)
        mixed += (1 - FAST_SHARE) * lagged(time_s, power_w, fit.slow_s)
        modelled = fit.inlet_c + fit.resistance_k_per_w * mixed
        row, column = divmod(fit.gpu, 4)
        minutes = (time_s - time_s[0]) / 60
        for values, colour, label in ((core_c, _GREY, "recorded"), (modelled, _RED, "model")):
            line = go.Scattergl(
                x=minutes[::3], y=values[::3], name=label, line={"color": colour, "width": 1.2},
                showlegend=fit.gpu == 0,
            )  # fmt: skip
            panels.add_trace(line, row + 1, column + 1)
    draw({folder / "heat.png": _layout(panels, "Core temperature, °C, over minutes", 560)})


def distributions(folder: Path, recorded: Mapping[str, F64], simulated: Mapping[str, F64]) -> None:
    """Cumulative distributions of a training cluster, recorded and simulated."""
    panels = make_subplots(1, len(simulated), list(simulated))
    shares = np.linspace(0, 100, 401)
    for at, (name, samples) in enumerate(simulated.items(), 1):
        values, share = recorded[name].T
        mine = np.quantile(samples, shares / 100)
        for x, y, colour, label in (
            (values, share, _GREY, "recorded"),
            (mine, shares, _RED, "simulated"),
        ):
            line = go.Scatter(
                x=x, y=y, name=label, line={"color": colour, "width": 1.6}, showlegend=at == 1
            )
            panels.add_trace(line, 1, at)
    title = "Samples at or below, %: a training cluster"
    draw({folder / "distributions.png": _layout(panels, title, 360)})


def watch(kind: FaultKind | None, gpu: int) -> dict[str, list[float]]:
    """One GPU's figures over 25 minutes, every 5 s, with a fault from the fourth to the
    nineteenth; what grows over days grows within five minutes."""
    events: list[FaultEvent] = []
    if kind is not None:
        quick = FaultKind(
            kind.name, kind.family, kind.scopes, kind.strength, _LASTS_S,
            min(kind.ramp_s, 300.0), None, kind.help,
        )  # fmt: skip
        place = kind.scopes[0]
        strength = kind.strength.default if kind.strength is not None else 0.0
        if kind.name == "agent_crash":
            strength = 300.0
        at_us, for_us = _BEFORE_S * 1_000_000, _LASTS_S * 1_000_000
        events.append(FaultEvent(quick, at_us, for_us, place, _PLACES[place], strength))
    fleet = Fleet(make_site("demo"), _SEED, START_US, 5.0, events)
    out: dict[str, list[float]] = {name: [] for _, name in _PANELS}
    for _ in range(_ALL_S // 5):
        tick = fleet.step()
        now = fleet.physics.now
        silent = "a01n01" not in tick.nodes
        for _, name in _PANELS:
            gone = now is None or silent or bool(now.unreadable[gpu])
            out[name].append(np.nan if gone else float(getattr(now, name)[gpu]))
    return out


def gallery(folder: Path) -> None:
    """A picture of each hardware fault: the hit GPU, and the same without the fault."""
    entries = make_site("demo").at(0)
    kinds = [kind for kind in FAULTS.values() if kind.family is Family.HARDWARE]
    pictures: dict[Path, Any] = {}
    healthy: dict[int, dict[str, list[float]]] = {}
    for kind in kinds:
        event = FaultEvent(kind, 0, None, kind.scopes[0], _PLACES[kind.scopes[0]], 0.0)
        hit = gpus_of(event, entries)
        gpu = 2 if 2 in hit else hit[0]
        if gpu not in healthy:
            healthy[gpu] = watch(None, gpu)
        pictures[folder / f"{kind.name}.png"] = _fault(kind, watch(kind, gpu), healthy[gpu])
    draw(pictures)


def _fault(
    kind: FaultKind, hit: Mapping[str, list[float]], healthy: Mapping[str, list[float]]
) -> Any:
    panels = make_subplots(1, 4, [title for title, _ in _PANELS])
    minutes = np.arange(_ALL_S // 5) * 5 / 60
    for at, (_, name) in enumerate(_PANELS, 1):
        for values, colour, label in (
            (healthy[name], _GREY, "without"), (hit[name], _RED, "with the fault"),
        ):  # fmt: skip
            line = go.Scatter(
                x=minutes, y=values, name=label, line={"color": colour, "width": 1.4},
                showlegend=at == 1,
            )  # fmt: skip
            panels.add_trace(line, 1, at)
        panels.add_vrect(
            x0=_BEFORE_S / 60, x1=(_BEFORE_S + _LASTS_S) / 60, fillcolor=_RED, opacity=0.06,
            line_width=0, row=1, col=at,
        )  # fmt: skip
    return _layout(panels, f"{kind.name}: {kind.help}", 280)


if __name__ == "__main__":
    gallery(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/simulator"))
