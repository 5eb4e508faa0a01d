"""The thermal physics as the alerts see it: seconds in, columns and suspicions out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from pipeline.watch.alerts.inputs import Finding, Floats, Tick
from pipeline.watch.layout import FleetLayout
from pipeline.watch.physics.detector import Readings, ThermalDetector
from pipeline.watch.physics.layout import ThermalLayout
from pipeline.watch.physics.saving import StateError

_log = logging.getLogger(__name__)


class ThermalPhysics:
    """A detector over a fleet's layout; `learnt` is what `save` gave, empty to begin anew."""

    def __init__(self, layout: FleetLayout, learnt: bytes = b"") -> None:
        self._racks = len(layout.racks)
        self._detector = ThermalDetector(ThermalLayout.of(cast(Any, layout)))
        if learnt:
            try:
                self._detector.restore(learnt)
            except StateError as error:
                _log.warning("thermal_memory_refused reason=%s", error)

    def update(self, tick: Tick) -> tuple[dict[str, Floats], Sequence[Finding]]:
        """Derived columns and open suspicions of a second."""
        gauges, rates = tick.gauges, tick.rates
        inlet_c = tick.facility.get(("rack", "inlet_c"))
        said = Readings(
            power_w=gauges["power_w"],
            temperature_c=gauges["gpu_temperature_c"],
            memory_temperature_c=gauges["memory_temperature_c"],
            margin_c=gauges["thermal_margin_c"],
            inlet_c=np.full(self._racks, np.nan, np.float32) if inlet_c is None else inlet_c,
            throttled_us_per_s=rates["throttle_sw_thermal_us"] + rates["throttle_hw_thermal_us"],
            brake_us_per_s=rates["throttle_power_brake_us"],
            sm_clock_mhz=gauges["sm_clock_mhz"],
            utilization=gauges["gpu_utilization"],
            fresh=tick.fresh,
        )
        derived = self._detector.update(tick.time_us, said)
        columns: dict[str, Floats] = {
            "expected_temperature_c": derived.expected_temperature_c,
            "thermal_residual_c": derived.thermal_residual_c,
            "thermal_resistance_c_per_w": derived.thermal_resistance_c_per_w,
            "thermal_resistance_ratio": derived.thermal_resistance_ratio,
        }
        return columns, derived.findings

    def save(self) -> bytes:
        """Everything that was learnt."""
        return self._detector.save()
