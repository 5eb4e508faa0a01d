"""The fake driver against what it says of itself, through the unmodified bindings."""

from __future__ import annotations

import ctypes
import importlib
import math
import threading
import time
from typing import Any

import pytest
from fake_nvml import (
    SINT,
    UINT,
    XID,
    FakeEvent,
    FakeGpu,
    FakeInstance,
    FakeNvml,
    FakeProcess,
    whole_h100,
)

nvml: Any = importlib.import_module("pynvml")
SMS = 132


@pytest.fixture(autouse=True)
def up(fake_nvml: FakeNvml) -> None:
    fake_nvml.clock.set_us(0)
    fake_nvml.write([whole_h100()])
    nvml.nvmlInit()


def handle() -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(0)


def code_of(call: str, *arguments: object) -> int:
    with pytest.raises(nvml.NVMLError) as caught:
        getattr(nvml, call)(*arguments)
    return caught.value.value


def sample(device: Any, gi: int | None = None) -> Any:
    room = nvml.nvmlGpmSampleAlloc()
    if gi is None:
        return nvml.nvmlGpmSampleGet(device, room)
    return nvml.nvmlGpmMigSampleGet(device, gi, room)


def metrics(older: Any, newer: Any, *wanted: int) -> list[float]:
    request = nvml.c_nvmlGpmMetricsGet_t()
    request.version, request.numMetrics = 1, len(wanted)
    request.sample1, request.sample2 = older, newer
    for index, metric in enumerate(wanted):
        request.metrics[index].metricId = metric
    nvml.nvmlGpmMetricsGet(request)
    return [
        one.value if one.nvmlReturn == 0 else math.nan for one in request.metrics[: len(wanted)]
    ]


STEPS = [(0.0, 0.2, 1000), (1.5, 0.9, 1500), (4.0, 0.4, 1980)]
"""From second, activity, MHz."""


def moving() -> FakeGpu:
    gpu = whole_h100()
    for second, ratio, mhz in STEPS:
        gpu.timeline += [(second, f"gpm 5 {ratio}"), (second, f"set sm_clock {mhz}")]
    gpu.sets["cycles_base"] = 0
    return gpu


@pytest.mark.parametrize(
    ("way", "factor", "difference"), [(1, 1, 0), (2, SMS, 0), (1, 1, 1), (2, SMS, 1)]
)
def test_windows_and_cycles_are_the_timelines_integrals(
    fake_nvml: FakeNvml, way: int, factor: int, difference: int
) -> None:
    gpu = moving()
    gpu.sets |= {"cycles": way, "cycles_difference": difference}
    fake_nvml.write([gpu])
    fake_nvml.clock.set_us(1_000_000)
    older = sample(handle())
    fake_nvml.clock.set_us(5_000_000)
    percent, elapsed, tensor = metrics(older, sample(handle()), 5, 248, 250)
    assert percent == pytest.approx(100 * (0.5 * 0.2 + 2.5 * 0.9 + 1.0 * 0.4) / 4)
    before = 0 if difference else 1.0
    expected = 1e6 * (1000 * (0.5 + before) + 1500 * 2.5 + 1980 * 1.0) * factor
    assert elapsed == pytest.approx(expected, rel=1e-9)
    active = 1e6 * (1000 * (0.5 + before) * 0.2 + 1500 * 2.5 * 0.9 + 1980 * 0.4) * factor
    assert tensor == pytest.approx(active, rel=1e-9)


def test_counters_wrap_and_are_reset(fake_nvml: FakeNvml) -> None:
    gpu = moving()
    gpu.sets |= {"cycles_wrap_bits": 30, "power_mw": 700_000, "energy_mj": 1_000}
    gpu.timeline.append((6.0, "reset 0"))
    fake_nvml.write([gpu])
    fake_nvml.clock.set_us(2_000_000)
    [elapsed] = metrics(sample(handle()), sample(handle()), 248)
    assert elapsed == (1000e6 * 1.5 + 1500e6 * 0.5) % 2**30
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(handle()) == 1_000 + 1_400_000
    fake_nvml.clock.set_us(6_500_000)
    [elapsed] = metrics(sample(handle()), sample(handle()), 248)
    assert elapsed == 1980e6 * 0.5
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(handle()) == 350_000
    [energy] = nvml.nvmlDeviceGetFieldValues(handle(), [83])
    assert energy.value.ullVal == 350_000


def test_more_than_98_metrics_are_refused() -> None:
    older = sample(handle())
    request = nvml.c_nvmlGpmMetricsGet_t()
    request.version, request.numMetrics = 1, 99
    request.sample1, request.sample2 = older, older
    assert code_of("nvmlGpmMetricsGet", request) == nvml.NVML_ERROR_INVALID_ARGUMENT


def test_instances_and_their_parent(fake_nvml: FakeNvml) -> None:
    gpu = whole_h100()
    gpu.sets |= {"mig": 1, "used@1": 5 * 2**30}
    gpu.gpm = {"5@1": 0.8, "5@2": 0.3}
    gpu.instances = [
        FakeInstance(0, 1, "MIG-a", sms=60, slices=4, to_s=10),
        FakeInstance(3, 2, "MIG-b", sms=26, slices=2),
        FakeInstance(0, 3, "MIG-c", from_s=10),
    ]
    gpu.processes = [FakeProcess(11, gi=1, ci=0), FakeProcess(12, gi=2, ci=0)]
    fake_nvml.write([gpu])
    parent = handle()
    assert [code_of("nvmlDeviceGetMigDeviceHandleByIndex", parent, i) for i in (1, 2)] == [2, 6]
    first = nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, 0)
    assert nvml.nvmlDeviceGetUUID(first) == "MIG-a"
    assert nvml.nvmlDeviceGetAttributes(first).multiprocessorCount == 60
    assert nvml.nvmlDeviceGetMemoryInfo(first, version=nvml.nvmlMemory_v2).used == 5 * 2**30
    assert [one.pid for one in nvml.nvmlDeviceGetComputeRunningProcesses(first)] == [11]
    assert code_of("nvmlDeviceGetPowerUsage", first) == 3
    assert code_of("nvmlDeviceGetUtilizationRates", parent) == 3
    older = [sample(parent), sample(parent, 1), sample(first)]
    fake_nvml.clock.move(2)
    newer = [sample(parent), sample(parent, 1), sample(first)]
    ratios = [metrics(a, b, 5)[0] for a, b in zip(older, newer, strict=True)]
    assert ratios == pytest.approx([100 * (0.8 * 60 + 0.3 * 26) / SMS, 80, 80])
    fake_nvml.clock.set_us(10_000_000)
    assert nvml.nvmlDeviceGetUUID(first) == "MIG-c"  # a stale handle is used again
    assert code_of("nvmlGpmMigSampleGet", parent, 1, nvml.nvmlGpmSampleAlloc()) == 2


def test_fields_have_scopes(fake_nvml: FakeNvml) -> None:
    gpu = FakeGpu(scoped={(186, 1): (UINT, 900_000)}, field_errors={82: 15})
    gpu.fields |= {194: (SINT, -2), 138: (UINT, 7)}
    fake_nvml.write([gpu])
    wanted = [186, (186, 1), (186, 2), 82, 194, (138, 0xFFFFFFFF), 999]
    answers = nvml.nvmlDeviceGetFieldValues(handle(), wanted)
    assert [one.nvmlReturn for one in answers] == [0, 0, 3, 15, 0, 0, 3]
    assert answers[1].value.uiVal == 900_000
    assert answers[4].value.siVal == -2


def test_events_are_told_once_and_not_from_before(fake_nvml: FakeNvml) -> None:
    gpu = FakeGpu(events=[FakeEvent(0, XID, 13)])
    fake_nvml.write([gpu])
    wanted = nvml.nvmlEventSetCreate()
    nvml.nvmlDeviceRegisterEvents(handle(), XID, wanted)
    assert code_of("nvmlEventSetWait_v2", wanted, 5) == nvml.NVML_ERROR_TIMEOUT
    gpu.events += [FakeEvent(5, 0x2, 0), FakeEvent(5, XID, 79, gi=1, ci=0)]
    fake_nvml.write([gpu])
    fake_nvml.clock.set_us(5_000_000)
    event = nvml.nvmlEventSetWait_v2(wanted, 1000)
    assert (event.eventType, event.eventData, event.gpuInstanceId) == (XID, 79, 1)
    assert code_of("nvmlEventSetWait_v2", wanted, 5) == nvml.NVML_ERROR_TIMEOUT
    nvml.nvmlEventSetFree(wanted)


def test_processes(fake_nvml: FakeNvml) -> None:
    fake_nvml.write([FakeGpu(processes=[FakeProcess(7, -1, 90), FakeProcess(8, 5, 3, to_s=4)])])
    fake_nvml.clock.set_us(2_500_000)
    listed = nvml.nvmlDeviceGetComputeRunningProcesses(handle())
    assert [(one.pid, one.usedGpuMemory) for one in listed] == [(7, None), (8, 5)]
    used = nvml.nvmlDeviceGetProcessUtilization(handle(), 0)
    assert [(one.pid, one.smUtil, one.timeStamp) for one in used] == [
        (7, 90, 2_000_000),
        (8, 3, 2_000_000),
    ]
    assert code_of("nvmlDeviceGetProcessUtilization", handle(), 2_000_000) == 0


def test_buffered_clocks(fake_nvml: FakeNvml) -> None:
    gpu = moving()
    gpu.sets["clock_samples"] = 500_000
    fake_nvml.write([gpu])
    fake_nvml.clock.set_us(2_100_000)
    _, samples = nvml.nvmlDeviceGetSamples(handle(), 5, 500_000)
    assert [(one.timeStamp, one.sampleValue.uiVal) for one in samples] == [
        (1_000_000, 1000),
        (1_500_000, 1000),
        (2_000_000, 1500),
    ]


def test_faults_begin_and_end_with_time(fake_nvml: FakeNvml) -> None:
    gpu = FakeGpu(timeline=[(1.0, "fail nvmlDeviceGetPowerUsage 15"), (2.0, "fail all 0")])
    gpu.timeline.append((2.0, "fail nvmlDeviceGetPowerUsage 0"))
    fake_nvml.write([gpu])
    assert nvml.nvmlDeviceGetPowerUsage(handle()) == 390_780
    fake_nvml.clock.set_us(1_000_000)
    assert code_of("nvmlDeviceGetPowerUsage", handle()) == 15
    fake_nvml.clock.set_us(2_000_000)
    assert nvml.nvmlDeviceGetPowerUsage(handle()) == 390_780


def test_a_hanging_call_holds_up_nobody(fake_nvml: FakeNvml) -> None:
    stuck = FakeGpu(hang_s={"nvmlDeviceGetPowerUsage": 60})
    fine = FakeGpu(bus=0x20, uuid="GPU-fine")
    fake_nvml.write([stuck, fine])
    devices = [nvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1)]
    waiting = threading.Thread(target=nvml.nvmlDeviceGetPowerUsage, args=(devices[0],))
    waiting.start()
    began = time.monotonic()
    assert nvml.nvmlDeviceGetPowerUsage(devices[1]) == 390_780
    assert nvml.nvmlDeviceGetTemperature(devices[0], 0) == 61
    assert time.monotonic() - began < 30
    assert waiting.is_alive()
    fake_nvml.write([FakeGpu(), fine])
    waiting.join(5)
    assert not waiting.is_alive()


@pytest.mark.parametrize("fake_nvml", [("nvmlDeviceGetPowerUsage",)], indirect=True)
def test_a_missing_function_is_missing(fake_nvml: FakeNvml) -> None:
    assert code_of("nvmlDeviceGetPowerUsage", handle()) == nvml.NVML_ERROR_FUNCTION_NOT_FOUND
    assert nvml.nvmlDeviceGetTemperature(handle(), 0) == 61


def test_calls_are_counted(fake_nvml: FakeNvml) -> None:
    library = ctypes.CDLL(str(fake_nvml.library))
    before = library.fakeCalls(b"nvmlDeviceGetPowerUsage")
    nvml.nvmlDeviceGetPowerUsage(handle())
    assert library.fakeCalls(b"nvmlDeviceGetPowerUsage") == before + 1
