"""What each simulated GPU is: its model's constants and its own deviations, as columns of G.

Figures: idle and load power, temperature per watt by position, from recorded
8-GPU servers; ratings from `gpu_models.csv`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.inventory import InstalledNode
from collectors.contract.models import GpuModel
from collectors.simulator.sites import GPUS_PER_NODE, model_of

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

_POSITION_K_PER_W = np.array([0.070, 0.051, 0.054, 0.069, 0.072, 0.051, 0.068, 0.051])
"""Steady rise of the core over the inlet per watt, by position in the node."""


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """Per-model constants; powers in W, clocks in MHz, temperatures in °C."""

    key: str
    name: str
    gpm: bool
    flop_per_mhz_us: float
    """FLOP per MHz of SM clock and µs at full tensor activity (SMs × FLOP/SM/clock)."""
    tdp_w: float
    sleep_w: float
    """Nothing loaded."""
    ready_w: float
    """A model or context loaded, no kernel running."""
    max_clock_mhz: float
    sleep_clock_mhz: float
    memory_clock_mhz: float
    memory_bytes: float
    limit_c: float
    """Maximum operating temperature: margin 0."""
    bound: float
    """Relative bound of the FLOP measurement (3 % by GPM, 10 % by DCGM's tensor-active)."""


_POWER_W = {"Hopper": (72.0, 120.0), "HopperLarge": (78.0, 125.0), "Ampere": (64.3, 85.6)}
_MEMORY_MHZ = {"Hopper": 2619.0, "HopperLarge": 3201.0, "Ampere": 1593.0}


def model_figures(key: str) -> ModelFigures:
    """The constants of a model; raises ValueError for one without a row."""
    model: GpuModel = model_of(key)
    memory_gb = model.memory_gb or 0.0
    family = "Ampere" if not model.gpm else "HopperLarge" if memory_gb > 100 else "Hopper"
    sleep_w, ready_w = _POWER_W[family]
    return ModelFigures(
        key=key,
        name=model.names[0],
        gpm=model.gpm,
        flop_per_mhz_us=(model.sm_count or 0) * (model.fp16_flop_per_sm_clock or 0.0),
        tdp_w=model.tdp_w or 0.0,
        sleep_w=sleep_w,
        ready_w=ready_w,
        max_clock_mhz=model.max_sm_clock_mhz or 0.0,
        sleep_clock_mhz=345.0 if model.gpm else 210.0,
        memory_clock_mhz=_MEMORY_MHZ[family],
        memory_bytes=memory_gb * 2**30,
        limit_c=87.0 if model.gpm else 85.0,
        bound=0.03 if model.gpm else 0.10,
    )


@dataclass(frozen=True)
class Hardware:
    """Columns of G in the order of the site's nodes, `GPUS_PER_NODE` to a node."""

    figures: tuple[ModelFigures, ...]
    """Per node."""
    gpm: Bool
    """Activity by GPM (Hopper)."""
    counted: Bool
    """Tensor activity is measured at all (GPM, or a DCGM exporter before Hopper)."""
    down: Bool
    """The slot cannot be read: the GPU fell off the bus."""
    dark: Bool
    """Per node: its records never come."""
    hot: Bool
    """Cooled much worse than its position should be."""
    flop_per_mhz_us: F64
    bound: F64
    gain: F64
    """What the measurement of activity makes of the true one."""
    sleep_w: F64
    ready_w: F64
    dynamic_w: F64
    """Power above `ready_w` at full load and full clock."""
    limit_w: F64
    max_clock_mhz: F64
    sleep_clock_mhz: F64
    memory_clock_mhz: F64
    memory_bytes: F64
    limit_c: F64
    inlet_c: F64
    rack: NDArray[np.intp]
    """Number of the GPU's rack."""
    resistance_k_per_w: F64
    """Steady rise of the core over the inlet per watt."""
    swing: F64
    """Spread of a second's power about what the work draws (log-normal): the older regulators
    swing about the limit, with peaks of some percent over it."""
    fast_s: F64
    slow_s: F64
    memory_share: F64
    """Of the core's rise that the memory follows."""
    memory_rise_k: F64
    """That the memory stands above it even at idle."""


def _per_gpu(nodes: tuple[ModelFigures, ...], name: str) -> F64:
    return np.repeat(np.array([float(getattr(node, name)) for node in nodes]), GPUS_PER_NODE)


def _few(rng: np.random.Generator, candidates: NDArray[np.intp], count: int, size: int) -> Bool:
    out = np.zeros(size, np.bool_)
    out[rng.choice(candidates, min(count, len(candidates)), replace=False)] = True
    return out


def _resistance(rng: np.random.Generator, gpm: Bool, hot: Bool) -> F64:
    """Core over inlet in K per W, by position and chance."""
    g = len(gpm)
    resistance = np.tile(_POSITION_K_PER_W, g // GPUS_PER_NODE) * rng.normal(1.0, 0.03, g)
    # A cold plate on Ampere carries less; its servers run at about the same temperatures.
    return resistance * np.where(gpm, 1.0, 1.85) * np.where(hot, rng.uniform(1.6, 2.6, g), 1.0)


def _inlet_c(rng: np.random.Generator, entries: list[InstalledNode]) -> F64:
    """Air or coolant as it comes in, per GPU: each rack has its own."""
    racks = _racks(entries)
    return np.repeat(rng.normal(22.0, 1.8, int(racks.max()) + 1)[racks], GPUS_PER_NODE)


def _racks(entries: list[InstalledNode]) -> NDArray[np.intp]:
    """The number of each node's rack, in order of first appearance."""
    racks = {rack: index for index, rack in enumerate(dict.fromkeys(e.rack for e in entries))}
    return np.array([racks[entry.rack] for entry in entries], np.intp)


def _capped(entries: list[InstalledNode]) -> Bool:
    """GPUs with a lowered power limit: the last rack's of a larger site."""
    last = entries[-1].rack if len({entry.rack for entry in entries}) > 4 else None
    return np.repeat(np.array([entry.rack == last for entry in entries]), GPUS_PER_NODE)


def _wrong(rng: np.random.Generator, gpm: Bool) -> dict[str, Bool]:
    """What is wrong from the start: no larger site is ever without it."""
    g = len(gpm)
    n = g // GPUS_PER_NODE
    ampere = np.flatnonzero(~gpm[::GPUS_PER_NODE])
    without_exporter = _few(rng, ampere, len(ampere) // 50, n)
    return {
        "counted": ~np.repeat(without_exporter, GPUS_PER_NODE),
        "dark": _few(rng, np.arange(n), max(n // 400, int(n >= 100)), n),
        "down": _few(rng, np.arange(g), max(g // 2000, int(g >= 64)), g),
        "hot": _few(rng, np.arange(g), max(1, g // 200), g),
    }


def _cooling(rng: np.random.Generator, gpm: Bool, resistance: F64) -> dict[str, F64]:
    g = len(gpm)
    return {
        "resistance_k_per_w": resistance,
        # Air-cooled servers answer more slowly than those with cold plates.
        "fast_s": rng.uniform(1.0, 3.0, g) * np.where(gpm, 1.0, 4.0),
        "slow_s": rng.uniform(30.0, 60.0, g),
        "memory_share": np.full(g, 0.62),
        "memory_rise_k": rng.normal(18.3, 2.2, g),
    }


_OF_MODEL = (
    "flop_per_mhz_us", "bound", "max_clock_mhz", "sleep_clock_mhz", "memory_clock_mhz",
    "memory_bytes", "limit_c",
)  # fmt: skip


def make_hardware(entries: list[InstalledNode], seed: int) -> Hardware:
    """Draws a site's GPUs: all that does not change while it runs."""
    rng = np.random.default_rng([seed, 2])
    made = {key: model_figures(key) for key in {entry.model for entry in entries}}
    nodes = tuple(made[entry.model] for entry in entries)
    g = len(nodes) * GPUS_PER_NODE
    gpm = _per_gpu(nodes, "gpm") > 0
    wrong: dict[str, Any] = _wrong(rng, gpm)
    resistance = _resistance(rng, gpm, wrong["hot"])
    spread = np.where(gpm, 0.008, 0.03)
    tdp_w, ready_w = _per_gpu(nodes, "tdp_w"), _per_gpu(nodes, "ready_w")
    of_model: dict[str, Any] = {name: _per_gpu(nodes, name) for name in _OF_MODEL}
    cooling: dict[str, Any] = _cooling(rng, gpm, resistance)
    return Hardware(
        figures=nodes,
        gpm=gpm,
        gain=1.0 + np.clip(rng.normal(0.0, 1.0, g), -2.5, 2.5) * spread,
        sleep_w=_per_gpu(nodes, "sleep_w") * rng.normal(1.0, 0.03, g),
        ready_w=ready_w * rng.normal(1.0, 0.02, g),
        dynamic_w=(tdp_w - ready_w) * rng.normal(1.0, 0.03, g),
        limit_w=np.where(_capped(entries), np.round(tdp_w * 0.8), tdp_w),
        inlet_c=_inlet_c(rng, entries) + np.where(gpm, 0.0, 0.5),
        rack=np.repeat(_racks(entries), GPUS_PER_NODE),
        swing=np.where(gpm, 0.006, 0.04),
        **wrong,
        **cooling,
        **of_model,
    )
