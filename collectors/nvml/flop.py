"""Delivered FLOP of one GPU or MIG GPU instance, and the activities beside them, by GPM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collectors.contract.flop import FlopFlag, FlopMethod, FlopWindow
from collectors.contract.models import GpuModel
from collectors.contract.source import TransientError, UnsupportedError
from collectors.kit import flops
from collectors.kit.clock import Clock
from collectors.nvml import gpm
from collectors.nvml.api import GpmRequest, Nvml
from collectors.nvml.clocks import ClockBuffer
from collectors.nvml.cycles import IDS, Context, CycleCounters

_GAUGES = {
    gpm.SM: "sm_activity", gpm.OCCUPANCY: "sm_occupancy", gpm.ANY_TENSOR: "tensor_activity",
    gpm.DRAM: "dram_activity", gpm.FP64: "fp64_activity", gpm.FP32: "fp32_activity",
    gpm.FP16: "fp16_activity", gpm.IMMA: "tensor_int8_activity",
}  # fmt: skip
_TRAFFIC = {
    gpm.NVLINK_TX: "nvlink_tx_mib_s", gpm.NVLINK_RX: "nvlink_rx_mib_s",
    gpm.PCIE_TX: "pcie_tx_mib_s", gpm.PCIE_RX: "pcie_rx_mib_s",
}  # fmt: skip
_SM, _ANY, _HMMA, _IMMA, _DFMA, _DMMA = (
    gpm.SM, gpm.ANY_TENSOR, gpm.HMMA, gpm.IMMA, gpm.DFMA, gpm.DMMA
)  # fmt: skip
_DISAGREEMENT = 0.05
_WORTH_COMPARING = 0.001
"""Activity below which two methods may differ by what they round."""
_MISSING_AT_MOST = 3
_COVERED_AT_LEAST = 0.5
"""Buffered clock readings that cover less of a window are not taken as its course."""
_NONE, _PIPE = FlopMethod.NONE, FlopMethod.PIPE
_NO_FLAGS, _MOVING = FlopFlag.NONE, FlopFlag.CLOCK_MOVING
"""By names of their own, since looking members up in their enumeration is slow."""


class FlopMeter:
    """Windows of one device; `gpu_instance` chooses one of `handle`'s MIG GPU instances.

    `method` and `reason` (why it is not a better one) are for facts.
    """

    def __init__(
        self,
        nvml: Nvml,
        handle: Any,
        clock: Clock,
        model: GpuModel | None,
        sm_count: int | None,
        longest_us: int,
        gpu_instance: int | None = None,
    ) -> None:
        self._nvml, self._handle = nvml, handle
        self._model, self._sm_count = model, sm_count
        self._gpm = gpm.GpmWindows(nvml, handle, clock, longest_us, gpu_instance)
        self._cycles = CycleCounters(sm_count or (model.sm_count if model is not None else None))
        self._cycles_request: GpmRequest | None = None
        whole = gpu_instance is None
        self._buffer = ClockBuffer(nvml, handle, clock) if whole else None
        self._power = flops.PowerCheck(model.tdp_w if model is not None and whole else None)
        self._begun = self._traffic_known = False
        self._missing = 0
        self._clock_mhz: float | None = None
        self._rates: flops.Rates | None = None
        self._max_clock_mhz: float | None = None
        self.method, self.reason = FlopMethod.NONE, ""

    def window(
        self, sm_clock_mhz: float | None, power_w: float | None, max_clock_mhz: float | None
    ) -> tuple[dict[str, float], FlopWindow | None]:
        """Gauges and FLOP of the window that ends now.

        Gauges are by catalogue name (ratios), and traffic as `nvlink_tx_mib_s`
        and the like.  The FLOP window is None where nothing can ever be said
        (an unknown model), and one of no time where this tick says nothing.
        Raises as `Device.read`, and UnsupportedError where there is no GPM.
        """
        self._know(max_clock_mhz)
        one = self._next(sm_clock_mhz)
        if one is None:
            return {}, self._nothing()
        clock = self._clock(sm_clock_mhz, one)
        if not one.contiguous:
            self._cycles.skip()
            return {}, self._nothing(FlopFlag.WINDOW_REJECTED)
        self._settle(one.metrics)
        return _gauges(one.metrics), self._flop(one, clock, power_w)

    def _know(self, max_clock_mhz: float | None) -> None:
        """Rates for the clock limit that the device states; whoever states none is believed."""
        if self._begun and max_clock_mhz == self._max_clock_mhz:
            return
        self._max_clock_mhz = max_clock_mhz
        self._rates = flops.rates_of(self._model, self._sm_count, max_clock_mhz)
        if self._begun:
            self._say()

    def _next(self, sm_clock_mhz: float | None) -> gpm.Window | None:
        try:
            if self._begun:
                return self._gpm.next()
            if not self._nvml.gpm_supported(self._handle):
                raise UnsupportedError("GPM: this GPU has none (older than Hopper, or virtual)")
            self._gpm.begin()
        except UnsupportedError as error:
            self.method, self.reason = FlopMethod.NONE, str(error)
            raise
        except TransientError:
            self._cycles.skip()
            raise
        self._begun, self._clock_mhz = True, sm_clock_mhz
        if self._buffer is not None:
            self._buffer.take()  # what was before the first window is none of it
        self._say()
        return None

    def _say(self) -> None:
        """What facts tell."""
        if self._rates is None:
            model = self._model
            self.method = FlopMethod.NONE
            self.reason = (
                "the model is not known" if model is None
                else f"the model table has no FLOP per clock of {model.key}"
            )  # fmt: skip
        elif self._missing >= _MISSING_AT_MOST:
            self.method, self.reason = FlopMethod.NONE, "GPM gives no tensor activity"
        elif self._cycles.reading is not None:
            self.method, self.reason = FlopMethod.CYCLES, ""
        else:
            self.method, self.reason = FlopMethod.PIPE, self._cycles.reason

    def _nothing(self, flags: FlopFlag = _NO_FLAGS) -> FlopWindow | None:
        """The window is not over, or does not count; None where none ever will."""
        if self.method is _NONE:
            return None
        return flops.uncounted(self.method, flags)

    def _settle(self, metrics: Mapping[int, float]) -> None:
        """Follows what the driver turns out to give."""
        if not self._traffic_known:
            self._traffic_known = True
            if not {gpm.NVLINK_TX, gpm.NVLINK_RX} & metrics.keys():
                self._gpm.trade_traffic()
        missing = 0 if _ANY in metrics else min(self._missing + 1, _MISSING_AT_MOST)
        if missing != self._missing:
            self._missing = missing
            self._say()

    def _clock(self, now_mhz: float | None, window: gpm.Window) -> flops.ClockSpan | None:
        """By both ends, and by what the driver has noted down between them."""
        before_mhz, self._clock_mhz = self._clock_mhz, now_mhz
        if now_mhz is None:
            return None
        ends = flops.ends_clock(before_mhz, now_mhz)
        if self._buffer is None or not self._buffer.useful:
            return ends
        clocks, span_us = self._buffer.take(now_mhz)
        covered = min(1.0, span_us / window.elapsed_us)
        believed = covered >= _COVERED_AT_LEAST and max(clocks) <= self._most_mhz()
        return flops.buffered_clock(ends, clocks, covered) if believed else ends

    def _most_mhz(self) -> float:
        most = None if self._rates is None else self._rates.most_mhz
        return flops.AT_MOST * most if most is not None else float("inf")

    def _flop(
        self, one: gpm.Window, clock: flops.ClockSpan | None, power_w: float | None
    ) -> FlopWindow | None:
        rates, metrics = self._rates, one.metrics
        if rates is None or self.method is _NONE:
            return None
        if _ANY not in metrics or clock is None:
            self._cycles.skip()
            return self._nothing(FlopFlag.WINDOW_REJECTED)
        pipes = _pipes(metrics)
        found = flops.by_activity(_PIPE, rates, pipes, clock, one.elapsed_us)
        exact = self._by_cycles(rates, pipes, clock, one.elapsed_us)
        if exact is not None:
            found = _chosen(found, exact, pipes.any)
        sm = metrics.get(_SM)
        doubt = self._power.flags(pipes.any, None if sm is None else sm / 100, power_w)
        return found._replace(flags=found.flags | doubt) if doubt else found

    def _by_cycles(
        self, rates: flops.Rates, pipes: flops.Pipes, clock: flops.ClockSpan, elapsed_us: int
    ) -> FlopWindow | None:
        """A second request per window, and only where the counters are used or tried."""
        counters = self._cycles
        if not counters.wanted(pipes.any):
            counters.skip()
            return None
        if self._cycles_request is None:
            self._cycles_request = self._gpm.request(IDS)
        try:
            values = self._gpm.also(self._cycles_request, IDS)
        except TransientError:
            counters.skip()
            return None
        except UnsupportedError:
            values = {}
        most_mhz = rates.most_mhz or 2 * clock.high_mhz
        moved = (clock.high_mhz - clock.low_mhz) / clock.mean_mhz if clock.mean_mhz else 1.0
        context = Context(elapsed_us, clock.mean_mhz, most_mhz, moved, pipes.any)
        before, cycles = counters.reason, counters.take(values, context)
        if counters.reason != before:
            self._say()
        if cycles is None:
            return None
        return flops.by_cycles(rates, cycles.pipes, cycles.elapsed, elapsed_us)

    def close(self) -> None:
        """Frees the samples; to be called before NVML is shut down."""
        self._begun = False
        self._gpm.close()


def _chosen(by_activity: FlopWindow, by_cycles: FlopWindow, tensor: float) -> FlopWindow:
    """The cycles, which need no clock, unless both differ by more than 5 %, or by more than the
    activity's own bound where the clock has moved."""
    if by_activity.elapsed_us and by_cycles.elapsed_us:
        one, other = by_activity.gflop, by_cycles.gflop
        flags = by_activity.flags
        own = by_activity.hi - one if flags and flags & _MOVING else 0.0
        most = max(own, _DISAGREEMENT * max(one, other))
        if abs(other - one) <= most or tensor < _WORTH_COMPARING:
            return by_cycles
    return by_activity._replace(flags=by_activity.flags | FlopFlag.METHODS_DISAGREE)


def _pipes(metrics: Mapping[int, float]) -> flops.Pipes:
    half, integer, double = metrics.get(_HMMA), metrics.get(_IMMA), _doubles(metrics)
    return flops.Pipes(
        metrics[_ANY] / 100, None if half is None else half / 100,
        None if integer is None else integer / 100, None if double is None else double / 100,
    )  # fmt: skip


def _doubles(metrics: Mapping[int, float]) -> float | None:
    """The two pipes of FP64 together, in percent."""
    one, other = metrics.get(_DFMA), metrics.get(_DMMA)
    return other if one is None else one if other is None else one + other


def _gauges(metrics: Mapping[int, float]) -> dict[str, float]:
    gauges: dict[str, float] = {}
    for metric, value in metrics.items():
        name = _GAUGES.get(metric)
        if name is not None:
            gauges[name] = value / 100
        elif metric in _TRAFFIC:
            gauges[_TRAFFIC[metric]] = value
    double = _doubles(metrics)
    if double is not None:
        gauges["tensor_fp64_activity"] = double / 100
    return gauges
