"""The one table of metrics: every other part reads its rows and none repeats them.

A new metric is one row here.  Sampling, the wire, validation, minutes, the
stores, `/metrics`, the API and the pages all follow it.  Code must read
`CATALOGUE` when an object is built, never copy it at import, so that a row
added later (`Catalogue.extended`) is seen.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

COUNTER_ABSENT = 2**64 - 1
"""A counter that could not be read, on the wire and in columns of `uint64`."""
COUNTER_LIMIT = 2**53
"""Counters stay below this, so that every consumer can hold them exactly."""


class Kind(Enum):
    """Gauges are 32-bit floats (absent is NaN), counters cumulative integers."""

    GAUGE = "gauge"
    COUNTER = "counter"


class Reset(Enum):
    """What a counter's value continues over; the ledger bridges by it."""

    RUN = "run"
    """Integrated by the agent: zero in a run's first record."""
    ENERGY = "energy"
    """The GPU's energy counter: continues while its epoch on the wire holds."""
    DEVICE = "device"
    """Read from the device: a fall is a reset."""


@dataclass(frozen=True, slots=True)
class FieldRead:
    """An NVML field id whose value times `scale` is the metric.

    `branches` overrides the id by driver branch, as ids have moved: the last
    pair whose (major, minor) is not above the driver's applies; None says
    that the branch has no such field.
    """

    field: int | None
    scale: float = 1.0
    scope: int = 0
    branches: tuple[tuple[tuple[int, int], int | None], ...] = ()


@dataclass(frozen=True, slots=True)
class CallRead:
    """A reading method of the NVML source, named so that it stays in one file."""

    method: str


@dataclass(frozen=True, slots=True)
class Own:
    """Integrated by the agent from event time; no call of its own."""


Read = FieldRead | CallRead | Own


@dataclass(frozen=True, slots=True)
class Metric:
    """One row: a quantity of one GPU slot.

    `valid` is the closed range outside which a value is rejected, in `unit`.
    `decimals` is how many digits after the point the stores keep of a gauge.
    `shown` names the pages' groups that offer it ("" for none).
    """

    name: str
    number: int
    unit: str
    help: str
    valid: tuple[float, float]
    kind: Kind
    read: Read
    decimals: int = 0
    reset: Reset = Reset.RUN
    shown: str = ""


_G, _C = Kind.GAUGE, Kind.COUNTER
_ANY = (0.0, float(COUNTER_LIMIT - 1))
_RATIO = (0.0, 1.0)


def _gauge(
    number: int,
    name: str,
    unit: str,
    valid: tuple[float, float],
    read: Read,
    decimals: int,
    shown: str,
    text: str,
) -> Metric:
    return Metric(name, number, unit, text, valid, _G, read, decimals, shown=shown)


def _counter(
    number: int, name: str, unit: str, read: Read, reset: Reset, shown: str, text: str
) -> Metric:
    return Metric(name, number, unit, text, _ANY, _C, read, reset=reset, shown=shown)


def _moved(r575: int, r580_82: int) -> FieldRead:
    """The thermal times: absent up to R570, then two sets of field ids."""
    return FieldRead(None, 1e-3, branches=(((575, 0), r575), ((580, 82), r580_82)))


_CALL = CallRead
# fmt: off
_ROWS: tuple[Metric, ...] = (
    _gauge(16, "power_w", "W", (0, 3_000), FieldRead(186, 1e-3), 3, "power", "Board power draw, instantaneous."),
    _gauge(17, "power_average_w", "W", (0, 3_000), FieldRead(185, 1e-3), 3, "power", "Board power draw, one-second average by the driver."),
    _gauge(18, "power_limit_w", "W", (0, 3_000), _CALL("power_limit_w"), 1, "power", "Enforced board power limit."),
    _gauge(19, "gpu_temperature_c", "°C", (-40, 150), _CALL("gpu_temperature_c"), 1, "temperature", "GPU core temperature."),
    _gauge(20, "memory_temperature_c", "°C", (-40, 150), FieldRead(82), 1, "temperature", "Memory temperature."),
    _gauge(21, "thermal_margin_c", "°C", (-100, 150), _CALL("thermal_margin_c"), 1, "temperature", "Headroom of the hottest sensor to the maximum operating temperature."),
    _gauge(22, "sm_clock_mhz", "MHz", (0, 5_000), _CALL("sm_clock_mhz"), 1, "clock", "SM clock."),
    _gauge(23, "memory_clock_mhz", "MHz", (0, 20_000), _CALL("memory_clock_mhz"), 1, "clock", "Memory clock."),
    _gauge(24, "gpu_utilization", "ratio", _RATIO, _CALL("gpu_utilization"), 4, "activity", "Fraction of time in which at least one kernel ran."),
    _gauge(25, "memory_utilization", "ratio", _RATIO, _CALL("memory_utilization"), 4, "activity", "Fraction of time in which memory was read or written."),
    _gauge(26, "memory_used_bytes", "B", (0, 2**42), _CALL("memory_used_bytes"), 0, "memory", "Memory in use, the driver's reserve not counted."),
    _gauge(27, "memory_total_bytes", "B", (0, 2**42), _CALL("memory_total_bytes"), 0, "memory", "Memory installed."),
    _gauge(28, "sm_activity", "ratio", (0, 1.02), _CALL("sm_activity"), 4, "activity", "Fraction of SM cycles with at least one warp assigned."),
    _gauge(29, "tensor_activity", "ratio", (0, 1.02), _CALL("tensor_activity"), 4, "activity", "Fraction of SM cycles in which the tensor pipe was active."),
    _gauge(30, "dram_activity", "ratio", (0, 1.02), _CALL("dram_activity"), 4, "activity", "Fraction of cycles in which device memory was active."),
    _gauge(31, "fan_speed", "ratio", (0, 2), _CALL("fan_speed"), 4, "temperature", "Intended fan speed; passive boards have none."),
    _gauge(32, "performance_state", "", (0, 15), _CALL("performance_state"), 0, "clock", "Performance state, 0 the highest."),
    _gauge(33, "recovery_action", "", (0, 15), FieldRead(230), 0, "", "Recovery the driver asks for: 0 none, 1 reset, 2 reboot, 3 drain."),
    _gauge(34, "row_remap_pending", "", (0, 1), FieldRead(144), 0, "", "A row remap waits for a reset."),
    _gauge(35, "row_remap_failure", "", (0, 1), FieldRead(145), 0, "", "A row remap has failed."),
    _counter(64, "energy_mj", "mJ", FieldRead(83), Reset.ENERGY, "energy", "Energy since the counter's epoch began."),
    _counter(65, "gflop", "GFLOP", Own(), Reset.RUN, "flops", "Delivered dense-FP16-equivalent hardware FLOP."),
    _counter(66, "gflop_lo", "GFLOP", Own(), Reset.RUN, "", "Lower bound of the measurement of `gflop`."),
    _counter(67, "gflop_hi", "GFLOP", Own(), Reset.RUN, "", "Upper bound of the measurement of `gflop`."),
    _counter(68, "gflop_estimated", "GFLOP", Own(), Reset.RUN, "flops", "FLOP estimated from utilisation and clock where nothing measures them; never in the headline."),
    _counter(69, "active_us", "µs", Own(), Reset.RUN, "activity", "Time observed with GPU utilisation of 5 % or more, or SM activity of 1 % or more."),
    _counter(70, "observed_us", "µs", Own(), Reset.RUN, "", "Time in which the GPU could be read, and whether it was active was known."),
    _counter(71, "down_us", "µs", Own(), Reset.RUN, "", "Time in which the slot was known and could not be read."),
    _counter(72, "throttle_power_cap_us", "µs", FieldRead(74, 1e-3), Reset.DEVICE, "throttle", "Time with clocks lowered by the power cap."),
    _counter(73, "throttle_sw_thermal_us", "µs", _moved(251, 269), Reset.DEVICE, "throttle", "Time with clocks lowered by software thermal slowdown."),
    _counter(74, "throttle_hw_thermal_us", "µs", _moved(252, 270), Reset.DEVICE, "throttle", "Time with clocks lowered by hardware thermal slowdown."),
    _counter(75, "throttle_power_brake_us", "µs", _moved(253, 271), Reset.DEVICE, "throttle", "Time with clocks lowered by the external power brake."),
    _counter(76, "throttle_sync_boost_us", "µs", FieldRead(76, 1e-3), Reset.DEVICE, "throttle", "Time with clocks lowered by sync boost."),
    _counter(77, "ecc_corrected", "", _CALL("ecc_corrected"), Reset.DEVICE, "health", "Corrected memory errors, volatile."),
    _counter(78, "ecc_uncorrected", "", _CALL("ecc_uncorrected"), Reset.DEVICE, "health", "Uncorrected memory errors, volatile."),
    _counter(79, "pcie_replay", "", FieldRead(94), Reset.DEVICE, "health", "PCIe replays."),
)
# fmt: on


class Catalogue:
    """The rows in wire order, with look-ups by name and kind."""

    def __init__(self, rows: tuple[Metric, ...]) -> None:
        self._set(rows)

    def _set(self, rows: tuple[Metric, ...]) -> None:
        rows = tuple(sorted(rows, key=lambda metric: metric.number))
        names = {metric.name for metric in rows}
        numbers = {metric.number for metric in rows}
        if len(names) != len(rows) or len(numbers) != len(rows):
            raise ValueError("metric names and field numbers must be unique")
        if rows and rows[0].number < 16:
            raise ValueError("field numbers below 16 belong to the header")
        self.metrics = rows
        self.by_name = {metric.name: metric for metric in rows}
        self.gauges = tuple(metric for metric in rows if metric.kind is Kind.GAUGE)
        self.counters = tuple(metric for metric in rows if metric.kind is Kind.COUNTER)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    @contextmanager
    def extended(self, *rows: Metric) -> Generator[Catalogue]:
        """Adds rows for as long as the context lasts; raises ValueError on a clash."""
        before = self.metrics
        self._set(before + rows)
        try:
            yield self
        finally:
            self._set(before)


CATALOGUE = Catalogue(_ROWS)
