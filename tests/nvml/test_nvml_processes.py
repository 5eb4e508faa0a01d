"""Processes of whole GPUs and of instances, by every struct that drivers have filled."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_nvml import FakeInstance, FakeNvml, FakeProcess, whole_h100
from manual_clock import ManualClock

from collectors.contract.identity import slot_text
from collectors.contract.source import DeviceLostError, GpuProcess, TransientError, UnsupportedError
from collectors.nvml.backend import NvmlBackend

R530 = ("nvmlDeviceGetRunningProcessDetailList",)


@pytest.fixture
def backend() -> Iterator[NvmlBackend]:
    backend = NvmlBackend(ManualClock())
    yield backend
    backend.close()


def found(processes: list[GpuProcess]) -> list[tuple[int, int | None, float | None]]:
    return [(one.pid, one.memory_bytes, one.sm_utilization) for one in processes]


def test_pids_memory_and_sm_share(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    gpu = whole_h100()
    gpu.processes = [FakeProcess(100, 2**30, 80), FakeProcess(200, -1, 15), FakeProcess(300, 5, -1)]
    fake_nvml.clock.set_us(5_000_000)
    fake_nvml.write([gpu])
    backend.open()
    [device] = backend.devices()
    assert found(list(device.processes())) == [(100, 2**30, 0.8), (200, None, 0.15), (300, 5, 0.0)]
    assert {one.slot for one in device.processes()} == {device.slot}


def test_no_new_utilisation_is_not_none_used(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    gpu = whole_h100()
    gpu.processes = [FakeProcess(100, 7, 80)]
    fake_nvml.clock.set_us(5_000_000)
    fake_nvml.write([gpu])
    backend.open()
    [device] = backend.devices()
    assert found(list(device.processes())) == [(100, 7, 0.8)]
    assert found(list(device.processes())) == [(100, 7, None)]  # the driver has no later sample
    fake_nvml.clock.move(10)
    assert found(list(device.processes())) == [(100, 7, 0.8)]


def test_nobody(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    fake_nvml.write([whole_h100()])
    backend.open()
    assert list(backend.devices()[0].processes()) == []


@pytest.mark.parametrize("fake_nvml", [R530], indirect=True)
def test_the_longer_struct_of_r530(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    gpu = whole_h100()
    gpu.sets["process_bytes"] = 32
    gpu.processes = [FakeProcess(100 + i, 2**20 * (i + 1)) for i in range(9)]
    fake_nvml.write([gpu], driver="530.30.02")
    backend.open()
    pids = [one.pid for one in backend.devices()[0].processes()]
    assert pids == list(range(100, 109))


def test_instances_have_their_own(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    gpu = whole_h100()
    gpu.sets["mig"] = 1
    gpu.instances = [FakeInstance(0, 3, "MIG-a"), FakeInstance(2, 5, "MIG-b")]
    gpu.processes = [FakeProcess(100, 7, 80, gi=3, ci=0), FakeProcess(200, 8, 15, gi=5, ci=0)]
    fake_nvml.write([gpu])
    backend.open()
    [device] = backend.devices()
    device.read()
    processes = list(device.processes())
    assert [slot_text(one.slot) for one in processes] == ["0000:1b:00.0/3/0", "0000:1b:00.0/5/0"]
    assert {one.sm_utilization for one in processes} == {None}  # nothing says


def test_without_utilisation_the_processes_are_still_known(
    fake_nvml: FakeNvml, backend: NvmlBackend, nvml_library: Path
) -> None:
    gpu = whole_h100()
    gpu.processes = [FakeProcess(100, 7, 80)]
    gpu.fails = {"nvmlDeviceGetProcessUtilization": 3}
    fake_nvml.write([gpu])
    backend.open()
    [device] = backend.devices()
    library = ctypes.CDLL(str(nvml_library))
    before = library.fakeCalls(b"nvmlDeviceGetProcessUtilization")
    for _ in range(3):
        assert found(list(device.processes())) == [(100, 7, None)]
    assert library.fakeCalls(b"nvmlDeviceGetProcessUtilization") - before == 1


@pytest.mark.parametrize("code", [3, 4])
def test_a_refusal_is_for_good_and_in_the_facts(
    fake_nvml: FakeNvml, backend: NvmlBackend, code: int
) -> None:
    gpu = whole_h100()
    gpu.fails = {"nvmlDeviceGetComputeRunningProcesses_v3": code}
    fake_nvml.write([gpu])
    backend.open()
    [device] = backend.devices()
    for _ in range(2):
        with pytest.raises(UnsupportedError):
            device.processes()
    assert f"NVML {code}" in device.facts()[0].unsupported["processes"]


def test_failures_are_classed_as_those_of_readings(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    gpu = whole_h100()
    gpu.fails = {"nvmlDeviceGetComputeRunningProcesses_v3": 21}
    fake_nvml.write([gpu])
    backend.open()
    [device] = backend.devices()
    with pytest.raises(TransientError):
        device.processes()
    gpu.fails = {"nvmlDeviceGetComputeRunningProcesses_v3": 16}
    fake_nvml.write([gpu])
    with pytest.raises(DeviceLostError):
        device.processes()
    assert device.facts()[0].state == "needs_reset"
