"""What the driver's calls cost, and what its cycle counters say: parts of `benchmarks.gpu`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, Protocol

from collectors.contract.source import DeviceLostError, TransientError, UnsupportedError
from collectors.kit.clock import SystemClock
from collectors.nvml import gpm
from collectors.nvml.api import Nvml
from collectors.nvml.clocks import ClockBuffer
from collectors.nvml.cycles import ANY, ELAPSED, IDS
from collectors.nvml.device import NvmlDevice
from collectors.nvml.gpm import GpmWindows

_TIMES = 200
_LONGEST_US = 60_000_000
_CLOCK_SM = 1


class Works(Protocol):
    """A load that can be begun."""

    def go(self) -> None:
        """Begins."""
        ...

    @property
    def works(self) -> bool:
        """Whether it still does."""
        ...


def call_costs(nvml: Nvml, device: NvmlDevice) -> Iterator[dict[str, Any]]:
    """Median and longest time of single calls, and of a whole reading, µs."""
    handle = device.handle
    yield _cost("a whole reading", device.read)
    yield _cost("nvmlDeviceGetClockInfo", lambda: nvml.number("nvmlDeviceGetClockInfo", handle, 1))
    for name in (
        "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMigMode",
    ):  # fmt: skip
        yield _cost(name, lambda name=name: nvml.ask(name, handle))
    buffer = ClockBuffer(nvml, handle, SystemClock())
    yield _cost("nvmlDeviceGetSamples (SM clock)", buffer.take)
    yield from _gpm_costs(nvml, handle)


def _gpm_costs(nvml: Nvml, handle: Any) -> Iterator[dict[str, Any]]:
    try:
        samples = [nvml.gpm_alloc(), nvml.gpm_alloc()]
    except UnsupportedError:
        return
    activities = nvml.gpm_request((gpm.SM, gpm.ANY_TENSOR, gpm.HMMA, gpm.DRAM))
    cycles = nvml.gpm_request(IDS)
    for one in samples:
        yield _cost("nvmlGpmSampleGet", lambda one=one: nvml.gpm_sample(handle, one))
        time.sleep(0.2)
    for name, request in (("4 activities", activities), ("6 cycle counters", cycles)):
        yield _cost(f"nvmlGpmMetricsGet ({name})", lambda request=request: request.values(*samples))
    for one in samples:
        nvml.gpm_free(one)


def _cost(name: str, call: Callable[[], object]) -> dict[str, Any]:
    took: list[float] = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        try:
            call()
        except (UnsupportedError, TransientError, DeviceLostError) as error:
            return {"call": name, "not_given": str(error)}
        took.append((time.perf_counter() - began) * 1e6)
    return {"call": name, "median_us": round(median(took), 1), "longest_us": round(max(took), 1)}


def cycle_rows(nvml: Nvml, handle: Any, load: Works) -> Iterator[dict[str, Any]]:
    """Windows of a second while a load works: what each counter gave, and by what factor its
    growth differs from the clock, if it is a total and if it is a difference."""
    windows = GpmWindows(nvml, handle, SystemClock(), _LONGEST_US)
    windows.begin()
    request = windows.request(IDS)
    before: dict[int, float] = {}
    load.go()
    while load.works:
        time.sleep(1.0)
        window = windows.next()
        if window is None:
            continue
        values = windows.also(request, IDS)
        if ELAPSED not in values:
            yield {"not_given": "metric 248: this driver has no cycle counters"}
            break
        mhz = nvml.number("nvmlDeviceGetClockInfo", handle, _CLOCK_SM)
        yield _cycle_row(window, values, before, mhz)
        before = values
    windows.close()


def _cycle_row(
    window: gpm.Window, values: dict[int, float], before: dict[int, float], mhz: int
) -> dict[str, Any]:
    passed = mhz * window.elapsed_us
    grown = values[ELAPSED] - before.get(ELAPSED, math.nan)
    pipe = values.get(ANY, math.nan) - before.get(ANY, math.nan)
    return {
        "elapsed_us": window.elapsed_us, "sm_clock_mhz": mhz,
        **{f"m{number}": value for number, value in sorted(values.items())},
        "as_total_per_clock": round(grown / passed, 4) if passed else None,
        "as_difference_per_clock": round(values[ELAPSED] / passed, 4) if passed else None,
        "tensor_by_cycles": round(pipe / grown, 4) if grown else None,
        "tensor_by_metric_5": round(window.metrics.get(gpm.ANY_TENSOR, math.nan) / 100, 4),
    }  # fmt: skip
