"""On a real GPU: the counters against counted products, and what an agent costs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from benchmarks.gpu import Load, compare
from benchmarks.gpu_blas import CudaUnavailableError, library
from collectors.contract.source import BackendUnavailableError
from collectors.kit.clock import SystemClock
from collectors.nvml.backend import NvmlBackend
from collectors.nvml.device import NvmlDevice

pytestmark = pytest.mark.gpu
SECONDS = 12.0
MOST_PERCENT = {"gpm_cycles": 3.0, "gpm_pipe": 5.0}


@pytest.fixture
def device() -> Iterator[NvmlDevice]:
    """The first GPU that measures tensor activity itself."""
    backend = NvmlBackend(SystemClock())
    try:
        library("cublas")
        backend.open()
    except (BackendUnavailableError, CudaUnavailableError) as error:
        pytest.skip(str(error))
    try:
        for one in backend.devices():
            one.read()
            if one.facts()[0].flop_method in MOST_PERCENT:
                yield one
                return
        pytest.skip("no GPU here has GPM")
    finally:
        backend.close()


@pytest.mark.parametrize("kind", ["bf16", "tf32", "fp8", "fp64"])
def test_counted_work_is_within_the_bound(device: NvmlDevice, kind: str) -> None:
    if kind == "fp64" and "H800" in device.labels.model:
        pytest.skip("its FP64 rate is cut")
    row = compare(device, Load(kind, device.labels.uuid, SECONDS, 1.0), kind, time.sleep)
    assert abs(row["off_percent"]) <= max(MOST_PERCENT[name] for name in row["methods"]), row


@pytest.mark.parametrize("duty", [0.9, 0.5, 0.1])
def test_duty_cycles(device: NvmlDevice, duty: float) -> None:
    """The clock moves with the load: 10 % is what is promised then."""
    row = compare(device, Load("bf16", device.labels.uuid, SECONDS, duty), "bf16", time.sleep)
    assert abs(row["off_percent"]) <= 10, row


def test_instances_sum_to_their_gpu(device: NvmlDevice) -> None:
    device.read()
    time.sleep(1.0)  # the length of the window
    whole, *instances = device.read()
    if not instances:
        pytest.skip("this GPU is not divided (MIG)")
    assert whole.flop is not None
    parts = sum(one.flop.gflop for one in instances if one.flop is not None)
    assert parts == pytest.approx(whole.flop.gflop, rel=0.05)
    power = sum(one.values["power_allocated_w"] for one in instances)
    assert power == pytest.approx(whole.values["power_w"], abs=0.001)
