"""Every signal through the fake driver: cadence, fallbacks, sentinels, traffic, limits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from fake_nvml import (
    DOUBLE,
    SINT,
    UINT,
    ULONGLONG,
    FakeGpu,
    FakeNvml,
    missing_in,
    of_branch,
    whole_h100,
)
from manual_clock import ManualClock

from collectors.contract.catalogue import CATALOGUE, CallRead, FieldRead, Kind
from collectors.contract.facts import GpuFacts
from collectors.contract.source import TransientError
from collectors.nvml.activity import measured_rows
from collectors.nvml.backend import NvmlBackend
from collectors.nvml.device import NvmlDevice
from collectors.nvml.fields import TRAFFIC
from collectors.nvml.readings import Readings


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def backend(clock: ManualClock) -> Iterator[NvmlBackend]:
    backend = NvmlBackend(clock)
    yield backend
    backend.close()


def opened(backend: NvmlBackend, fake: FakeNvml, gpu: FakeGpu, driver: str = "") -> NvmlDevice:
    fake.clock.set_us(10_000_000)
    fake.write([gpu], driver=driver or "580.95.05")
    backend.open()
    [device] = backend.devices()
    return device


def read(device: NvmlDevice) -> dict[str, float]:
    return dict(device.read()[0].values)


def facts(device: NvmlDevice) -> GpuFacts:
    return device.facts()[0]


def tick(clock: ManualClock, fake: FakeNvml, seconds: float = 1) -> None:
    clock.move(seconds)
    fake.clock.move(seconds)


def test_every_row_of_the_catalogue_has_a_reader() -> None:
    """A row without one would be absent for ever and nobody would know."""
    instances = {"power_allocated_w", "energy_allocated_mj"}
    calls = {m.name: m.read.method for m in CATALOGUE if isinstance(m.read, CallRead)}
    own = {name for name, method in calls.items() if hasattr(Readings, method)}
    assert calls.keys() == own | measured_rows() | TRAFFIC | instances | {"nvlink_errors"}
    assert {"sm_activity", "tensor_activity", "sm_occupancy"} <= measured_rows()


def test_a_whole_h100_gives_all_but_what_it_has_not(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    device = opened(backend, fake_nvml, whole_h100())
    first = read(device)
    tick(clock, fake_nvml)
    second = read(device)
    read_here = {m.name for m in CATALOGUE if isinstance(m.read, CallRead | FieldRead)}
    lacking = {"fan_speed", "retired_page_pending", "power_module_w"}
    instances = {"power_allocated_w", "energy_allocated_mj"}
    assert (
        first | second
    ).keys() - measured_rows() == read_here - lacking - instances - measured_rows()
    assert facts(device).unsupported.keys() >= lacking
    every_tick = {m.name for m in CATALOGUE if not m.every_s} | {"clocks_event_reasons"}
    assert second.keys() <= every_tick
    assert first["pcie_link_generation"] == 5
    assert first["nvlink_errors"] == 0


def test_seldom_rows_stand_in_the_sample_of_their_tick_only(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    device = opened(backend, fake_nvml, whole_h100())
    seen: dict[str, int] = {}
    for _ in range(121):
        for name in read(device):
            seen[name] = seen.get(name, 0) + 1
        tick(clock, fake_nvml)
    assert seen["power_w"] == 121
    for metric in CATALOGUE:
        if metric.every_s and metric.name in seen:
            assert seen[metric.name] in {4, 5, 6}, metric.name  # at first, then each 30 s


@pytest.mark.parametrize(
    ("number", "metric"), [(186, "power_w"), (82, "memory_temperature_c"), (94, "pcie_replay"),
                           (83, "energy_mj"), (74, "throttle_power_cap_us"), (197, "pcie_tx_bytes")]
)  # fmt: skip
@pytest.mark.parametrize(
    ("kind", "value"),
    [(UINT, 2**32 - 1), (ULONGLONG, 2**64 - 1), (ULONGLONG, 9.22337203685477e18),
     (ULONGLONG, 2**32 - 1), (DOUBLE, 1e308), (SINT, 2**31 - 1)],
)  # fmt: skip
def test_a_sentinel_is_no_value_and_no_end(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock,
    number: int, metric: str, kind: int, value: float,
) -> None:  # fmt: skip
    gpu = whole_h100()
    gpu.sets["integrate"] = 0
    good = gpu.fields[number]
    gpu.fields[number] = kind, value
    device = opened(backend, fake_nvml, gpu)
    assert metric not in read(device)
    gpu.fields[number] = good
    fake_nvml.write([gpu])
    for _ in range(31):
        tick(clock, fake_nvml)
        if metric in read(device):
            return
    pytest.fail(f"{metric} was not asked again")


@pytest.mark.parametrize(
    ("key", "value", "metric"),
    [("temperature", 2**32 - 1, "gpu_temperature_c"), ("sm_clock", 2**32 - 1, "sm_clock_mhz"),
     ("gpu_util", 101, "gpu_utilization"), ("gpu_util", 2**32 - 1, "gpu_utilization"),
     ("used", 2**32 - 1, "memory_used_bytes"), ("total", 2**63, "memory_total_bytes"),
     ("pstate", 32, "performance_state"), ("margin", -(2**31), "thermal_margin_c"),
     ("ecc_corrected", 2**32 - 1, "ecc_corrected"), ("ecc_uncorrected", 2**63, "ecc_uncorrected"),
     ("limit_mw", 2**32 - 1, "power_limit_w"), ("reasons", 2**63, "clocks_event_reasons"),
     ("pcie_width", 2**32 - 1, "pcie_link_width")],
)  # fmt: skip
def test_an_impossible_answer_of_a_call_is_no_value(
    fake_nvml: FakeNvml, backend: NvmlBackend, key: str, value: float, metric: str
) -> None:
    gpu = whole_h100()
    gpu.sets[key] = value
    device = opened(backend, fake_nvml, gpu)
    values = read(device)
    assert metric not in values
    assert values["power_w"] > 0
    assert metric not in facts(device).unsupported


def test_all_values_are_in_their_ranges_whatever_the_fields_hold(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    gpu = whole_h100()
    for number in list(gpu.fields):
        gpu.fields[number] = DOUBLE, math.nan if number % 2 else -1.0
    values = read(opened(backend, fake_nvml, gpu))
    for name, value in values.items():
        low, high = CATALOGUE.by_name[name].valid
        assert low <= value <= high
        assert isinstance(value, int) == (CATALOGUE.by_name[name].kind is Kind.COUNTER)


def test_permission_is_said_once_with_its_reason(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = whole_h100()
    gpu.fails = {"nvmlDeviceGetMarginTemperature": 4}
    gpu.field_errors = {230: 4}
    device = opened(backend, fake_nvml, gpu)
    for _ in range(40):
        assert "thermal_margin_c" not in read(device)
        tick(clock, fake_nvml)
    denied = [record.message for record in caplog.records if "metric_denied" in record.message]
    assert len(denied) == 2
    assert "no permission" in facts(device).unsupported["thermal_margin_c"]
    assert "no permission" in facts(device).unsupported["recovery_action"]


def test_pcie_counter_of_32_bits_is_followed_by_rates_where_there_are_some(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    gpu = whole_h100()
    gpu.sets["integrate"] = 0
    device = opened(backend, fake_nvml, gpu)
    before = read(device)["pcie_tx_bytes"]
    tick(clock, fake_nvml)
    gpu.fields[197] = ULONGLONG, 6 * 10**9
    fake_nvml.write([gpu])
    assert read(device)["pcie_tx_bytes"] - before == 5 * 10**9
    tick(clock, fake_nvml)
    gpu.fields[197] = ULONGLONG, 10**18  # garbled: no link carries that in a second
    fake_nvml.write([gpu])
    assert read(device)["pcie_tx_bytes"] - before == 5 * 10**9


@pytest.mark.parametrize(
    ("branch", "violations"), [((470, 57), True), ((535, 183), True), ((570, 86), True), ((580, 95), False)]
)  # fmt: skip
def test_older_drivers_count_throttled_time_their_own_way(
    fake_nvml: FakeNvml, backend: NvmlBackend, branch: tuple[int, int], violations: bool
) -> None:
    gpu = of_branch(whole_h100(), branch)
    gpu.sets["violation_1"] = 9_000_000
    gpu.field_errors = {74: 3} if violations else {}
    device = opened(backend, fake_nvml, gpu, f"{branch[0]}.{branch[1]}")
    values = read(device)
    assert values["throttle_power_cap_us"] == 2_500
    assert values["throttle_sw_thermal_us"] == (9_000 if violations else 7_000)
    assert ("throttle_hw_thermal_us" in values) == (not violations)
    assert ("throttle_hw_thermal_us" in facts(device).unsupported) == violations


def test_a_counter_is_not_continued_by_another(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    gpu = whole_h100()
    device = opened(backend, fake_nvml, gpu)
    assert read(device)["throttle_sw_thermal_us"] == 7_000
    gpu.field_errors = {269: 3, 83: 3}
    gpu.sets["violation_1"] = 10**12
    fake_nvml.write([gpu])
    tick(clock, fake_nvml)
    values = read(device)
    assert "throttle_sw_thermal_us" not in values
    assert "energy_mj" in values  # the same counter by its own call


def test_a_throttle_field_that_is_something_else_is_left_out(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    gpu = whole_h100()
    gpu.sets["reasons"] = 0x40
    device = opened(backend, fake_nvml, gpu)
    for _ in range(3):
        assert "throttle_hw_thermal_us" in read(device)
        tick(clock, fake_nvml)
    values = read(device)
    assert "throttle_hw_thermal_us" not in values
    assert "throttle_sw_thermal_us" in values
    assert "stands still" in facts(device).unsupported["throttle_hw_thermal_us"]


def test_a_reset_within_the_devices_life_ends_its_energy_epoch(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    gpu = whole_h100()
    gpu.timeline = [(15.0, "reset 0")]
    device = opened(backend, fake_nvml, gpu)
    epochs: list[int] = []
    for _ in range(10):
        sample = device.read()[0]
        assert sample.energy_epoch == device.energy_epoch
        epochs.append(sample.energy_epoch)
        tick(clock, fake_nvml)
    assert epochs[0] == epochs[4] != epochs[5] == epochs[9]


@pytest.mark.parametrize(
    ("older", "limits"),
    [
        (False, {"slowdown_margin_c": -2, "shutdown_margin_c": -8, "memory_max_margin_c": 0,
                 "gpu_max_margin_c": 0}),
        (True, {"shutdown_temperature_c": 95, "slowdown_temperature_c": 92,
                "gpu_max_temperature_c": 85}),
    ],
)  # fmt: skip
def test_limits_are_distances_since_ada_and_degrees_before(
    fake_nvml: FakeNvml, backend: NvmlBackend, older: bool, limits: dict[str, float]
) -> None:
    gpu = whole_h100()
    if older:
        gpu.field_errors = dict.fromkeys((193, 194, 195, 196, 187, 188, 189), 3)
        gpu.sets |= {
            "threshold_0": 95,
            "threshold_1": 92,
            "threshold_2": 2**32 - 1,
            "threshold_3": 85,
        }
    device = opened(backend, fake_nvml, gpu)
    read(device)
    found = facts(device).limits
    assert {name: value for name, value in found.items() if name.endswith("_c")} == limits
    assert found["default_power_limit_w"] == 700
    assert (found["min_power_limit_w"], found["max_power_limit_w"]) == (200, 700)
    assert found["max_sm_clock_mhz"] == 1980


@pytest.mark.parametrize(
    ("cores", "name", "pci", "sms"),
    [
        (132 * 128, "NVIDIA H100 80GB HBM3", 0x2330_10DE, 132),
        (114 * 128, "NVIDIA H100 80GB HBM3", 0x2330_10DE, 114),  # a harvested part
        (None, "NVIDIA H100 80GB HBM3", 0x2330_10DE, 132),
        (132 * 128 + 1, "NVIDIA H100 80GB HBM3", 0x2330_10DE, 132),  # no such number
        (132 * 128, "NVIDIA of another name", 0x2330_10DE, 132),
        (100 * 128, "NVIDIA unknown", 0x1234_10DE, 100),  # by compute capability 9.0
        (None, "NVIDIA unknown", 0x2330_1234, None),  # another maker's number
    ],
)
def test_sm_count(
    fake_nvml: FakeNvml, backend: NvmlBackend, cores: int | None, name: str, pci: int, sms: int | None
) -> None:  # fmt: skip
    gpu = whole_h100()
    gpu.name, gpu.pci = name, pci
    if cores is None:
        del gpu.sets["cores"]
    else:
        gpu.sets["cores"] = cores
    device = opened(backend, fake_nvml, gpu)
    read(device)
    assert facts(device).sm_count == sms
    assert device.labels.model == name


def test_persistence_mode_off_is_said(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    gpu = whole_h100(minor=3)
    gpu.sets["persistence"] = 0
    device = opened(backend, fake_nvml, gpu)
    read(device)
    assert "nvidia-persistenced" in facts(device).unsupported["persistence_mode"]
    assert facts(device).number == 3


@pytest.mark.parametrize(
    ("kept", "scoped", "expected"),
    [
        ({38: 1, 45: 2, 52: 3, 59: 4}, {}, 10),
        ({52: 3, 59: 4}, {}, 7),
        (
            {91: 2},
            {(161, 0): 1, (161, 1): 5, (162, 0): 0, (162, 1): 0, (163, 0): 2, (163, 1): 0},
            8,
        ),
        ({91: 2}, {(208, 0): 1, (208, 1): 2, (215, 0): 4, (215, 1): 8}, 15),
        ({91: 0, 38: 7}, {}, None),
        ({}, {}, None),
    ],
)
def test_nvlink_errors_by_generation(
    fake_nvml: FakeNvml, backend: NvmlBackend,
    kept: dict[int, int], scoped: dict[tuple[int, int], int], expected: int | None,
) -> None:  # fmt: skip
    gpu = whole_h100()
    for number in (38, 45, 52, 59, 91):
        gpu.fields.pop(number)
    gpu.fields |= {number: (ULONGLONG, value) for number, value in kept.items()}
    for (number, link), value in scoped.items():
        if link:
            gpu.scoped[number, link] = ULONGLONG, value
        else:
            gpu.fields[number] = ULONGLONG, value
    device = opened(backend, fake_nvml, gpu)
    assert read(device).get("nvlink_errors") == expected
    assert ("nvlink_errors" in facts(device).unsupported) == (expected is None)


def test_nvlink_bytes_by_generation_and_not_of_a_divided_gpu(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    gpu = whole_h100()
    gpu.field_errors = {139: 3}
    gpu.fields[204] = ULONGLONG, 777
    gpu.gpm = {}
    gpu.timeline = [(20.0, "set mig 1")]
    device = opened(backend, fake_nvml, gpu)
    read(device)  # asks for the one, and is told that there is only the other
    tick(clock, fake_nvml)
    values = read(device)
    assert (values["nvlink_tx_bytes"], values["nvlink_rx_bytes"]) == (10**6 * 1024, 777)
    for _ in range(61):
        tick(clock, fake_nvml)
        values = read(device)
    assert not {"nvlink_tx_bytes", "nvlink_rx_bytes", "gpu_utilization"} & values.keys()
    assert "MIG" in facts(device).unsupported["nvlink_tx_bytes"]


def test_traffic_that_no_field_gives_is_summed_from_rates(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    gpu = whole_h100()
    gpu.field_errors = dict.fromkeys((138, 139, 202, 204), 3)
    device = opened(backend, fake_nvml, gpu)
    for _ in range(3):
        read(device)
        tick(clock, fake_nvml)
    before = read(device)
    tick(clock, fake_nvml, 0.1)  # too short for a window: it goes on
    read(device)
    tick(clock, fake_nvml, 0.9)
    values = read(device)
    assert values["nvlink_rx_bytes"] - before["nvlink_rx_bytes"] == pytest.approx(90_000 * 2**20)
    assert values["nvlink_tx_bytes"] - before["nvlink_tx_bytes"] == pytest.approx(91_000 * 2**20)
    assert not {"nvlink_tx_bytes", "nvlink_rx_bytes"} & facts(device).unsupported.keys()
    assert values["pcie_tx_bytes"] == 10**9  # by its own field, not by rates as well


def test_what_mig_took_comes_back_with_its_end(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    gpu = whole_h100()
    gpu.sets["mig"] = 1
    gpu.timeline = [(40.0, "set mig 0")]
    device = opened(backend, fake_nvml, gpu)
    values = read(device)
    assert "gpu_utilization" not in values
    for _ in range(61):
        tick(clock, fake_nvml)
        values = read(device)
    assert values["gpu_utilization"] == 0.97
    assert "nvlink_tx_bytes" in values


@pytest.mark.parametrize("fake_nvml", [missing_in(535), missing_in(470)], indirect=True)
def test_a_library_without_newer_functions(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    gpu = of_branch(whole_h100(), (470, 57))
    device = opened(backend, fake_nvml, gpu, "470.57.02")
    read(device)
    tick(clock, fake_nvml)
    values = read(device)
    assert values["power_w"] == 390.78
    assert values["clocks_event_reasons"] == 4
    assert "thermal_margin_c" not in values
    why = facts(device).unsupported["thermal_margin_c"]
    assert why.startswith("nvmlDeviceGetMarginTemperature: not in this driver")


def test_nothing_at_all_is_no_sample(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    device = opened(backend, fake_nvml, FakeGpu(sets={}, fields={}))
    with pytest.raises(TransientError, match="gave nothing"):
        device.read()


def test_an_entry_that_the_driver_does_not_write_is_no_value(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    """A whole batch that fails leaves nothing of the tick before."""
    gpu = whole_h100()
    device = opened(backend, fake_nvml, gpu)
    assert "energy_mj" in read(device)
    gpu.fails = {"nvmlDeviceGetFieldValues": 10}
    fake_nvml.write([gpu])
    tick(clock, fake_nvml)
    values = read(device)
    assert not {"energy_mj", "power_w", "memory_temperature_c"} & values.keys()
    assert values["sm_clock_mhz"] == 1755
