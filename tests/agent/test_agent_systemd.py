"""The unit: systemd takes it, it gives away nothing that is not needed, and is told the truth."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from manual_clock import ManualClock

from collectors.agent.commands import RESTART_STATUS
from collectors.agent.systemd import Supervisor

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "systemd"
UNIT = FOLDER / "petawatch-agent.service"
DROP_INS = sorted((FOLDER / "drop-ins").glob("*.conf"))


def settings(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[":
            key, separator, value = line.partition("=")
            assert separator, line
            found[key].append(value)
    return found


def test_systemd_takes_the_unit_with_every_drop_in(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed here")
    text = UNIT.read_text().replace("/opt/petawatch/bin/petawatch", sys.executable)
    (tmp_path / UNIT.name).write_text(text)
    folder = tmp_path / f"{UNIT.name}.d"
    folder.mkdir()
    for path in DROP_INS:
        shutil.copy(path, folder)
    done = subprocess.run(
        [analyze, "verify", "--man=no", tmp_path / UNIT.name],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_the_unit_gives_away_nothing_by_itself() -> None:
    unit = settings(UNIT)
    assert unit["CapabilityBoundingSet"] == [""]
    assert unit["AmbientCapabilities"] == [""]
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["DynamicUser"] == ["yes"]
    assert unit["DevicePolicy"] == ["closed"]
    assert all("nvidia" in device for device in unit["DeviceAllow"])


def test_the_unit_and_the_command_mean_the_same_statuses() -> None:
    unit = settings(UNIT)
    assert unit["Type"] == ["notify"]
    assert int(unit["WatchdogSec"][0]) >= 30
    assert unit["RestartForceExitStatus"] == [str(RESTART_STATUS)]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert "PETAWATCH_AGENT_WAIT_FOR_DRIVER=true" in unit["Environment"]


@pytest.mark.parametrize("path", DROP_INS, ids=lambda path: path.stem)
def test_each_drop_in_gives_what_the_documents_say(path: Path) -> None:
    given = settings(path)
    assert given["CapabilityBoundingSet"] == given["AmbientCapabilities"]
    text = (ROOT / "docs" / "agent.md").read_text()
    [row] = [line for line in text.splitlines() if f"`{path.name}`" in line]
    assert set(re.findall(r"CAP_\w+", row)) == set(given["AmbientCapabilities"][0].split())


class Told:
    """systemd's end of the socket."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.setblocking(False)

    def lines(self) -> list[str]:
        out: list[str] = []
        while True:
            try:
                out += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return out

    def close(self) -> None:
        self.socket.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_with_the_first_tick_and_alive_with_those_that_happen(
    abstract: bool, tmp_path: Path
) -> None:
    name = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    told = Told(name.replace("@", "\0", 1) if abstract else name)
    clock = ManualClock()
    supervisor = Supervisor(clock, {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "4000000"})
    assert told.lines() == [], "nothing before a tick has happened"
    supervisor.alive(lambda: "8 slots")
    assert told.lines() == ["READY=1", "STATUS=8 slots", "WATCHDOG=1", "STATUS=8 slots"]
    for _ in range(10):
        clock.move(0.5)
        supervisor.alive(lambda: "8 slots")
    assert told.lines().count("WATCHDOG=1") == 5, "not each tick"
    clock.move(60)
    assert told.lines() == [], "time alone feeds no watchdog"
    supervisor.stopping()
    assert told.lines() == ["STOPPING=1"]
    told.close()


def test_without_a_supervisor_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    Supervisor(ManualClock(), {}).alive(str)
    Supervisor(ManualClock(), {"NOTIFY_SOCKET": str(tmp_path / "nobody")}).alive(str)


def test_another_process_watchdog_is_not_fed(tmp_path: Path) -> None:
    told = Told(str(tmp_path / "notify"))
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    Supervisor(ManualClock(), environ).alive(lambda: "x")
    assert told.lines() == ["READY=1", "STATUS=x"]
    told.close()
