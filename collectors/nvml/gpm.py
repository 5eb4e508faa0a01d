"""Contiguous GPM windows of one device: each sample ends one window and begins the next."""

from __future__ import annotations

from typing import Any

from collectors.kit.clock import Clock
from collectors.nvml.api import Nvml

SM, ANY_TENSOR, DRAM = 2, 5, 10
"""Metric ids of nvml.h: SM activity, any tensor pipe, DRAM bandwidth; percent."""
_METRICS = (SM, ANY_TENSOR, DRAM)
_SHORTEST_US = 100_000
"""The header asks for samples more than 100 ms apart."""


class GpmWindows:
    """Ping-pong of two samples.  A window longer than `longest_us` is not used."""

    def __init__(self, nvml: Nvml, handle: Any, clock: Clock, longest_us: int) -> None:
        self._nvml, self._handle, self._clock = nvml, handle, clock
        self._longest_us = longest_us
        self._samples: list[Any] = []
        self._request: Any = None
        self._began_us = 0

    def begin(self) -> None:
        """Takes the first sample.  Raises UnsupportedError where it cannot ever."""
        self._samples = [self._nvml.gpm_alloc(), self._nvml.gpm_alloc()]
        self._request = self._nvml.gpm_request(_METRICS)
        self._sample(0)

    def _sample(self, which: int) -> None:
        self._nvml.gpm_sample(self._handle, self._samples[which])
        self._began_us = self._clock.monotonic_us()

    def next(self) -> dict[int, float]:
        """Ratios by metric id since the last call; NaN for what has none, empty at once
        after `begin` and after a gap."""
        began_us = self._began_us
        if self._clock.monotonic_us() - began_us < _SHORTEST_US:
            return {}
        # A sample that fails leaves the window open: the next one that comes ends it.
        self._sample(1)
        older, newer = self._samples
        self._samples = [newer, older]
        if self._began_us - began_us > self._longest_us:
            return {}
        ratios = self._nvml.gpm_ratios(self._request, older, newer)
        return dict(zip(_METRICS, ratios, strict=True))

    def close(self) -> None:
        """Frees the samples; to be called before NVML is shut down."""
        for sample in self._samples:
            self._nvml.gpm_free(sample)
        self._samples = []
