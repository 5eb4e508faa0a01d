"""Contiguous GPM windows of one GPU or GPU instance: each sample ends one and begins the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from collectors.kit.clock import Clock
from collectors.nvml.api import GpmRequest, Nvml

SM, OCCUPANCY, ANY_TENSOR, DFMA, HMMA, DMMA, IMMA, DRAM, FP64, FP32, FP16 = (
    2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13,
)  # fmt: skip
"""Metric ids of nvml.h, in percent."""
PCIE_TX, PCIE_RX, NVLINK_RX, NVLINK_TX = 20, 21, 60, 61
"""In MiB/s."""
_ACTIVITIES = (SM, OCCUPANCY, ANY_TENSOR, DFMA, HMMA, DMMA, IMMA, DRAM, FP64, FP32, FP16)
_SHORTEST_US = 200_000
"""The header asks for more than 100 ms between samples; a shorter window's stamps are too
coarse for it."""


class Window(NamedTuple):
    """One window; `metrics` by id as the driver gives them (percent, MiB/s, cycles), without
    what has no value."""

    elapsed_us: int
    metrics: dict[int, float]
    contiguous: bool = True
    """False after a gap: the window's start is known, but too long ago to be believed."""


class GpmWindows:
    """Ping-pong of two samples.  A window longer than `longest_us` is not used."""

    def __init__(
        self,
        nvml: Nvml,
        handle: Any,
        clock: Clock,
        longest_us: int,
        gpu_instance: int | None = None,
    ) -> None:
        self._nvml, self._handle, self._clock = nvml, handle, clock
        self._longest_us, self._gpu_instance = longest_us, gpu_instance
        self._samples: list[Any] = []
        self._began_us = 0
        self._request: GpmRequest | None = None
        self._ids: Sequence[int] = ()

    def begin(self) -> None:
        """Takes the first sample, which is the probe of what the driver says that it can: a
        fraction of a GPU in a virtual machine may be told of GPM and have none.

        Raises UnsupportedError where it cannot ever, and as `Device.read`.
        """
        traffic = (NVLINK_RX, NVLINK_TX) if self._gpu_instance is None else ()
        self._ask_for((*_ACTIVITIES, *traffic))
        if not self._samples:
            self._samples = [self._nvml.gpm_alloc()]
            self._samples.append(self._nvml.gpm_alloc())
        self._began_us = self._take(self._samples[0])

    def _ask_for(self, ids: Sequence[int]) -> None:
        self._ids, self._request = ids, self._nvml.gpm_request(ids)

    def _take(self, sample: Any) -> int:
        """Takes a sample; returns when, in the middle of the call."""
        before_us = self._clock.monotonic_us()
        self._nvml.gpm_sample(self._handle, sample, self._gpu_instance)
        return (before_us + self._clock.monotonic_us()) // 2

    def next(self) -> Window | None:
        """The window that ends now; None while it is too short: it goes on.

        A sample that fails leaves the window open, and the next one that comes
        ends it.  Raises as `Device.read`, and UnsupportedError.
        """
        request = self._request
        if request is None or self._clock.monotonic_us() - self._began_us < _SHORTEST_US:
            return None
        older, newer = self._samples
        ended_us = self._take(newer)
        self._samples = [newer, older]
        elapsed_us, self._began_us = ended_us - self._began_us, ended_us
        if elapsed_us > self._longest_us:
            return Window(elapsed_us, {}, contiguous=False)
        return Window(elapsed_us, self._known(request, self._ids))

    def _known(self, request: GpmRequest, ids: Sequence[int]) -> dict[int, float]:
        """Metrics between the last two samples that have a value."""
        newer, older = self._samples
        known = dict(zip(ids, request.values(older, newer), strict=True))
        if math.isnan(sum(known.values())):
            known = {metric: value for metric, value in known.items() if not math.isnan(value)}
        return known

    def also(self, request: GpmRequest, ids: Sequence[int]) -> dict[int, float]:
        """More metrics of the window that has just ended."""
        return self._known(request, ids)

    def request(self, ids: Sequence[int]) -> GpmRequest:
        """A question for `also`."""
        return self._nvml.gpm_request(ids)

    def trade_traffic(self) -> None:
        """Asks for PCIe's traffic in NVLink's place, on a board that has no NVLink."""
        self._ask_for((*_ACTIVITIES, PCIE_TX, PCIE_RX))

    def close(self) -> None:
        """Frees the samples; to be called before NVML is shut down."""
        samples, self._samples, self._request = self._samples, [], None
        for sample in samples:
            self._nvml.gpm_free(sample)
