"""What a FLOP meter says at each tick, as values of the device's sample."""

from __future__ import annotations

import logging

from collectors.contract.catalogue import CATALOGUE, CallRead
from collectors.contract.flop import FLOP_METHOD_NAMES, FlopFlag, FlopWindow
from collectors.contract.source import UnsupportedError
from collectors.nvml.fields import TRAFFIC
from collectors.nvml.flop import FlopMeter
from collectors.nvml.readings import Readings

_log = logging.getLogger(__name__)
_MIB = 2**20
_ELSEWHERE = TRAFFIC | {"nvlink_errors", "power_allocated_w", "energy_allocated_mj"}
_RATES = {
    "pcie_tx_bytes": "pcie_tx_mib_s", "pcie_rx_bytes": "pcie_rx_mib_s",
    "nvlink_tx_bytes": "nvlink_tx_mib_s", "nvlink_rx_bytes": "nvlink_rx_mib_s",
}  # fmt: skip
"""Rows of traffic → what the meter calls their rates, in MiB/s over its window."""


def measured_rows() -> frozenset[str]:
    """The catalogue's rows that come from the meter: those of no other reader."""
    return frozenset(
        metric.name
        for metric in CATALOGUE
        if isinstance(metric.read, CallRead)
        and metric.name not in _ELSEWHERE
        and not hasattr(Readings, metric.read.method)
    )


def _rejected(window: FlopWindow | None) -> bool:
    """Whether a window has ended without a value: what follows is another's."""
    return window is not None and bool(window.flags and window.flags & FlopFlag.WINDOW_REJECTED)


class Activity:
    """Keeps a meter until it turns out that the device has none of what it measures."""

    def __init__(self, meter: FlopMeter, max_clock_mhz: float | None) -> None:
        self._meter, self._max_clock_mhz = meter, max_clock_mhz
        self._rows = {name: CATALOGUE.by_name[name].valid for name in measured_rows()}
        self._missing = ""
        self._since_us: int | None = None

    def take(
        self, values: dict[str, float], now_us: int
    ) -> tuple[FlopWindow | None, dict[str, float]]:
        """Adds the gauges of the window that ends now to `values`; gives the window, and bytes
        moved within it by traffic's rows.  Raises as `Device.read`."""
        if self._missing:
            return None, {}
        try:
            gauges, window = self._meter.window(
                values.get("sm_clock_mhz"), values.get("power_w"), self._max_clock_mhz
            )
        except UnsupportedError as error:
            self._missing = str(error)
            _log.info("activity_unsupported reason=%s", error)
            return None, {}
        elapsed_s = 0.0 if self._since_us is None else (now_us - self._since_us) / 1e6
        if gauges or self._since_us is None or _rejected(window):
            self._since_us = now_us
        rows = self._rows
        for name, value in gauges.items():
            if name in rows:
                low, high = rows[name]
                if low <= value <= high:
                    values[name] = value
        moved = {
            row: gauges[rate] * _MIB * elapsed_s for row, rate in _RATES.items() if rate in gauges
        }
        return window, moved

    @property
    def method(self) -> str:
        """How FLOP are measured, as facts name it."""
        return FLOP_METHOD_NAMES[self._meter.method]

    @property
    def reason(self) -> str:
        """Why it is not a better method."""
        return self._missing or self._meter.reason

    def unsupported(self) -> dict[str, str]:
        """Rows that are not measured → why."""
        return dict.fromkeys(self._rows, self._missing) if self._missing else {}

    def close(self) -> None:
        """Frees the meter's samples; to be called before NVML is shut down."""
        self._meter.close()
