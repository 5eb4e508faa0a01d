"""The NVML backend against a library whose truth the test writes."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_nvml import UINT, FakeGpu, FakeNvml, eight_gpus
from manual_clock import ManualClock

from collectors.contract.catalogue import CATALOGUE, FieldRead
from collectors.contract.identity import slot_text
from collectors.contract.source import (
    BackendUnavailableError,
    DeviceLostError,
    DriverGoneError,
    RestartNeededError,
    TransientError,
    UnsupportedError,
)
from collectors.nvml.backend import NvmlBackend
from collectors.nvml.epoch import energy_epoch, host_id
from collectors.nvml.errors import error_for
from collectors.nvml.fields import driver_branch, field_id


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def backend(clock: ManualClock) -> Iterator[NvmlBackend]:
    backend = NvmlBackend(clock)
    yield backend
    backend.close()


def test_identity(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    """Slots come from the PCI address with its long domain, in order, whatever NVML's index."""
    fake_nvml.write([FakeGpu(bus=0xDF, domain=0x10001), FakeGpu(bus=0x1B, uuid="GPU-b")])
    backend.open()
    first, second = backend.devices()
    assert [slot_text(first.slot), slot_text(second.slot)] == ["0000:1b:00.0", "10001:df:00.0"]
    assert first.labels.uuid == "GPU-b"
    assert second.labels.model == "NVIDIA H100 80GB HBM3"
    assert second.labels.serial == "1652923034028"
    assert first.energy_epoch != second.energy_epoch


def test_values_in_catalogue_units(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    gpu = FakeGpu(gpm={}, gpm_us={2: 0, 5: 0, 10: 0})
    fake_nvml.write([gpu], now_us=1_000_000)
    backend.open()
    [device] = backend.devices()
    first = dict(device.read()[0].values)
    assert not {"sm_activity", "tensor_activity", "dram_activity"} & first.keys()
    gpu.gpm_us = {2: 900_000, 5: 800_000, 10: 250_000}
    fake_nvml.write([gpu], now_us=2_000_000)
    clock.move(1)
    values = dict(device.read()[0].values)
    always = {
        "power_w": 390.78, "power_average_w": 389.1, "gpu_temperature_c": 61,
        "memory_temperature_c": 70, "thermal_margin_c": 26, "sm_clock_mhz": 1755,
        "memory_clock_mhz": 2619, "gpu_utilization": 0.97, "memory_utilization": 0.4,
        "memory_used_bytes": 40 * 2**30, "performance_state": 0, "energy_mj": 5_000_000,
        "throttle_power_cap_us": 2_500, "throttle_sync_boost_us": 0,
        "throttle_sw_thermal_us": 7_000, "throttle_hw_thermal_us": 0,
        "throttle_power_brake_us": 0,
    }  # fmt: skip
    activities = {"sm_activity": 0.9, "tensor_activity": 0.8, "dram_activity": 0.25}
    seldom = {
        "power_limit_w": 700.0, "memory_total_bytes": 80 * 2**30, "recovery_action": 0,
        "row_remap_pending": 0, "row_remap_failure": 0, "ecc_corrected": 2, "ecc_uncorrected": 0,
        "pcie_replay": 3,
    }  # fmt: skip
    assert {name: first[name] for name in always | seldom} == always | seldom
    assert {name: values[name] for name in always | activities} == always | activities
    assert not seldom.keys() & values.keys()
    assert "fan_speed" not in values | first  # this GPU has no fan


@pytest.mark.parametrize(
    ("driver", "field"),
    [("535.183.01", None), ("570.86.15", None), ("575.51", 251), ("580.65.06", 251), ("580.82", 269), ("595.58.03", 269)],
)  # fmt: skip
def test_thermal_field_by_driver_branch(driver: str, field: int | None) -> None:
    read = CATALOGUE.by_name["throttle_sw_thermal_us"].read
    assert isinstance(read, FieldRead)
    assert field_id(read, driver_branch(driver)) == field


def test_unsupported_field_is_left_out_for_good(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    gpu = FakeGpu(field_errors={82: 3})
    fake_nvml.write([gpu])
    backend.open()
    [device] = backend.devices()
    assert "memory_temperature_c" not in device.read()[0].values
    fake_nvml.write([replace(gpu, field_errors={})])
    assert "memory_temperature_c" not in device.read()[0].values


@pytest.mark.parametrize("code", [6, 10, 21, 27])
def test_field_without_a_value_now_is_asked_again(
    fake_nvml: FakeNvml, backend: NvmlBackend, code: int
) -> None:
    gpu = FakeGpu(field_errors={186: code})
    fake_nvml.write([gpu])
    backend.open()
    [device] = backend.devices()
    assert "power_w" not in device.read()[0].values
    fake_nvml.write([replace(gpu, field_errors={})])
    assert device.read()[0].values["power_w"] == 390.78


def test_older_call_stands_in_for_a_missing_field(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.write([FakeGpu(field_errors={186: 3, 83: 3})])
    backend.open()
    [device] = backend.devices()
    values = device.read()[0].values
    assert (values["power_w"], values["energy_mj"]) == (390.78, 5_000_000)


def test_mig_parent_has_no_utilisation_and_the_rest(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    fake_nvml.write([FakeGpu(fails={"nvmlDeviceGetUtilizationRates": 3})])
    backend.open()
    [device] = backend.devices()
    values = device.read()[0].values
    assert "gpu_utilization" not in values
    assert values["power_w"] == 390.78


@pytest.mark.parametrize("code", [14, 15, 16])
def test_a_lost_gpu_costs_the_others_nothing(
    fake_nvml: FakeNvml, backend: NvmlBackend, code: int
) -> None:
    gpus = eight_gpus()
    fake_nvml.write(gpus)
    backend.open()
    gpus[3].fails = {"all": code}
    fake_nvml.write(gpus)
    outcomes: list[bool] = []
    for device in backend.devices():
        try:
            outcomes.append(device.read()[0].values["power_w"] == 390.78)
        except DeviceLostError:
            outcomes.append(False)
    assert outcomes == [index != 3 for index in range(8)]
    gpus[3].fails = {}
    fake_nvml.write(gpus)
    with pytest.raises(DeviceLostError):
        backend.devices()[3].read()  # left alone until the rescan
    kept = backend.devices()[0]
    backend.rescan()
    assert backend.devices()[3].read()[0].values["power_w"] == 390.78
    assert backend.devices()[0] is kept


def test_lost_at_the_start_appears_later(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    gpus = eight_gpus()
    gpus[0].fails = {"nvmlDeviceGetHandleByIndex_v2": 15}
    fake_nvml.write(gpus)
    backend.open()
    assert len(backend.devices()) == 7
    gpus[0].fails = {}
    fake_nvml.write(gpus)
    backend.rescan()
    assert len(backend.devices()) == 8
    assert [device.slot for device in backend.devices()] == sorted(
        device.slot for device in backend.devices()
    )


def test_a_replaced_gpu_has_a_new_label_and_energy_epoch(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    gpu = FakeGpu()
    fake_nvml.write([gpu])
    backend.open()
    [before] = backend.devices()
    fake_nvml.write([replace(gpu, uuid="GPU-other")])
    backend.rescan()
    [after] = backend.devices()
    assert after.slot == before.slot
    assert after.labels.uuid == "GPU-other"
    assert after.energy_epoch != before.energy_epoch


def test_unknown_faults(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    """One call that fails in an unknown way is one metric; all calls are a sick GPU."""
    gpu = FakeGpu(fails={"nvmlDeviceGetTemperature": 999})
    fake_nvml.write([gpu])
    backend.open()
    [device] = backend.devices()
    for _ in range(5):
        values = device.read()[0].values
        assert "gpu_temperature_c" not in values
        assert "power_w" in values
    fake_nvml.write([replace(gpu, fails={"all": 999})])
    with pytest.raises(DeviceLostError):
        device.read()


def test_driver_gone(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.write([FakeGpu()])
    backend.open()
    [device] = backend.devices()
    fake_nvml.write([FakeGpu()], init=9)
    with pytest.raises(DriverGoneError):
        device.read()
    backend.close()
    with pytest.raises(BackendUnavailableError, match="driver not loaded"):
        backend.open()
    fake_nvml.write([FakeGpu()])
    backend.open()
    assert backend.devices()[0].read()[0].values["power_w"] == 390.78


def test_mismatch_asks_for_a_new_process(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.write([FakeGpu()])
    backend.open()
    [device] = backend.devices()
    fake_nvml.write([FakeGpu()], init=18)
    with pytest.raises(RestartNeededError, match="start again"):
        device.read()


def test_no_gpu_is_said(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.write([])
    with pytest.raises(BackendUnavailableError, match="none of its 0 GPUs"):
        backend.open()


def test_gpm_windows_are_contiguous(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    """The mean of the windows, weighted by time, is the programmed integral: nothing between."""
    integral = [0, 100_000, 1_000_000, 1_150_000, 2_650_000]
    seconds = [0.0, 1.0, 2.0, 3.0, 5.0]
    gpu = FakeGpu(gpm={})
    total_us = 0.0
    for index, (tensor_us, at_s) in enumerate(zip(integral, seconds, strict=True)):
        gpu.gpm_us = {2: tensor_us, 5: tensor_us}
        fake_nvml.write([gpu], now_us=round(at_s * 1e6))
        if index == 0:
            backend.open()
            backend.devices()[0].read()
            continue
        step_s = at_s - seconds[index - 1]
        clock.move(step_s)
        values = backend.devices()[0].read()[0].values
        assert "dram_activity" not in values  # a metric of its own may have no value
        total_us += values["tensor_activity"] * step_s * 1e6
    assert math.isclose(total_us, integral[-1], rel_tol=1e-9)


def test_gpm_needs_a_tenth_of_a_second_and_skips_gaps(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    gpu = FakeGpu(gpm={}, gpm_us={5: 0})
    fake_nvml.write([gpu], now_us=0)
    backend.open()
    [device] = backend.devices()
    device.read()
    clock.move(0.05)
    assert "tensor_activity" not in device.read()[0].values
    clock.move(30)
    gpu.gpm_us = {5: 1_000_000}
    fake_nvml.write([gpu], now_us=30_050_000)
    assert "tensor_activity" not in device.read()[0].values
    clock.move(1)
    gpu.gpm_us = {5: 1_500_000}
    fake_nvml.write([gpu], now_us=31_050_000)
    assert device.read()[0].values["tensor_activity"] == pytest.approx(0.5)


def test_gpm_samples_are_freed(
    fake_nvml: FakeNvml, backend: NvmlBackend, nvml_library: Path
) -> None:
    library = ctypes.CDLL(str(nvml_library))
    before = library.fakeLiveSamples()
    fake_nvml.write(eight_gpus())
    backend.open()
    for device in backend.devices():
        device.read()
    assert library.fakeLiveSamples() == before + 16
    backend.close()
    assert library.fakeLiveSamples() == before


def test_a_new_catalogue_row_is_read(fake_nvml: FakeNvml) -> None:
    row = replace(
        CATALOGUE.by_name["memory_temperature_c"],
        name="module_power_w", number=60, read=FieldRead(190, 1e-3), decimals=3, valid=(0, 3_000),
    )  # fmt: skip
    gpu = FakeGpu()
    gpu.fields[190] = (UINT, 812_345)
    fake_nvml.write([gpu])
    with CATALOGUE.extended(row):
        backend = NvmlBackend(ManualClock())
        backend.open()
        assert backend.devices()[0].read()[0].values["module_power_w"] == 812.345
        backend.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [(3, UnsupportedError), (4, UnsupportedError), (13, UnsupportedError), (26, UnsupportedError),
     (6, TransientError), (21, TransientError), (10, TransientError), (999, TransientError),
     (15, DeviceLostError), (16, DeviceLostError), (14, DeviceLostError),
     (1, DriverGoneError), (9, DriverGoneError), (28, DriverGoneError), (18, RestartNeededError)],
)  # fmt: skip
def test_codes_are_classed(code: int, kind: type[Exception]) -> None:
    assert isinstance(error_for(code, "call"), kind)


def test_energy_epoch_follows_gpu_boot_and_driver(tmp_path: Path) -> None:
    boot = tmp_path / "proc/sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("one\n")
    driver = tmp_path / "sys/module/nvidia/version"
    driver.parent.mkdir(parents=True)
    driver.write_text("580.95.05\n")
    first = host_id(tmp_path)
    assert first == host_id(tmp_path)
    boot.write_text("two\n")
    second = host_id(tmp_path)
    driver.write_text("580.99\n")
    epochs = {
        energy_epoch(uuid, host)
        for uuid in ("a", "b")
        for host in (first, second, host_id(tmp_path))
    }
    assert len(epochs) == 6
