"""SIGTERM and kill -9 of the whole agent while no bus answers: what was read is on disk."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest
from manual_clock import ManualClock

from collectors.agent.spool import Spool
from collectors.contract.bus import Message
from collectors.contract.topics import EVENTS, GPU, Event
from collectors.contract.wire import parse


@pytest.fixture
def silent_broker() -> Generator[str]:
    """An address that takes connections and never says a word, as behind a dead switch."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"kafka://127.0.0.1:{server.getsockname()[1]}"


def start(bus: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-c", "from collectors.cli import main; main()", "agent",
        "--backend", "sim", "--bus", bus, "--node", "n1", "--spool", str(folder / "spool"),
        "--interval-s", "0.2", "--metrics-port", "0",
    ]  # fmt: skip
    environ = {name: text for name, text in os.environ.items() if "PETAWATCH" not in name}
    with (folder / "log").open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=environ)


def wait_for_disk(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until the spool has something and a while longer."""
    wal = folder / "spool-wal"
    until_s = time.monotonic() + 60
    while not wal.exists() or wal.stat().st_size < 150_000:
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < until_s, (folder / "log").read_text()
        time.sleep(0.05)


async def spooled(path: Path) -> list[Message]:
    spool = Spool(path, ManualClock())
    await spool.open()
    found: list[Message] = []
    while some := await spool.next():
        found += some
        await spool.done()
    await spool.close()
    return found


def sequences(found: list[Message]) -> list[int]:
    return [parse(one.value).sequence for one in found if one.topic == GPU]


async def test_sigterm(silent_broker: str, tmp_path: Path) -> None:
    process = start(silent_broker, tmp_path)
    try:
        wait_for_disk(process, tmp_path)
        asked_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
        assert time.monotonic() - asked_s < 20
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    found = await spooled(tmp_path / "spool")
    numbers = sequences(found)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 3
    kinds = [
        msgspec.json.decode(one.value, type=Event).kind for one in found if one.topic == EVENTS
    ]
    assert (kinds[0], kinds[-1]) == ("agent_start", "agent_stop")
    assert "messages_dropped" not in (tmp_path / "log").read_text()


async def test_kill(silent_broker: str, tmp_path: Path) -> None:
    process = start(silent_broker, tmp_path)
    try:
        wait_for_disk(process, tmp_path)
    finally:
        process.kill()
        process.wait()
    numbers = sequences(await spooled(tmp_path / "spool"))
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 3
