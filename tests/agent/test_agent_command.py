"""`petawatch agent` as a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeGpu, FakeNvml, build, eight_gpus

from collectors.contract.catalogue import CATALOGUE
from collectors.kit.clock import SystemClock

CLOCK = SystemClock()
PETAWATCH = str(Path(sys.executable).with_name("petawatch"))


@pytest.fixture
def node(nvml_library: Path, tmp_path: Path) -> FakeNvml:
    """The truth that the process sees."""
    return FakeNvml(tmp_path / "nvml.state", nvml_library)


def environment(node: FakeNvml | None, home: Path) -> dict[str, str]:
    """A process's surroundings: the fake library, or none at all."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PETAWATCH_")}
    kept["XDG_STATE_HOME"] = str(home)
    # This machine's own log and ports are no part of a test.
    kept |= {"PETAWATCH_AGENT_KERNEL_LOG": "false", "PETAWATCH_AGENT_METRICS_PORT": "0",
             "PETAWATCH_AGENT_JOB_MAPPINGS": str(home / "jobs"),
             "PETAWATCH_AGENT_POD_RESOURCES": str(home / "kubelet.sock")}  # fmt: skip
    if node is not None:
        kept |= {"LD_LIBRARY_PATH": str(node.library.parent), "FAKE_NVML_STATE": str(node.state)}
    return kept


def run(node: FakeNvml | None, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PETAWATCH, "agent", *options], env=environment(node, home),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def lines(text: str, kind: str = "gpus") -> list[dict[str, Any]]:
    """Those that have `kind`."""
    return [line for line in map(json.loads, text.splitlines()) if kind in line]


def next_record(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that is a record."""
    assert process.stdout is not None
    while True:
        line = process.stdout.readline()
        assert line, "it has ended"
        found = lines(line)
        if found:
            return found[0]


def test_once_prints_one_record_and_what_else_there_is_to_say(
    node: FakeNvml, tmp_path: Path
) -> None:
    node.write([replace(gpu, field_errors={82: 3}) for gpu in eight_gpus()])
    done = run(node, tmp_path, "--once", "--stdout", "--node", "n7")
    assert done.returncode == 0, done.stderr
    [record] = lines(done.stdout)
    assert [line["event"]["kind"] for line in lines(done.stdout, "event")] == [
        "agent_start", "agent_stop",
    ]  # fmt: skip
    [facts] = lines(done.stdout, "facts")
    assert facts["node"] == "n7"
    assert facts["facts"]["driver"] == "580.95.05"
    assert len(facts["facts"]["gpus"]) == 8
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
        records = [next_record(process) for _ in range(3)]
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    records += lines(rest)
    times = [record["time"] for record in records]
    assert times == sorted(set(times))
    assert records[2]["gpus"][0]["observed_us"] > 0
    assert lines(rest, "event")[-1]["event"]["kind"] == "agent_stop"


def test_truth_changes_while_it_runs(node: FakeNvml, tmp_path: Path) -> None:
    """A GPU falls off the bus: it is down, the others are read, the process goes on."""
    gpus = eight_gpus()
    node.write(gpus)
    with subprocess.Popen(
        [PETAWATCH, "agent", "--stdout", "--interval", "0.1"], env=environment(node, tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        next_record(process)
        gpus[5] = FakeGpu(bus=gpus[5].bus, uuid=gpus[5].uuid, fails={"all": 15})
        node.write(gpus)
        now: list[dict[str, Any]] = []
        for _ in range(100):
            now = next_record(process)["gpus"]
            if now[5]["down_us"] > 200_000:
                break
        process.terminate()
        process.communicate(timeout=60)
    assert now[5]["down_us"] > 200_000
    assert "power_w" not in now.pop(5)
    assert all("power_w" in gpu and gpu["down_us"] == 0 for gpu in now)


def test_what_cannot_be_sent_once_is_spooled_and_said(node: FakeNvml, tmp_path: Path) -> None:
    node.write(eight_gpus())
    done = run(node, tmp_path, "--once", "--bus", "kafka://127.0.0.1:9", "--node", "n1")
    assert done.returncode == 1, done.stderr
    assert "4 message(s) have not reached kafka://127.0.0.1:9" in done.stderr
    assert "spool_left records=4" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "petawatch" / "spool-n1.sqlite").stat().st_size > 0
    # The record, the facts, and that it started and stopped.
    assert "spooled=4" in done.stderr


def test_one_gpu_hangs_and_the_process_reads_the_others_and_stops(
    node: FakeNvml, tmp_path: Path
) -> None:
    """Thirty seconds in the driver, as a broken one takes; nobody waits for them."""
    gpus = eight_gpus()
    node.write(gpus)
    with subprocess.Popen(
        [PETAWATCH, "agent", "--stdout", "--interval", "0.2"], env=environment(node, tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        next_record(process)
        gpus[2] = replace(gpus[2], hang_s={"nvmlDeviceGetFieldValues": 30})
        node.write(gpus)
        now: list[dict[str, Any]] = []
        for _ in range(40):
            now = next_record(process)["gpus"]
            if now[2]["down_us"] > 1_000_000:
                break
        began = CLOCK.monotonic_us()
        process.terminate()
        _, errors = process.communicate(timeout=60)
        took_us = CLOCK.monotonic_us() - began
    assert process.returncode == 0, errors
    assert took_us < 8_000_000
    assert now[2]["down_us"] > 1_000_000
    assert "gpu_hung" in errors
    assert "power_w" not in now.pop(2)
    assert all("power_w" in gpu and gpu["down_us"] == 0 for gpu in now)


def test_sigusr1_lets_the_driver_go_and_takes_it_back(node: FakeNvml, tmp_path: Path) -> None:
    node.write(eight_gpus())
    with subprocess.Popen(
        [PETAWATCH, "agent", "--stdout", "--interval", "0.1"], env=environment(node, tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        next_record(process)
        told: list[str] = []
        for kind in ("driver_released", "driver_back"):
            process.send_signal(signal.SIGUSR1)
            while not told or told[-1] != kind:
                told += [x["event"]["kind"] for x in lines(process.stdout.readline(), "event")]
        while "power_w" not in next_record(process)["gpus"][0]:
            pass
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert [kind for kind in told if kind != "agent_start"] == ["driver_released", "driver_back"]


def test_without_a_driver_a_service_stays_and_finds_it_later(
    node: FakeNvml, tmp_path: Path
) -> None:
    node.write([], init=9)
    with subprocess.Popen(
        [PETAWATCH, "agent", "--stdout", "--wait-for-driver", "true", "--interval", "0.1"],
        env=environment(node, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        facts: list[dict[str, Any]] = []
        while not facts:
            facts = lines(process.stdout.readline(), "facts")
        assert "driver not loaded" in facts[0]["facts"]["missing"]["driver"]
        node.write(eight_gpus())
        assert len(next_record(process)["gpus"]) == 8
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_driver_and_library_that_differ_end_it_for_the_supervisor(
    node: FakeNvml, tmp_path: Path
) -> None:
    node.write([], init=18)
    done = run(node, tmp_path, "--once", "--stdout")
    assert done.returncode == 75, done.stderr
    assert "start again, or reboot" in done.stderr
    gpus = eight_gpus()
    node.write(gpus)
    with subprocess.Popen(
        [PETAWATCH, "agent", "--bus", f"sqlite:///{tmp_path}/bus.sqlite", "--interval", "0.1"],
        env=environment(node, tmp_path), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not (tmp_path / "bus.sqlite").exists():
            assert process.poll() is None
        node.write([replace(gpu, fails={"all": 18}) for gpu in gpus])
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "restart_needed" in errors
    assert "Traceback" not in errors


def test_exporters_are_read_instead(tmp_path: Path) -> None:
    page = Path(__file__).parents[1] / "captures" / "nvidia-h100-80gb-hbm3__590.48.01__load.prom"
    shutil.copy(page, tmp_path / "metrics")
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        done = run(None, tmp_path, "--scrape", url, "--once", "--stdout")
        server.shutdown()
    assert done.returncode == 0, done.stderr
    [record] = lines(done.stdout)
    assert record["gpus"][0]["power_w"] == pytest.approx(625.68)
    [facts] = lines(done.stdout, "facts")
    assert facts["facts"]["source"] == "scrape"


def test_exporters_of_which_none_answers_are_no_success(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = run(None, tmp_path, "--scrape", url, "--once", "--stdout")
    assert (done.returncode, done.stdout) == (1, "")
    assert "exporter_away" in done.stderr
    assert "no exporter has answered" in done.stderr


class QuietHandler(SimpleHTTPRequestHandler):
    """A folder over HTTP."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name there
        """Nothing is said of each request."""


def test_who_reads_its_lines_may_leave(node: FakeNvml, tmp_path: Path) -> None:
    node.write(eight_gpus())
    with subprocess.Popen(
        [PETAWATCH, "agent", "--stdout", "--interval", "0.1"], env=environment(node, tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        next_record(process)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(30) == 0, errors
    assert "Traceback" not in errors


def test_metrics_are_served_while_it_runs(node: FakeNvml, tmp_path: Path) -> None:
    node.write(eight_gpus())
    kept = environment(node, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept["PETAWATCH_AGENT_METRICS_PORT"] = str(port)
    with subprocess.Popen(
        [PETAWATCH, "agent", "--bus", f"sqlite:///{tmp_path}/bus.sqlite", "--interval", "0.1"],
        env=kept, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        page, records = "", 0
        while records < 3:
            assert process.poll() is None
            with suppress(urllib.error.URLError):
                address = f"http://127.0.0.1:{port}/metrics"
                page = urllib.request.urlopen(address, timeout=5).read().decode()
                records = int(page.split("\npetawatch_agent_records_total ")[1].split()[0])
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert page.count('state="ok"} 1') == 8
    assert 'petawatch_agent_messages_total{end="put"}' in page


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
