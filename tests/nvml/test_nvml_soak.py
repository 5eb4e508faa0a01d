"""An hour of a node with eight GPUs, or a part of it: nothing grows, whatever comes and goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soak_process
from fake_nvml_fixtures import Libraries
from soak_process import HOUR_S, LOST_S, SETTLED_S

MARGIN_MB = 3.0
"""Pages that the allocator keeps back and forth; a leak of 1 kB a tick from the 600th on, in an
hour, would be as much."""


def soaked(library: Path, state: Path, seconds: int) -> dict[str, Any]:
    """What the process with the node says that it held."""
    around = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "FAKE_NVML_STATE": str(state)}
    command = [sys.executable, soak_process.__file__, str(library), str(state), str(seconds)]
    done = subprocess.run(command, env=around, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("seconds", [1000, pytest.param(HOUR_S, marks=pytest.mark.long)])
def test_it_leaves_nothing_behind(nvml_libraries: Libraries, tmp_path: Path, seconds: int) -> None:
    said = soaked(nvml_libraries(()), tmp_path / "nvml.state", seconds)
    settled, after = said["settled"], said["after"]
    assert seconds > SETTLED_S
    assert said["records"] == seconds
    expected = ["gpu_lost", "gpu_recovered"] * sum(second < seconds for second in LOST_S)
    assert said["kinds"] == expected
    assert after["rss_mb"] - settled["rss_mb"] < MARGIN_MB
    assert after["objects"] - settled["objects"] < 2_000
    assert after["samples"] <= settled["samples"] + 2  # of an instance
    assert after["threads"] <= settled["threads"] + 1
    assert after["files"] <= settled["files"]
    assert said["closed"]["samples"] == said["before"]["samples"]
