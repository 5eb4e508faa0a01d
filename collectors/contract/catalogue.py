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
    every_s: float = 0.0
    """How often an agent reads it, 0 for at each tick: what changes seldom is read seldom."""


_G, _C = Kind.GAUGE, Kind.COUNTER
_ANY = (0.0, float(COUNTER_LIMIT - 1))
_RATIO = (0.0, 1.0)


def _gauge(  # noqa: PLR0917 - a row of a table is read by its columns
    number: int,
    name: str,
    unit: str,
    valid: tuple[float, float],
    read: Read,
    decimals: int,
    shown: str,
    text: str,
    every_s: float = 0.0,
) -> Metric:
    return Metric(name, number, unit, text, valid, _G, read, decimals, shown=shown, every_s=every_s)


def _counter(
    number: int,
    name: str,
    unit: str,
    read: Read,
    reset: Reset,
    shown: str,
    text: str,
    every_s: float = 0.0,
) -> Metric:
    return Metric(
        name, number, unit, text, _ANY, _C, read, reset=reset, shown=shown, every_s=every_s
    )


def _moved(r575: int, r580_82: int) -> FieldRead:
    """The thermal times: absent up to R570, then two sets of field ids."""
    return FieldRead(None, 1e-3, branches=(((575, 0), r575), ((580, 82), r580_82)))


_CALL = CallRead
_SELDOM_S = 30.0
_FAN_S = 10.0
# fmt: off
_ROWS: tuple[Metric, ...] = (
    _gauge(16, "power_w", "W", (0, 3_000), FieldRead(186, 1e-3), 3, "power", "Board power draw, instantaneous."),
    _gauge(17, "power_average_w", "W", (0, 3_000), FieldRead(185, 1e-3), 3, "power", "Board power draw, one-second average by the driver."),
    _gauge(18, "power_limit_w", "W", (0, 3_000), _CALL("power_limit_w"), 1, "power", "Enforced board power limit.", _SELDOM_S),
    _gauge(19, "gpu_temperature_c", "°C", (-40, 150), _CALL("gpu_temperature_c"), 1, "temperature", "GPU core temperature."),
    _gauge(20, "memory_temperature_c", "°C", (-40, 150), FieldRead(82), 1, "temperature", "Memory temperature."),
    _gauge(21, "thermal_margin_c", "°C", (-100, 150), _CALL("thermal_margin_c"), 1, "temperature", "Headroom of the hottest sensor to the maximum operating temperature."),
    _gauge(22, "sm_clock_mhz", "MHz", (0, 5_000), _CALL("sm_clock_mhz"), 1, "clock", "SM clock."),
    _gauge(23, "memory_clock_mhz", "MHz", (0, 20_000), _CALL("memory_clock_mhz"), 1, "clock", "Memory clock."),
    _gauge(24, "gpu_utilization", "ratio", _RATIO, _CALL("gpu_utilization"), 4, "activity", "Fraction of time in which at least one kernel ran."),
    _gauge(25, "memory_utilization", "ratio", _RATIO, _CALL("memory_utilization"), 4, "activity", "Fraction of time in which memory was read or written."),
    _gauge(26, "memory_used_bytes", "B", (0, 2**42), _CALL("memory_used_bytes"), 0, "memory", "Memory in use, the driver's reserve not counted."),
    _gauge(27, "memory_total_bytes", "B", (0, 2**42), _CALL("memory_total_bytes"), 0, "memory", "Memory installed.", _SELDOM_S),
    _gauge(28, "sm_activity", "ratio", (0, 1.02), _CALL("sm_activity"), 4, "activity", "Fraction of SM cycles with at least one warp assigned."),
    _gauge(29, "tensor_activity", "ratio", (0, 1.02), _CALL("tensor_activity"), 4, "activity", "Fraction of SM cycles in which the tensor pipe was active."),
    _gauge(30, "dram_activity", "ratio", (0, 1.02), _CALL("dram_activity"), 4, "activity", "Fraction of cycles in which device memory was active."),
    _gauge(31, "fan_speed", "ratio", (0, 2), _CALL("fan_speed"), 4, "temperature", "Intended fan speed; passive boards have none.", _FAN_S),
    _gauge(32, "performance_state", "", (0, 15), _CALL("performance_state"), 0, "clock", "Performance state, 0 the highest."),
    _gauge(33, "recovery_action", "", (0, 15), FieldRead(230), 0, "", "Recovery the driver asks for: 0 none, 1 reset, 2 reboot, 3 drain.", _SELDOM_S),
    _gauge(34, "row_remap_pending", "", (0, 1), FieldRead(144), 0, "", "A row remap waits for a reset.", _SELDOM_S),
    _gauge(35, "row_remap_failure", "", (0, 1), FieldRead(145), 0, "", "A row remap has failed.", _SELDOM_S),
    _gauge(36, "sm_clock_mean_mhz", "MHz", (0, 5_000), Own(), 1, "clock", "Mean SM clock over the window in which FLOP were measured."),
    _gauge(37, "flop_method", "", (0, 15), Own(), 0, "", "How FLOP are found: 0 not at all, 1 gpm_cycles, 2 gpm_pipe, 3 dcgm_pipe, 4 util_clock (an estimate)."),
    _gauge(38, "flop_flags", "", (0, 2**24 - 1), Own(), 0, "", "What is doubtful about the FLOP of the window, a sum of bits (see the agent's page)."),
    _gauge(39, "fp64_activity", "ratio", (0, 1.02), _CALL("fp64_activity"), 4, "activity", "Fraction of SM cycles in which the FP64 pipe was active."),
    _gauge(40, "fp32_activity", "ratio", (0, 1.02), _CALL("fp32_activity"), 4, "activity", "Fraction of SM cycles in which the FP32 pipe was active."),
    _gauge(41, "fp16_activity", "ratio", (0, 1.02), _CALL("fp16_activity"), 4, "activity", "Fraction of SM cycles in which the FP16 pipe (not tensor) was active."),
    _gauge(42, "tensor_fp64_activity", "ratio", (0, 1.02), _CALL("tensor_fp64_activity"), 4, "activity", "Fraction of SM cycles in which the tensor pipe worked in FP64."),
    _gauge(43, "tensor_int8_activity", "ratio", (0, 1.02), _CALL("tensor_int8_activity"), 4, "activity", "Fraction of SM cycles in which the tensor pipe worked on integers."),
    _gauge(44, "sm_occupancy", "ratio", (0, 1.02), _CALL("sm_occupancy"), 4, "activity", "Resident warps as a fraction of the most that fit."),
    _gauge(45, "clocks_event_reasons", "", (0, 2**24 - 1), _CALL("clocks_event_reasons"), 0, "throttle", "Why clocks are lowered now, the driver's bits: 4 power cap, 8 hardware, 32 software thermal, 64 hardware thermal, 128 power brake."),
    _gauge(46, "processes", "", (0, 100_000), Own(), 0, "activity", "Processes that compute on the GPU.", 10.0),
    _gauge(47, "pcie_link_generation", "", (0, 15), _CALL("pcie_link_generation"), 0, "", "PCIe generation in use.", _SELDOM_S),
    _gauge(48, "pcie_link_width", "", (0, 64), _CALL("pcie_link_width"), 0, "", "PCIe lanes in use.", _SELDOM_S),
    _gauge(49, "power_allocated_w", "W", (0, 3_000), _CALL("power_allocated_w"), 3, "power", "A MIG instance's part of its GPU's power, allocated by activity: not measured."),
    _gauge(50, "retired_page_pending", "", (0, 1), FieldRead(31), 0, "", "A page retirement waits for a reset (before Ampere).", _SELDOM_S),
    _gauge(51, "power_module_w", "W", (0, 10_000), FieldRead(186, 1e-3, scope=1), 3, "power", "Power of the whole module, CPU included, where GPUs are on one (Grace)."),
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
    _counter(77, "ecc_corrected", "", _CALL("ecc_corrected"), Reset.DEVICE, "health", "Corrected memory errors, volatile.", _SELDOM_S),
    _counter(78, "ecc_uncorrected", "", _CALL("ecc_uncorrected"), Reset.DEVICE, "health", "Uncorrected memory errors, volatile.", _SELDOM_S),
    _counter(79, "pcie_replay", "", FieldRead(94), Reset.DEVICE, "health", "PCIe replays.", _SELDOM_S),
    _counter(80, "gflop_measured_us", "µs", Own(), Reset.RUN, "", "Time whose FLOP were measured: its share is the coverage of `gflop`."),
    _counter(81, "energy_allocated_mj", "mJ", _CALL("energy_allocated_mj"), Reset.DEVICE, "", "A MIG instance's part of its GPU's energy, allocated by activity: not measured."),
    _counter(82, "pcie_tx_bytes", "B", _CALL("pcie_tx_bytes"), Reset.DEVICE, "traffic", "Bytes sent over PCIe."),
    _counter(83, "pcie_rx_bytes", "B", _CALL("pcie_rx_bytes"), Reset.DEVICE, "traffic", "Bytes received over PCIe."),
    _counter(84, "nvlink_tx_bytes", "B", _CALL("nvlink_tx_bytes"), Reset.DEVICE, "traffic", "Bytes sent over all NVLinks."),
    _counter(85, "nvlink_rx_bytes", "B", _CALL("nvlink_rx_bytes"), Reset.DEVICE, "traffic", "Bytes received over all NVLinks."),
    _counter(86, "nvlink_errors", "", _CALL("nvlink_errors"), Reset.DEVICE, "health", "NVLink replays, recoveries and CRC errors, all links.", _SELDOM_S),
    _counter(87, "row_remap_corrected", "", FieldRead(142), Reset.DEVICE, "health", "Rows remapped for corrected errors.", _SELDOM_S),
    _counter(88, "row_remap_uncorrected", "", FieldRead(143), Reset.DEVICE, "health", "Rows remapped for uncorrected errors.", _SELDOM_S),
    _counter(89, "gflop_fp64", "GFLOP", Own(), Reset.RUN, "flops", "FLOP of the FP64 tensor pipe; not in `gflop`."),
    _counter(90, "giop_int8", "Gop", Own(), Reset.RUN, "flops", "Operations of the integer tensor pipe: not FLOP, not in `gflop`."),
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
