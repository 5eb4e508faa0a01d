"""GPUs that are steadily hotter than their siblings: told once, as a finding and not as a fault."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.findings import Finding
from pipeline.watch.physics.layout import ThermalLayout
from pipeline.watch.physics.model import UNIT_W, HeatModel
from pipeline.watch.physics.settings import PhysicsSettings

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
State = dict[str, NDArray[Any]]

_EVERY_S = 60.0
_DEVIATIONS = 6.0
_FEWEST = 4
_LEFT = 0.7
"""Of the level, below which a GPU is no outlier any more."""
_SURE_C = 1.5
_LASTS_S = 1_800.0
"""How long a GPU is beyond the level until that is steady."""
_LIKE_W = (0.6, 0.95)
"""Siblings are compared at the first of these parts of the power that they work at most at which
half of them are known: where all always work the same, nothing is known of less."""


class Outliers:
    """Over sorted GPUs."""

    def __init__(self, layout: ThermalLayout, settings: PhysicsSettings) -> None:
        self._layout, self._settings = layout, settings
        g = layout.gpus
        self._model_of = layout.model[layout.order]
        self.since_us = np.zeros(g, np.int64)
        self.over_c: Floats = np.zeros(g, np.float32)
        """Over the median of its model at like power."""
        self.top_w: Floats = np.zeros(g, np.float32)
        self._above_s: Floats = np.zeros(g, np.float32)
        self._due_s = np.zeros(1)

    def follow(self, model: HeatModel, faulty: Bools, step_s: float, time_us: int) -> None:
        """Looks at the models once a minute; who is `faulty` is no outlier."""
        self._due_s -= step_s
        if self._due_s[0] > 0:
            return
        span_s = _EVERY_S - float(self._due_s[0])
        self._due_s[0] = _EVERY_S
        load_w = np.nan_to_num(model.lag[-1]) * np.float32(UNIT_W)
        np.maximum(self.top_w, load_w, out=self.top_w)
        known = model.known() & ~faulty
        for number in np.unique(self._model_of):
            mine = np.flatnonzero(known & (self._model_of == number))
            if len(mine) >= _FEWEST:
                self._compare(model, mine, span_s, time_us)

    def _compare(
        self, model: HeatModel, mine: NDArray[np.intp], span_s: float, time_us: int
    ) -> None:
        rise, sure = self._at_like_power(model, mine)
        at_c = model.theta[0, mine] + rise
        off = at_c - np.median(at_c)
        level = self._levels(off)
        self.over_c[mine] = off
        held = self.since_us[mine] > 0
        above_s = (self._above_s[mine] + np.float32(span_s)) * (sure & (off > level))
        self._above_s[mine] = above_s
        self.since_us[mine[~held & (above_s >= _LASTS_S)]] = time_us
        self.since_us[mine[held & (off < _LEFT * level)]] = 0

    def _at_like_power(self, model: HeatModel, mine: NDArray[np.intp]) -> tuple[Floats, Bools]:
        """The rise of each at the same power, °C, and whether that is known."""
        top_w = float(np.median(self.top_w[mine]))
        alike: Floats = np.zeros(len(model.noise), np.float32)
        sure: Bools = np.zeros(len(mine), np.bool_)
        for part in _LIKE_W:
            alike[mine] = model.resistance[mine] * np.float32(part * top_w)
            sure = np.sqrt(model.variance(alike)[mine]) < _SURE_C
            if sure.mean() >= 0.5:
                break
        return alike[mine], sure

    def _levels(self, off_c: Floats) -> Floats:
        """From which °C over the median on each is an outlier: beyond what the others scatter by,
        or, for the warmest, so far above all others.  In a server warm and cool places scatter."""
        least_c = self._settings.outlier_c
        spread = 1.4826 * float(np.median(np.abs(off_c)))
        level = np.full(len(off_c), max(least_c, _DEVIATIONS * spread), np.float32)
        next_c = float(np.partition(off_c, -2)[-2])
        top = int(np.argmax(off_c))
        level[top] = min(level[top], max(next_c, 0.0) + least_c)
        return level

    def ratio(self, resistance: Floats) -> Floats:
        """To the median of those of the same model; NaN where either is unknown."""
        out: Floats = np.full(len(resistance), np.nan, np.float32)
        told = ~np.isnan(resistance)
        for number in np.unique(self._model_of[told]):
            mine = told & (self._model_of == number)
            out[mine] = resistance[mine] / np.median(resistance[mine])
        return out

    def told(self) -> list[Finding]:
        """Those that are so now."""
        out: list[Finding] = []
        for at in np.flatnonzero(self.since_us).tolist():
            over = float(self.over_c[at])
            gpu = int(self._layout.order[at])
            out.append(
                Finding(
                    "gpu", gpu, "outlier", 0.9, over / self._settings.outlier_c,
                    int(self.since_us[at]), np.array([gpu], np.intp), {"warmer_c": round(over, 1)},
                    f"The GPU is steadily {over:.0f} °C warmer than others of its model at like power.",
                )
            )  # fmt: skip
        return out

    def state(self) -> State:
        """All that is known, as arrays."""
        return {
            "since_us": self.since_us, "over_c": self.over_c, "top_w": self.top_w,
            "above_s": self._above_s, "due_s": self._due_s,
        }  # fmt: skip

    def load(self, state: State) -> None:
        """Takes a state over that `state` gave."""
        for name, column in self.state().items():
            column[...] = state[name]
