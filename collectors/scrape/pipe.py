"""FLOP from the tensor activity that an exporter shows: `dcgm_pipe`.

The formula is that of `collectors.kit.flops`.  The time is what the exporter's
values stand for, never more; what is repeated, paused, stale, or 0 on a busy
GPU is not measured.
"""

from __future__ import annotations

from collections.abc import Mapping

from collectors.contract.flop import FlopFlag, FlopMethod, FlopWindow
from collectors.contract.models import GpuModel
from collectors.kit import flops
from collectors.kit.flops import ClockSpan
from collectors.scrape.names import ACTIVITIES

_METHOD = FlopMethod.EXPORTER
_BUSY = 0.05
"""GPU utilisation from which nothing at all in the pipes is not believed."""
_REPEATS_AT_MOST = 2
"""Renewals that may bring the same activities to the last digit."""


class ExporterPipe:
    """One GPU's windows, renewal by renewal."""

    def __init__(self) -> None:
        self._model: GpuModel | None = None
        self._rates: flops.Rates | None = None
        self._power = flops.PowerCheck(None)
        self._measures = False
        self._activities: tuple[float, ...] = ()
        self._repeats = 0
        self._clock_mhz: float | None = None

    def window(
        self,
        raw: Mapping[str, float],
        values: Mapping[str, float],
        model: GpuModel | None,
        elapsed_us: int,
        *,
        overdue: bool,
        clock: ClockSpan | None = None,
    ) -> FlopWindow | None:
        """The window that a page ends; None where the exporter measures no tensor activity of
        this GPU, or the model's rates are unknown.

        `raw` and `values` are before and after `catalogue_values`; `elapsed_us` is what the
        page's values stand for, 0 for repeated ones; `overdue` that they should have changed.
        `clock` is better known than from the window's two ends.
        """
        activity = values.get("tensor_activity")
        self._measures |= activity is not None
        rates = self._rates_of(model)
        if rates is None or not self._measures:
            return None
        if activity is None or overdue:
            return flops.uncounted(_METHOD, FlopFlag.STALE)
        if not elapsed_us:
            return flops.uncounted(_METHOD)
        flags = self._doubts(raw, values)
        clock = clock or self._ends(values)
        if clock is None and activity > 0:
            flags |= FlopFlag.WINDOW_REJECTED
        if flags:
            return flops.uncounted(_METHOD, flags)
        # Without a clock nothing is nothing still.
        return self._measured(rates, activity, clock or ClockSpan(0, 0, 0), elapsed_us, values)

    def _measured(
        self, rates: flops.Rates, activity: float, clock: ClockSpan, elapsed_us: int,
        values: Mapping[str, float],
    ) -> FlopWindow:  # fmt: skip
        pipes = flops.Pipes(
            activity, None, values.get("tensor_int8_activity"), values.get("tensor_fp64_activity")
        )
        window = flops.by_activity(_METHOD, rates, pipes, clock, elapsed_us)
        power_w = values.get("power_w", values.get("power_average_w"))
        doubt = self._power.flags(activity, values.get("sm_activity"), power_w)
        mean_mhz = window.mean_clock_mhz or None
        return window._replace(flags=window.flags | doubt, mean_clock_mhz=mean_mhz)

    def _rates_of(self, model: GpuModel | None) -> flops.Rates | None:
        if model is not self._model:
            self._model, self._rates = model, flops.rates_of(model)
            self._power = flops.PowerCheck(None if model is None else model.tdp_w)
        return self._rates

    def _ends(self, values: Mapping[str, float]) -> ClockSpan | None:
        """Clocks at both ends of what the values stand for, as far as is known."""
        now_mhz = values.get("sm_clock_mhz")
        before_mhz, self._clock_mhz = self._clock_mhz, now_mhz
        return None if now_mhz is None else flops.ends_clock(before_mhz, now_mhz)

    def _doubts(self, raw: Mapping[str, float], values: Mapping[str, float]) -> FlopFlag:
        activities = tuple(raw[name] for name in ACTIVITIES if name in raw)
        same = activities == self._activities
        self._activities = activities
        if not any(activities):
            self._repeats = 0
            busy = values.get("gpu_utilization", 0.0) >= _BUSY
            return FlopFlag.STALE if busy else FlopFlag.NONE
        self._repeats = self._repeats + 1 if same else 0
        return FlopFlag.STALE if self._repeats > _REPEATS_AT_MOST else FlopFlag.NONE
