"""The validation's own arithmetic, against a driver whose truth is known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from fake_nvml import FakeNvml, whole_h100
from flop_scenes import Scene, integral_gflop, programme

from benchmarks.gpu import Load, compare
from benchmarks.gpu_blas import KINDS
from benchmarks.gpu_calls import call_costs
from collectors.nvml.api import Nvml


class CountedLoad(Load):
    """Works for some seconds of the scene's time, as the programme says."""

    def __init__(self, operations: float, ticks: int) -> None:
        self._operations, self._left = operations, ticks

    def go(self) -> None:
        """The programme begins by itself."""

    @property
    def works(self) -> bool:
        """Until its seconds are over."""
        self._left -= 1
        return self._left >= 0

    def result(self) -> dict[str, float]:
        """What was programmed."""
        return {"operations": self._operations, "seconds": 10.0, "busy_share": 1.0, "step_s": 0.1}


@pytest.fixture
def scene(fake_nvml: FakeNvml) -> Iterator[Scene]:
    gpu = whole_h100()
    gpu.sets["cycles"] = 0
    programme(gpu, [(0, 0.0, 1700), (1, 0.8, 1700), (11, 0.0, 1700)])
    scene = Scene(fake_nvml, [gpu])
    yield scene
    scene.backend.close()


@pytest.mark.parametrize(("share", "off"), [(1.0, 0.0), (0.8, 25.0)])
def test_the_counter_beside_what_was_counted(scene: Scene, share: float, off: float) -> None:
    device = scene.backend.devices()[0]
    counted = share * integral_gflop([(0, 0.8, 1700)], 0, 10) * 1e9
    row = compare(device, CountedLoad(counted / KINDS["bf16"].factor, 11), "bf16", scene.move)
    assert row["off_percent"] == pytest.approx(off, abs=0.1)
    assert row["within_bounds"] is (off == 0)
    assert row["methods"] == ["gpm_pipe"]


def test_every_call_is_timed_or_said_to_be_missing(scene: Scene) -> None:
    nvml = Nvml()
    nvml.open()
    rows = list(call_costs(nvml, scene.backend.devices()[0]))
    nvml.close()
    assert all("median_us" in row or row["not_given"] for row in rows)
    assert {"a whole reading", "nvmlGpmSampleGet"} <= {row["call"] for row in rows}


def test_without_cuda_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_load", "bf16"],
        capture_output=True, text=True, check=False, env={"PATH": ""}, timeout=60, input="\n",
    )  # fmt: skip
    if done.returncode == 0:
        pytest.skip("CUDA is here")
    assert "libcudart.so was not found" in done.stderr
