"""Fixtures of the agent's tests: the fake NVML in this process."""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeNvml, build


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake library, built once."""
    library = build(tmp_path_factory.mktemp("nvml"))
    if library is None:
        pytest.skip("no C compiler: the fake NVML cannot be built (install gcc)")
    return library


@pytest.fixture
def fake_nvml(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """The fake NVML behind nvidia-ml-py in this process, with a truth of this test's own."""
    state = tmp_path / "nvml.state"
    monkeypatch.setenv("FAKE_NVML_STATE", str(state))
    pynvml: Any = importlib.import_module("pynvml")
    # The bindings keep the functions that they have looked up; a real driver's come back after.
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(nvml_library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return FakeNvml(state, nvml_library)
