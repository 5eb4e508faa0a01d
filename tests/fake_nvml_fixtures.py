"""The fake NVML in this process, for tests of all folders."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeNvml, build

Libraries = Callable[[tuple[str, ...]], Path]


@pytest.fixture(scope="session")
def nvml_libraries(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    """Builds the fake library without some functions, each kind once."""
    built: dict[tuple[str, ...], Path] = {}

    def library(hidden: tuple[str, ...]) -> Path:
        if hidden not in built:
            made = build(tmp_path_factory.mktemp("nvml"), hidden)
            if made is None:
                pytest.skip("no C compiler: the fake NVML cannot be built (install gcc)")
            built[hidden] = made
        return built[hidden]

    return library


@pytest.fixture(scope="session")
def nvml_library(nvml_libraries: Libraries) -> Path:
    """The fake library with all its functions."""
    return nvml_libraries(())


@pytest.fixture
def fake_nvml(
    nvml_libraries: Libraries,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[FakeNvml]:
    """The fake NVML behind nvidia-ml-py in this process, with a truth of this test's own.

    A parameter (indirect) names the functions that it lacks.
    """
    state = tmp_path / "nvml.state"
    monkeypatch.setenv("FAKE_NVML_STATE", str(state))
    pynvml: Any = importlib.import_module("pynvml")
    library = nvml_libraries(getattr(request, "param", ()))
    # The bindings keep the functions that they have looked up; a real driver's come back after.
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    yield FakeNvml(state, library)
    # Hanging calls end when the truth no longer says so.
    state.unlink(missing_ok=True)
