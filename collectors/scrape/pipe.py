"""FLOP from the tensor activity that an exporter shows: `dcgm_pipe`.

Formula (see `collectors.kit.flops`): activity × SMs × FLOP per SM and clock ×
mean SM clock × time.  The time is what the exporter's values stand for, never
more; what is repeated, paused, stale, or 0 on a busy GPU is not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from collectors.contract.flop import FlopFlag, FlopMethod, FlopWindow
from collectors.contract.models import GpuModel
from collectors.scrape.names import ACTIVITIES

ERROR = 0.10
"""Bound of the measurement; dcgmproftester itself accepts far more."""
_ACTIVITY_AT_MOST = 1.02
_MOVING_SHARE = 0.20
_BUSY = 0.05
"""GPU utilisation from which nothing at all in the pipes is not believed."""
_REPEATS_AT_MOST = 2
"""Renewals that may bring the same activities to the last digit."""
_BUSY_PIPES, _LEAST_POWER_SHARE = 0.5, 0.25
"""Tensor activity beyond which a board draws at least this share of its rated power."""


class Clocks(NamedTuple):
    """SM clock over a window: plain mean over time, and how far apart its values were."""

    mean_mhz: float
    spread_mhz: float


def unmeasured(flags: FlopFlag = FlopFlag.NONE) -> FlopWindow:
    """Nothing new, or nothing that counts (its flags say why)."""
    return FlopWindow(FlopMethod.EXPORTER, 0, 0.0, 0.0, 0.0, flags)


class ExporterPipe:
    """One GPU's windows, renewal by renewal."""

    def __init__(self) -> None:
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
        clocks: Clocks | None = None,
    ) -> FlopWindow | None:
        """The window that a page ends; None where the exporter measures no tensor activity of
        this GPU, or the model's rates are unknown.

        `raw` and `values` are before and after `catalogue_values`; `elapsed_us` is what the
        page's values stand for, 0 for repeated ones; `overdue` that they should have changed.
        `clocks` are better than those at the window's two ends.
        """
        activity = values.get("tensor_activity")
        self._measures |= activity is not None
        rate = None if model is None else rate_of(model)
        if model is None or rate is None or not self._measures:
            return None
        if activity is None or overdue:
            return unmeasured(FlopFlag.STALE)
        if not elapsed_us:
            return unmeasured()
        flags = self._doubts(raw, values)
        clocks = clocks or self._ends(values)
        if clocks is None and activity > 0:
            flags |= FlopFlag.WINDOW_REJECTED
        if flags:
            return unmeasured(flags)
        # Without a clock nothing is nothing still.
        window = measured(rate, activity, clocks or Clocks(0.0, 0.0), elapsed_us, model)
        return _with_power(window, activity, values, model)

    def _ends(self, values: Mapping[str, float]) -> Clocks | None:
        """Clocks at both ends of what the values stand for, as far as is known."""
        now_mhz = values.get("sm_clock_mhz")
        before_mhz, self._clock_mhz = self._clock_mhz, now_mhz
        if now_mhz is None:
            return None
        before_mhz = now_mhz if before_mhz is None else before_mhz
        return Clocks((before_mhz + now_mhz) / 2, abs(before_mhz - now_mhz))

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


def rate_of(model: GpuModel) -> float | None:
    """GFLOP per MHz of SM clock and µs at full tensor activity; None for a model without rates."""
    if model.sm_count is None or model.fp16_flop_per_sm_clock is None:
        return None
    return model.sm_count * model.fp16_flop_per_sm_clock * 1e-9


def measured(
    rate: float, activity: float, clocks: Clocks, elapsed_us: int, model: GpuModel
) -> FlopWindow:
    """A window's FLOP; the activity is a share of cycles, so the plain mean of the clock is right."""
    mean_mhz, most_mhz = clocks.mean_mhz, model.max_sm_clock_mhz
    too_fast = most_mhz is not None and activity * mean_mhz > _ACTIVITY_AT_MOST * most_mhz
    if too_fast or not 0 <= activity <= _ACTIVITY_AT_MOST:
        return unmeasured(FlopFlag.IMPOSSIBLE_RATE)
    flags, error = FlopFlag.NONE, ERROR
    if clocks.spread_mhz and clocks.spread_mhz >= _MOVING_SHARE * mean_mhz:
        # The clock may have been at either end for nearly all of the window.
        flags |= FlopFlag.CLOCK_MOVING
        error = min(1.0, error + clocks.spread_mhz / 2 / mean_mhz)
    gflop = rate * activity * mean_mhz * elapsed_us
    lo, hi = gflop * (1 - error), gflop * (1 + error)
    return FlopWindow(FlopMethod.EXPORTER, elapsed_us, gflop, lo, hi, flags, mean_mhz or None)


def _with_power(
    window: FlopWindow, activity: float, values: Mapping[str, float], model: GpuModel
) -> FlopWindow:
    """Marks tensor pipes that are busy on a board that draws next to nothing."""
    power_w = values.get("power_w", values.get("power_average_w"))
    if activity <= _BUSY_PIPES or power_w is None or model.tdp_w is None:
        return window
    if power_w >= _LEAST_POWER_SHARE * model.tdp_w:
        return window
    return window._replace(flags=window.flags | FlopFlag.IMPLAUSIBLE_POWER)
