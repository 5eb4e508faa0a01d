"""Delivered FLOP of one GPU or MIG GPU instance, by GPM."""

from __future__ import annotations

from typing import Any

from collectors.contract.flop import FlopMethod, FlopWindow
from collectors.contract.models import GpuModel
from collectors.contract.source import UnsupportedError
from collectors.kit.clock import Clock
from collectors.nvml.api import Nvml
from collectors.nvml.gpm import ANY_TENSOR, DRAM, SM, GpmWindows

_NAMES = {SM: "sm_activity", ANY_TENSOR: "tensor_activity", DRAM: "dram_activity"}


class FlopMeter:
    """Activity of contiguous windows."""

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
        self._nvml, self._handle, self._clock = nvml, handle, clock
        self._longest_us = longest_us
        self._gpm: GpmWindows | None = None
        self.method, self.reason = FlopMethod.NONE, ""

    def window(
        self, sm_clock_mhz: float | None, power_w: float | None, max_clock_mhz: float | None
    ) -> tuple[dict[str, float], FlopWindow | None]:
        """Gauges of the window that ends now; UnsupportedError without GPM."""
        if self._gpm is None:
            if not self._nvml.gpm_supported(self._handle):
                raise UnsupportedError("GPM: not on this GPU")
            gpm = GpmWindows(self._nvml, self._handle, self._clock, self._longest_us)
            gpm.begin()
            self._gpm, self.method = gpm, FlopMethod.PIPE
            return {}, None
        ratios = self._gpm.next()
        return {_NAMES[metric]: value for metric, value in ratios.items()}, None

    def close(self) -> None:
        """Frees the samples."""
        gpm, self._gpm = self._gpm, None
        if gpm is not None:
            gpm.close()
