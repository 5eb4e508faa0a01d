"""Delivered FLOP of one slot over one run: counters that grow by windows."""

from __future__ import annotations

from collections.abc import Mapping

from collectors.contract.flop import FlopFlag, FlopMethod, FlopWindow
from collectors.contract.models import GpuModel
from collectors.kit import flops

_NONE = FlopMethod.NONE
_PATIENCE_US = 10_000_000
"""A slot that was measured is not estimated before it has gone so long without a window."""


class DeliveredFlop:
    """What a device measured itself, else what its activity and clock say, else an estimate."""

    def __init__(self) -> None:
        self._model: GpuModel | None = None
        self._rates: flops.Rates | None = None
        self._clock_mhz: float | None = None
        self._totals: tuple[float, float, float] | None = None
        self._fp64: float | None = None
        self._int8: float | None = None
        self._estimated: float | None = None
        self._measured_us = self._elapsed_us = 0
        self._unmeasured_us: int | None = None
        """Since the last window; None before the first."""

    def away(self, elapsed_us: int) -> None:
        """The slot could not be read: the clock that it had is none of the next window's."""
        self._elapsed_us += elapsed_us
        self._clock_mhz = None

    def add(
        self,
        elapsed_us: int,
        values: Mapping[str, float],
        model: GpuModel | None,
        window: FlopWindow | None,
    ) -> dict[str, float]:
        """One step; returns the gauges that tell of it.

        In a run's first step and after a gap (`elapsed_us` 0) a window is of
        time that is not the run's, and adds nothing.
        """
        if model is not self._model:
            self._model, self._rates = model, flops.rates_of(model)
        before_mhz, self._clock_mhz = self._clock_mhz, values.get("sm_clock_mhz")
        self._elapsed_us += elapsed_us
        if window is None:
            window = self._by_values(elapsed_us, values, before_mhz)
        if window is not None and window.method is not _NONE:
            return self._take(window, counts=elapsed_us > 0)
        return self._estimate(elapsed_us, values, before_mhz)

    def _by_values(
        self, elapsed_us: int, values: Mapping[str, float], before_mhz: float | None
    ) -> FlopWindow | None:
        activity, model, rates = values.get("tensor_activity"), self._model, self._rates
        if activity is None or self._clock_mhz is None or model is None or rates is None:
            return None
        pipes = flops.Pipes(
            activity, None, values.get("tensor_int8_activity"), values.get("tensor_fp64_activity")
        )
        clock = flops.ends_clock(before_mhz, self._clock_mhz)
        method = FlopMethod.PIPE if model.gpm else FlopMethod.EXPORTER
        return flops.by_activity(method, rates, pipes, clock, elapsed_us)

    def _take(self, window: FlopWindow, *, counts: bool) -> dict[str, float]:
        self._unmeasured_us = 0
        gflop, lo, hi = self._totals or (0.0, 0.0, 0.0)
        gauges: dict[str, float] = {
            "flop_method": float(window.method), "flop_flags": float(window.flags)
        }  # fmt: skip
        if counts and window.elapsed_us > 0:
            gflop, lo, hi = gflop + window.gflop, lo + window.lo, hi + window.hi
            self._measured_us += window.elapsed_us
            if window.fp64_gflop is not None:
                self._fp64 = (self._fp64 or 0.0) + window.fp64_gflop
            if window.int8_gop is not None:
                self._int8 = (self._int8 or 0.0) + window.int8_gop
            if window.mean_clock_mhz is not None:
                gauges["sm_clock_mean_mhz"] = window.mean_clock_mhz
        self._totals = (gflop, lo, hi)
        return gauges

    def _estimate(
        self, elapsed_us: int, values: Mapping[str, float], before_mhz: float | None
    ) -> dict[str, float]:
        utilization, model, rates = values.get("gpu_utilization"), self._model, self._rates
        if self._unmeasured_us is not None:
            self._unmeasured_us += elapsed_us
            if self._unmeasured_us < _PATIENCE_US:
                return {"flop_method": float(_NONE)}
        # A GPU with GPM gives its first window a tick later: that is no estimate.
        soon = not elapsed_us and model is not None and model.gpm
        if utilization is None or self._clock_mhz is None or rates is None or soon:
            return {"flop_method": float(_NONE)}
        clock = flops.ends_clock(before_mhz, self._clock_mhz)
        guess = flops.estimated(rates, utilization, clock, elapsed_us)
        if guess is None:
            return {"flop_method": float(_NONE)}
        self._estimated = (self._estimated or 0.0) + guess
        return {"flop_method": float(FlopMethod.ESTIMATE), "flop_flags": float(FlopFlag.NONE)}

    def counters(self) -> dict[str, int]:
        """By catalogue name; FLOP are absent until something has measured (or estimated) them."""
        out: dict[str, int] = {}
        if self._totals is not None:
            gflop, lo, hi = self._totals
            out["gflop"], out["gflop_lo"], out["gflop_hi"] = int(gflop), int(lo), int(hi)
            # A window's ends are not exactly the records' times: never more than passed.
            out["gflop_measured_us"] = min(self._measured_us, self._elapsed_us)
        if self._fp64 is not None:
            out["gflop_fp64"] = int(self._fp64)
        if self._int8 is not None:
            out["giop_int8"] = int(self._int8)
        if self._estimated is not None:
            out["gflop_estimated"] = int(self._estimated)
        return out
