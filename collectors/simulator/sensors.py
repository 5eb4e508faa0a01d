"""Sensors that lie: stuck, jumping, or saying the driver's blanks; on the columns of G."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collectors.contract.inventory import InstalledNode
from collectors.simulator.report import Column
from collectors.simulator.scenario import FaultEvent, gpus_of

KINDS = frozenset(("sensor_stuck", "sensor_spike", "sensor_sentinel"))
_GAUGES = ("power_w", "gpu_temperature_c")
_SPIKES = {"power_w": (0.0, 900.0), "gpu_temperature_c": (5.0, 110.0)}
"""Possible values, all of them in the catalogue's valid range."""
_BLANKS = {"power_w": 4_294_967.295, "gpu_temperature_c": 4_294_967_295.0}
_BLANK_COUNTER = np.uint64(9_223_372_036_854_775_792)
"""What DCGM and the driver put where they have no value."""


class _Lie(NamedTuple):
    event: FaultEvent
    gpus: NDArray[np.intp]


class Sensors:
    """Changes what is told, never what is; times are µs after the site's start."""

    def __init__(
        self, events: Sequence[FaultEvent], entries: Sequence[InstalledNode], seed: int
    ) -> None:
        self._lies = [
            _Lie(event, np.array(gpus_of(event, entries), np.intp))
            for event in events
            if event.kind.name in KINDS
        ]
        self._rng = np.random.default_rng([seed, 11])
        self._held: dict[int, dict[str, Column]] = {}

    @property
    def any(self) -> bool:
        """Whether there are such faults at all."""
        return bool(self._lies)

    def apply(self, columns: Mapping[str, Column], now_us: int) -> dict[str, Column]:
        """The columns with the lies of now; those given are not written into."""
        out = dict(columns)
        for number, (event, gpus) in enumerate(self._lies):
            if now_us < event.at_us or (event.end_us is not None and now_us >= event.end_us):
                self._held.pop(number, None)
                continue
            if event.kind.name == "sensor_stuck":
                self._stick(out, number, gpus)
                continue
            hit = gpus[self._rng.random(len(gpus)) < event.strength]
            if event.kind.name == "sensor_spike":
                self._spike(out, hit)
            else:
                self._blank(out, hit)
        return out

    def _stick(self, out: dict[str, Column], number: int, gpus: NDArray[np.intp]) -> None:
        held = self._held.setdefault(number, {name: out[name][gpus].copy() for name in _GAUGES})
        for name, values in held.items():
            out[name] = out[name].copy()
            out[name][gpus] = values

    def _spike(self, out: dict[str, Column], gpus: NDArray[np.intp]) -> None:
        for name in _GAUGES:
            out[name] = out[name].copy()
            out[name][gpus] = np.round(self._rng.uniform(*_SPIKES[name], len(gpus)))

    def _blank(self, out: dict[str, Column], gpus: NDArray[np.intp]) -> None:
        for name in _GAUGES:
            out[name] = out[name].copy()
            out[name][gpus] = _BLANKS[name]
        out["energy_mj"] = out["energy_mj"].copy()
        out["energy_mj"][gpus] = _BLANK_COUNTER
