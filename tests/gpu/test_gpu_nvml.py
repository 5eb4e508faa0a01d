"""On a real GPU: the backend reads what nvidia-smi prints, and FLOP follow a counted load."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.identity import parse_slot
from collectors.contract.source import BackendUnavailableError
from collectors.kit.clock import SystemClock
from collectors.nvml.backend import NvmlBackend

pytestmark = pytest.mark.gpu


@pytest.fixture
def backend() -> Iterator[NvmlBackend]:
    """The real one."""
    backend = NvmlBackend(SystemClock())
    try:
        backend.open()
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    yield backend
    backend.close()


def smi(*names: str) -> list[dict[str, str]]:
    """What nvidia-smi says, a row per GPU."""
    command = shutil.which("nvidia-smi")
    if command is None:
        pytest.skip("nvidia-smi is not there to compare with")
    text = subprocess.run(
        [command, f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_identity_agrees_with_nvidia_smi(backend: NvmlBackend) -> None:
    rows = smi("pci.bus_id", "uuid", "name")
    ours = {device.slot: (device.labels.uuid, device.labels.model) for device in backend.devices()}
    assert ours == {parse_slot(row["pci.bus_id"]): (row["uuid"], row["name"]) for row in rows}


def test_values_agree_with_nvidia_smi(backend: NvmlBackend) -> None:
    rows = smi("temperature.gpu", "memory.total", "enforced.power.limit")
    for device, row in zip(backend.devices(), rows, strict=True):
        values = device.read()[0].values
        assert abs(values["gpu_temperature_c"] - float(row["temperature.gpu"])) <= 3
        assert abs(values["power_limit_w"] - float(row["enforced.power.limit"])) < 0.01
        assert abs(values["memory_total_bytes"] / 2**20 - float(row["memory.total"])) <= 1


def test_values_are_in_range_and_energy_grows(backend: NvmlBackend) -> None:
    before = [dict(device.read()[0].values) for device in backend.devices()]
    time.sleep(1.2)  # the counter is what is waited for, and it counts time
    for device, earlier in zip(backend.devices(), before, strict=True):
        values = device.read()[0].values
        for name, value in values.items():
            low, high = CATALOGUE.by_name[name].valid
            assert low <= value <= high, name
        spent_mj = values["energy_mj"] - earlier["energy_mj"]
        mean_w = (values["power_w"] + earlier["power_w"]) / 2
        assert spent_mj / 1000 == pytest.approx(1.2 * mean_w, rel=0.5)


def test_gpm_gives_activity_where_the_gpu_has_it(backend: NvmlBackend) -> None:
    for device in backend.devices():
        device.read()
    time.sleep(0.5)  # the length of the window
    for device in backend.devices():
        if any(name in device.labels.model for name in ("H100", "H200", "B200")):
            assert {"sm_activity", "tensor_activity", "dram_activity"} <= device.read()[
                0
            ].values.keys()


def test_command_prints_this_node(backend: NvmlBackend) -> None:
    petawatch = Path(sys.executable).with_name("petawatch")
    done = subprocess.run(
        [petawatch, "agent", "--once", "--stdout"], capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    assert len(json.loads(done.stdout)["gpus"]) == len(backend.devices())
