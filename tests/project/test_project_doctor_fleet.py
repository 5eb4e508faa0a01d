"""`doctor --fleet` against a server, and `doctor --gpu` against backends of every mood."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from collectors import doctor, doctor_gpu
from collectors.contract.facts import GpuFacts
from collectors.contract.record import SlotLabels
from collectors.contract.source import (
    BackendUnavailableError,
    DeviceEvent,
    DeviceLostError,
    DriverGoneError,
    GpuProcess,
    Sample,
    UnsupportedError,
)
from collectors.kit import plugins
from collectors.kit.checks import Check, Verdict

GPU: dict[str, Any] = {
    "slot": "0000:1b:00.0", "flop_method": "gpm_pipe", "unsupported": {"fan_ratio": "passively cooled"},
}  # fmt: skip


def agent(node: str, **changes: Any) -> dict[str, Any]:
    return {
        "node": node, "known": True, "installed": True, "version": "0.1.0", "driver": "590.48.01",
        "source": "nvml", "age_s": 5.0, "clock_offset_us": 800.0, "spooled": 0, "dropped": 0,
        "missing": {}, "gpus": [GPU] * 8, "new_field": 1, **changes,
    }  # fmt: skip


class Api:
    """Answers as the API does; remembers what it was asked with."""

    def __init__(self) -> None:
        self.agents: list[dict[str, Any]] = []
        self.reporting: dict[str, int | None] = {}
        self.token: str | None = None
        self.moved_to: str | None = None
        self.seen: list[str | None] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base's
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        given = handler.headers.get("Authorization")
        self.seen.append(given)
        if self.moved_to:
            handler.send_response(302)
            handler.send_header("Location", self.moved_to + handler.path)
            handler.end_headers()
            return
        wrong = self.token is not None and given != f"Bearer {self.token}"
        rows = [{"node": node, "gpus_reporting": many} for node, many in self.reporting.items()]
        body = {"agents": self.agents} if handler.path == "/api/v1/agents" else {"nodes": rows}
        handler.send_response(401 if wrong else 200)
        handler.end_headers()
        handler.wfile.write(json.dumps(body).encode())

    def doctor(self, *options: str) -> Result:
        return CliRunner().invoke(doctor.doctor, ["--fleet", "--url", self.url, *options])


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_healthy_fleet_is_said_in_a_line_each(api: Api) -> None:
    api.agents = [agent("n1"), agent("n2")]
    api.reporting = {"n1": 8, "n2": None}
    found = api.doctor()
    assert found.exit_code == 0, found.output
    assert (
        "✓ ok    n1             nvml 0.1.0, driver 590.48.01, clock +1 ms, 8 × gpm_pipe"
        in found.output
    )
    assert found.output.count("fan_ratio") == 1
    assert "not given on n1, n2: passively cooled" in found.output


@pytest.mark.parametrize(
    ("changes", "reporting", "said", "fails"),
    [
        ({"known": False}, None, "no agent has said anything", True),
        ({"known": False}, 8, "8 GPUs report, by no agent of ours", False),
        ({}, 0, "silent", True),
        ({"gpus": [{**GPU, "state": "lost"}]}, 8, "0000:1b:00.0 lost", True),
        ({"clock_offset_us": -2_500_000.0}, 8, "clock -2.5 s off", False),
        ({"clock_offset_us": None}, 8, "gpm_pipe", False),
        ({"spooled": 1_234}, 8, "1,234 records wait on its disk", False),
        ({"dropped": 7}, 8, "7 records dropped", False),
        ({"age_s": 3_600.0}, 8, "last heard 60 min ago", False),
        ({"installed": False}, None, "not in the inventory", False),
        ({"installed": False}, None, "petawatch draft-site", False),
        ({"unlisted": ["0000:1b:00.0"], "slots_line": "slots = [x]"}, 0, "lacks, so that", True),
        ({"unlisted": ["0000:1b:00.0"], "slots_line": "slots = [x]"}, 0, "toml: slots = [x]", True),
        ({"unheard": ["0000:01:00.0"], "slots_line": "slots = [x]"}, 7, "does not know", True),
        ({"unheard": ["0000:01:00.0"], "slots_line": "slots = [x]"}, 7, "Look for what", True),
        ({"unheard": ["0000:01:00.0"], "gpus": []}, None, "petawatch doctor --gpu", True),
        ({"unlisted": [f"0000:0{n}:00.0" for n in range(8)]}, 0, "02:00.0 and 5 more", True),
        ({"installed": False, "unlisted": ["0000:1b:00.0"]}, None, "not in the", False),
        ({"missing": {"kernel_log": "grant CAP_SYSLOG"}}, 8, "grant CAP_SYSLOG", False),
        ({"gpus": []}, 8, "no GPUs", False),
    ],
)
def test_what_is_amiss_is_said(
    api: Api, changes: dict[str, Any], reporting: int | None, said: str, fails: bool
) -> None:
    api.agents, api.reporting = [agent("n1", **changes)], {"n1": reporting}
    found = api.doctor()
    assert said in found.output
    assert found.exit_code == int(fails)


def test_what_an_instance_leaves_to_its_gpu_is_not_lacking(api: Api) -> None:
    shared = {"power_w": "shared by all instances", "sm_activity": "none before Hopper"}
    part = {"slot": "0000:1b:00.0/1/0", "parent": GPU["slot"], "unsupported": shared}
    api.agents, api.reporting = [agent("n1", gpus=[GPU, part])], {"n1": 1}
    said = api.doctor().output
    assert "1 × gpm_pipe" in said
    assert "none" not in said.partition("\n")[0]
    assert "power_w" not in said
    assert "sm_activity" in said


def test_mixed_versions_and_many_nodes_are_summed_up(api: Api) -> None:
    api.agents = [agent(f"n{n}") for n in range(9)] + [agent("old", version="0.0.9")]
    found = api.doctor()
    assert "0.1.0 on 9, 0.0.9 on 1" in found.output
    assert "not given on n0, n1, n2 and 7 more: passively cooled" in found.output


def test_json_is_one_object_a_line(api: Api) -> None:
    api.agents = [agent("n1")]
    rows = [json.loads(line) for line in api.doctor("--json").output.splitlines()]
    assert rows[0]["name"] == "n1"
    assert rows[0]["verdict"] == "ok"


def test_a_token_is_shown_where_it_is_asked_for(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    api.token, api.agents = "s3cret", [agent("n1")]
    refused = api.doctor()
    assert refused.exit_code == 2
    assert "PETAWATCH_API_TOKEN" in refused.output
    monkeypatch.setenv("PETAWATCH_API_TOKEN", "s3cret")
    assert api.doctor().exit_code == 0
    monkeypatch.delenv("PETAWATCH_API_TOKEN")
    monkeypatch.setenv("PETAWATCH_API_TOKEN_FILE", str(tmp_path / "token"))
    assert api.doctor().exit_code == 2
    (tmp_path / "token").write_text("s3cret\n")
    assert api.doctor().exit_code == 0


def test_a_token_follows_no_redirect(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Api()
    api.moved_to = other.url
    monkeypatch.setenv("PETAWATCH_API_TOKEN", "s3cret")
    assert api.doctor().exit_code == 2
    assert other.seen == []
    other.server.shutdown()
    other.server.server_close()


def test_what_is_no_api_is_said(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.agents = [{"name": "n1"}]
    assert "another form" in api.doctor().output
    for url in ("file:///etc/passwd", "127.0.0.1:8080", "http://"):
        found = CliRunner().invoke(doctor.doctor, ["--fleet", "--url", url])
        assert found.exit_code == 2
        assert "write http://HOST:PORT" in found.output
    found = CliRunner().invoke(doctor.doctor, ["--fleet", "--url", "http://127.0.0.1:1"])
    assert found.exit_code == 2
    assert "does not answer" in found.output
    assert CliRunner().invoke(doctor.doctor, ["--fleet", "--gpu"]).exit_code == 2


class Device:
    """A GPU that says its facts, and may fail."""

    slot, energy_epoch = 1, 1

    def __init__(
        self, facts: Sequence[GpuFacts], error: Exception | None = None,
        hang: threading.Event | None = None,
    ) -> None:  # fmt: skip
        self._facts, self._error, self._hang = facts, error, hang
        self.labels = SlotLabels(1)
        self.reads = 0

    def read(self) -> Sequence[Sample]:
        self.reads += 1
        if self._hang is not None:
            self._hang.wait()
        if self._error is not None:
            raise self._error
        return []

    def processes(self) -> Sequence[GpuProcess]:
        raise UnsupportedError("no")

    def facts(self) -> Sequence[GpuFacts]:
        return self._facts


class Backend:
    """A backend of given devices."""

    driver = "590.48.01"

    def __init__(self, devices: Sequence[Device], hang: threading.Event | None = None) -> None:
        self._devices, self._hang = devices, hang
        self.closed = False
        self.unreadable: dict[str, str] = {}

    def open(self) -> None:
        if self._hang is not None:
            self._hang.wait()

    def devices(self) -> Sequence[Device]:
        return self._devices

    def wait_events(self, timeout_s: float) -> Sequence[DeviceEvent]:
        raise UnsupportedError(f"events need CAP_X (not even {timeout_s} s)")

    def missing(self) -> dict[str, str]:
        return self.unreadable

    def close(self) -> None:
        self.closed = True


def look(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Backend]) -> list[Check]:
    def load(group: str, name: str) -> Callable[[], Backend]:
        assert (group, name) == ("petawatch.backends", "made")
        return make

    monkeypatch.setattr(plugins, "load", load)
    return doctor_gpu.gpu_checks("made", lambda _: None)


def test_gpus_are_read_twice_and_told_with_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = {"fan_ratio": "passively cooled", "persistence_mode": "off"}
    good = GpuFacts(
        "0000:1b:00.0", "GPU-1", "H100", number=3, flop_method="gpm_cycles", unsupported=lacks
    )
    part = GpuFacts("0000:43:00.0/1/0", parent="0000:43:00.0", profile="1g.10gb", flop_method="none",
                    flop_reason="the model is unknown", unsupported={"fan_ratio": "passively cooled"})  # fmt: skip
    whole = GpuFacts("0000:43:00.0", unsupported={"fan_ratio": "passively cooled"})
    devices = [Device([good]), Device([whole, part])]
    backend = Backend(devices)
    found = {check.name: check for check in look(monkeypatch, lambda: backend)}
    assert [device.reads for device in devices] == [2, 2]
    assert backend.closed
    assert found["GPU 3"].verdict is Verdict.OK
    assert found["GPU 3 FLOP"].found == "gpm_cycles"
    assert found["GPU 0000:43:00.0 MIG"].found == "1 instances: 1g.10gb"
    assert found["GPU 0000:43:00.0 FLOP"].verdict is Verdict.WARN
    assert found["GPU 0000:43:00.0 FLOP"].found == "none (1g.10gb): the model is unknown"
    assert found["fan_ratio"].found == "not given by any GPU: passively cooled"
    assert found["persistence_mode"].found == "not given by 0000:1b:00.0: off"
    assert found["Events"].found.startswith("events need CAP_X")
    assert "Kernel log" in found


def test_a_lost_gpu_and_a_gone_driver_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Device([GpuFacts("0000:1b:00.0", state="lost")], DeviceLostError("code 15"))
    found = {check.name: check for check in look(monkeypatch, lambda: Backend([lost]))}
    assert found["GPU 0000:1b:00.0"].verdict is Verdict.FAIL
    assert "code 15" in found["GPU 0000:1b:00.0"].found
    assert not any("FLOP" in name for name in found)
    gone = Device([], DriverGoneError("code 9"))
    found = {check.name: check for check in look(monkeypatch, lambda: Backend([gone]))}
    assert (found["Driver"].verdict, found["Driver"].found) == (Verdict.FAIL, "code 9")

    def nothing() -> Backend:
        raise BackendUnavailableError("no library")

    assert look(monkeypatch, nothing)[0].found == "no library"

    def unforeseen() -> Backend:
        raise ZeroDivisionError

    assert look(monkeypatch, unforeseen)[0].verdict is Verdict.FAIL


def test_a_hanging_driver_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_gpu, "_PATIENCE_S", 0.1)
    hang = threading.Event()
    [check] = look(monkeypatch, lambda: Backend([], hang))
    assert check.verdict is Verdict.FAIL
    assert "has not returned" in check.found
    hang.set()


def test_a_gpu_that_hangs_is_named_and_the_others_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_gpu, "_READING_S", 1.0)
    hang = threading.Event()
    facts = [GpuFacts(f"0000:{n}b:00.0", flop_method="gpm_pipe") for n in (1, 2, 3)]
    devices = [Device([facts[0]]), Device([facts[1]], hang=hang), Device([facts[2]])]
    backend = Backend(devices)
    backend.unreadable = {"gpu_index_7": "GPU is lost (NVML 15)"}
    found = {check.name: check for check in look(monkeypatch, lambda: backend)}
    hang.set()
    assert [found[f"GPU {fact.slot}"].verdict for fact in facts] == [
        Verdict.OK, Verdict.FAIL, Verdict.OK,
    ]  # fmt: skip
    assert "no answer within" in found["GPU 0000:2b:00.0"].found
    assert "reboot" in found["GPU 0000:2b:00.0"].todo
    assert [device.reads for device in devices] == [2, 1, 2]
    assert (found["gpu_index_7"].verdict, found["gpu_index_7"].found) == (
        Verdict.FAIL, "GPU is lost (NVML 15)",
    )  # fmt: skip
    assert backend.closed


def test_the_command_reads_a_simulated_node() -> None:
    found = CliRunner().invoke(doctor.doctor, ["--gpu", "--backend", "sim"])
    assert found.exit_code == 0, found.output
    assert "8 GPUs" in found.output
    assert CliRunner().invoke(doctor.doctor, ["--gpu", "--backend", "none"]).exit_code == 1
