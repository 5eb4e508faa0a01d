"""A small fleet with known heat: what the detector should learn, and faults that it should find."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.detector import Derived, Readings, ThermalDetector
from pipeline.watch.physics.layout import ThermalLayout

START_US = 1_800_000_000_000_000
Floats = NDArray[np.floating[Any]]


def layout(racks: int = 4, nodes: int = 4, gpus: int = 8) -> ThermalLayout:
    """Racks of equal nodes in one hall."""
    node = np.repeat(np.arange(racks * nodes), gpus)
    rack = node // nodes
    return ThermalLayout(node, rack, np.zeros_like(rack), np.zeros_like(rack))


class World:
    """T = inlet + R·(0.6·y₁ + 0.4·y₂) in whole degrees; each node's load jumps by itself."""

    def __init__(self, floor: ThermalLayout, seed: int = 1, step_s: float = 1.0) -> None:
        self.floor, self.step_s = floor, step_s
        self._rng = np.random.default_rng(seed)
        g = floor.gpus
        self.resistance: Floats = self._rng.uniform(0.05, 0.07, g)
        self.inlet_c: Floats = np.full(g, 22.0)
        self.factor: Floats = np.ones(g)
        """Of the resistance: more than 1 is a fault."""
        nodes = int(floor.node.max()) + 1
        self._period_s, self._phase = self._rng.uniform(40, 90, nodes), self._rng.random(nodes)
        self._high_w = self._rng.uniform(450, 690, nodes)
        self.power_w: Floats = np.zeros(g)
        self._lag: NDArray[np.float64] = np.zeros((2, g))
        self.time_us = START_US
        self.held_w: float | None = None
        """The same power for all, where it is not to swing."""

    def tick(self, silent: NDArray[np.bool_] | None = None) -> Readings:
        """What the GPUs say next."""
        self.time_us += round(self.step_s * 1e6)
        now_s = (self.time_us - START_US) / 1e6
        on = (now_s / self._period_s + self._phase) % 1 < 0.6
        load_w = np.where(on, self._high_w, 250.0)[self.floor.node]
        load_w = load_w if self.held_w is None else np.full(len(load_w), self.held_w)
        self.power_w = load_w * self._rng.normal(1.0, 0.01, len(load_w))
        first = now_s <= self.step_s
        part = 1.0 if first else -np.expm1(-self.step_s / np.array([[3.0], [45.0]]))
        self._lag += (self.power_w * self.factor - self._lag) * part
        rise = self.resistance * (0.6 * self._lag[0] + 0.4 * self._lag[1])
        core = np.asarray(np.round(self.inlet_c + rise), np.float32)
        absent = np.full(len(core), np.nan, np.float32)
        racks = np.full(int(self.floor.rack.max()) + 1, np.nan, np.float32)
        fresh = np.ones(len(core), np.bool_) if silent is None else ~silent
        return Readings(
            self.power_w.astype(np.float32), core, absent, absent, racks, absent, absent,
            absent, absent, fresh,
        )  # fmt: skip


def run(detector: ThermalDetector, world: World, seconds: float) -> list[Derived]:
    """So long a time, tick by tick."""
    ticks = range(round(seconds / world.step_s))
    return [detector.update(world.time_us + 1, world.tick()) for _ in ticks]


def places(made: list[Derived]) -> set[tuple[str, int, str]]:
    """All that was found in a time."""
    return {(one.scope, one.index, one.cause) for each in made for one in each.findings}
