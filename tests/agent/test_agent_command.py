"""`petawatch agent` as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeGpu, FakeNvml, build, eight_gpus

from collectors.contract.catalogue import CATALOGUE

PETAWATCH = str(Path(sys.executable).with_name("petawatch"))


@pytest.fixture
def node(nvml_library: Path, tmp_path: Path) -> FakeNvml:
    """The truth that the process sees."""
    return FakeNvml(tmp_path / "nvml.state", nvml_library)


def environment(node: FakeNvml | None, home: Path) -> dict[str, str]:
    """A process's surroundings: the fake library, or none at all."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PETAWATCH_")}
    kept["XDG_STATE_HOME"] = str(home)
    if node is not None:
        kept |= {"LD_LIBRARY_PATH": str(node.library.parent), "FAKE_NVML_STATE": str(node.state)}
    return kept


def run(node: FakeNvml | None, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PETAWATCH, "agent", *options], env=environment(node, home),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_once_prints_one_line(node: FakeNvml, tmp_path: Path) -> None:
    node.write([replace(gpu, field_errors={82: 3}) for gpu in eight_gpus()])
    done = run(node, tmp_path, "--once", "--stdout", "--node", "n7")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    record: dict[str, Any] = json.loads(line)
    assert set(record) == {"time", "node", "gpus"}
    assert record["node"] == "n7"
    assert record["time"].endswith("Z")
    assert len(record["gpus"]) == 8
    first = record["gpus"][0]
    assert first["slot"] == "0000:10:00.0"
    assert first["uuid"] == "GPU-00000000-0000-0000-0000-000000000000"
    assert first["model"] == "NVIDIA H100 80GB HBM3"
    assert first["power_w"] == 390.78
    assert first["observed_us"] == 0
    assert "memory_temperature_c" not in first
    assert set(first) - {"slot", "uuid", "model"} <= set(CATALOGUE.by_name)


def test_without_a_driver_a_sentence_and_status_2(tmp_path: Path, node: FakeNvml) -> None:
    node.write([], init=9)
    done = run(node, tmp_path, "--once", "--stdout")
    assert done.returncode == 2
    assert "driver not loaded" in done.stderr
    assert "--backend sim" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "says"),
    [([], "--stdout"), (["--bus", "kafka:9092"], "kafka://"), (["--interval", "0"], "0.1")],
)
def test_what_cannot_be_is_refused(options: list[str], says: str, tmp_path: Path) -> None:
    done = run(None, tmp_path, *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(node: FakeNvml, tmp_path: Path, number: int) -> None:
    node.write(eight_gpus())
    with subprocess.Popen(
        [PETAWATCH, "agent", "--stdout", "--interval", "0.1"], env=environment(node, tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    lines += [json.loads(line) for line in rest.splitlines()]
    times = [line["time"] for line in lines]
    assert times == sorted(set(times))
    assert lines[2]["gpus"][0]["observed_us"] > 0


def test_truth_changes_while_it_runs(node: FakeNvml, tmp_path: Path) -> None:
    """A GPU falls off the bus: it is down, the others are read, the process goes on."""
    gpus = eight_gpus()
    node.write(gpus)
    with subprocess.Popen(
        [PETAWATCH, "agent", "--stdout", "--interval", "0.1"], env=environment(node, tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        gpus[5] = FakeGpu(bus=gpus[5].bus, uuid=gpus[5].uuid, fails={"all": 15})
        node.write(gpus)
        now: list[dict[str, Any]] = []
        for _ in range(100):
            now = json.loads(process.stdout.readline())["gpus"]
            if now[5]["down_us"] > 200_000:
                break
        process.terminate()
        process.communicate(timeout=30)
    assert now[5]["down_us"] > 200_000
    assert "power_w" not in now.pop(5)
    assert all("power_w" in gpu and gpu["down_us"] == 0 for gpu in now)


def test_what_cannot_be_sent_is_spooled(node: FakeNvml, tmp_path: Path) -> None:
    node.write(eight_gpus())
    done = run(node, tmp_path, "--once", "--bus", "kafka://127.0.0.1:9", "--node", "n1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "petawatch" / "spool-n1.sqlite").stat().st_size > 0
    assert "spooled=3" in done.stderr


def test_it_loads_nothing_heavy() -> None:
    """Neither NumPy nor the Protobuf runtime: they would be half of an agent's memory."""
    code = (
        "import sys, collectors.agent.commands, collectors.nvml.backend, "
        "collectors.kit.kafka_producer\n"
        "print([m for m in ('numpy', 'google.protobuf', 'fastapi', 'dash', 'sqlalchemy', "
        "'duckdb', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_compiler_is_found_or_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build(tmp_path) is None
