"""What an agent integrates of one slot over one run: state times, FLOP, energy by power."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from collectors.agent.delivered import DeliveredFlop
from collectors.contract.flop import FlopWindow
from collectors.contract.models import GpuModel


@dataclass(frozen=True, slots=True)
class ActivityRule:
    """When a GPU counts as active."""

    gpu_utilization: float = 0.05
    sm_activity: float = 0.01
    """Where GPU utilisation is absent."""

    def active(self, values: Mapping[str, float]) -> bool | None:
        """None when the values do not say."""
        utilization = values.get("gpu_utilization")
        if utilization is not None:
            return utilization >= self.gpu_utilization
        activity = values.get("sm_activity")
        return None if activity is None else activity >= self.sm_activity


class SlotIntegrals:
    """Cumulative counters of one slot, zero at the run's first record.

    A reading stands for the time since the one before it: utilisation and
    activities are means over the past, and power is taken as the mean of both
    ends.
    """

    def __init__(self, rule: ActivityRule) -> None:
        self._rule = rule
        self._observed_us = self._active_us = self._down_us = 0
        self._flop = DeliveredFlop()
        self._power_mw: int | None = None
        self._energy_half_nj = 0

    def advance(
        self,
        elapsed_us: int,
        values: Mapping[str, float] | None,
        model: GpuModel | None,
        window: FlopWindow | None = None,
    ) -> dict[str, float]:
        """Adds one step; returns the gauges that tell how FLOP were found.

        `values` is None when the slot could not be read; `elapsed_us` is 0 for
        a first reading and after a gap, whose time stays unobserved.
        """
        if values is None:
            self._down_us += elapsed_us
            self._power_mw = None
            self._flop.away(elapsed_us)
            return {}
        active = self._rule.active(values)
        if active is not None:
            self._observed_us += elapsed_us
            self._active_us += elapsed_us if active else 0
        self._add_energy(elapsed_us, values)
        return self._flop.add(elapsed_us, values, model, window)

    def interrupted(self) -> None:
        """What comes next does not continue what was read last."""
        self._power_mw = None
        self._flop.away(0)

    def _add_energy(self, elapsed_us: int, values: Mapping[str, float]) -> None:
        power_w = values.get("power_w", values.get("power_average_w"))
        power_mw = None if power_w is None else round(power_w * 1000)
        if power_mw is not None and elapsed_us:
            before_mw = power_mw if self._power_mw is None else self._power_mw
            self._energy_half_nj += (before_mw + power_mw) * elapsed_us
        self._power_mw = power_mw

    @property
    def energy_mj(self) -> int:
        """The integral of power, in whole mJ."""
        return self._energy_half_nj // 2_000_000

    def counters(self) -> dict[str, int]:
        """The run's counters by catalogue name.  FLOP is absent until it was measured."""
        return {
            "observed_us": self._observed_us,
            "active_us": self._active_us,
            "down_us": self._down_us,
            **self._flop.counters(),
        }
