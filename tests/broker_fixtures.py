"""A real Kafka of a test's own, to be killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

_SERVICES = Path(__file__).parents[1] / "deploy" / "services" / "services.py"


class Broker:
    """A Kafka of this test's own that can be killed and started again with its data and port."""

    def __init__(self, cache: Path, url: str) -> None:
        self.address = url.removeprefix("kafka://")
        state = json.loads((cache / "services.json").read_text(encoding="utf-8"))["kafka"]
        self._command = Path(f"/proc/{state['pid']}/cmdline").read_bytes().split(b"\0")[:-1]
        self._pid: int = state["pid"]
        self._again: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """As a power cut would."""
        os.kill(self._pid, signal.SIGKILL)

    def start(self) -> None:
        """Starts it again; it answers some seconds later."""
        self._again = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._pid = self._again.pid

    def end(self) -> None:
        """Ends what `start` started."""
        if self._again is not None:
            self._again.kill()
            self._again.wait()


@pytest.fixture
def broker(tmp_path: Path, kafka_url: str) -> Generator[Broker]:
    """A broker beside the shared one, from the same jars."""
    shared = Path(os.environ.get("PETAWATCH_CACHE") or Path.home() / ".cache" / "petawatch")
    cache = tmp_path / "cache"
    cache.mkdir()
    for jars in shared.glob("kafka-*"):
        (cache / jars.name).symlink_to(jars)
    if not list(cache.iterdir()):
        pytest.skip("the shared Kafka does not run from jars")
    env = {**os.environ, "PETAWATCH_CACHE": str(cache), "PETAWATCH_BUS": ""}
    command = [sys.executable, str(_SERVICES), "start", "--kafka"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    running = Broker(cache, done.stdout.strip().partition("=")[2])
    yield running
    running.end()
    subprocess.run([sys.executable, str(_SERVICES), "stop"], env=env, check=True)
