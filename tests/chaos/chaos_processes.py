"""Processes that are killed, stopped and started again, each as it was."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from chaos_disk import Disk

ROOT = Path(__file__).parents[2]
_SERVICES = ROOT / "deploy" / "services" / "services.py"
_NEW_SEGMENTS = ROOT / "deploy" / "influxdb" / "new-segments.sh"


class Target:
    """One process; `kind` is what it is counted as."""

    def __init__(
        self,
        name: str,
        kind: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str],
        user: str | None = None,
    ) -> None:
        self.name, self.kind = name, kind
        self.words, self._log = list(command), log
        self._env = dict(env)
        self._user = user
        self.port: int | None = None
        """Where a service listens."""
        self.before: Sequence[str] = ()
        """A command that must succeed before every start."""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, unless it runs."""
        if self.alive:
            return
        if self.before and subprocess.run(self.before, check=False).returncode != 0:
            return
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                self.words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self._env,
                user=self._user, cwd="/" if self._user else None,
            )  # fmt: skip

    def answers(self) -> bool:
        """Whether a service takes connections; whoever is none always does."""
        if self.port is None:
            return True
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                return True
        except OSError:
            return False

    @property
    def alive(self) -> bool:
        """Whether it runs (or is stopped)."""
        return self._process is not None and self._process.poll() is None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The one that was started last."""
        assert self._process is not None
        return self._process

    def signal(self, number: int) -> None:
        """Sends a signal; nothing where it has ended."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def end(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; kills what does not end in time.  Returns the exit status."""
        if self._process is None:
            return 0
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9

    def log_end(self, characters: int = 2_000) -> str:
        """The end of what it said."""
        return self._log.read_text(errors="replace")[-characters:] if self._log.exists() else ""


class Services:
    """A Kafka, an InfluxDB and perhaps a PostgreSQL of this run's own: nothing that others use is touched.

    Raises MissingServicesError where they cannot be started from what is cached.
    """

    def __init__(self, folder: Path, disks: Mapping[str, Disk]) -> None:
        shared = Path(os.environ.get("PETAWATCH_CACHE") or Path.home() / ".cache" / "petawatch")
        self._folder, self._cache = folder, folder / "cache"
        self._cache.mkdir(parents=True)
        for part in (*shared.glob("kafka-*"), *shared.glob("influxd-*")):
            (self._cache / part.name).symlink_to(part)
        self._env = {**os.environ, "PETAWATCH_CACHE": str(self._cache)}
        self._env |= {"PETAWATCH_BUS": "", "PETAWATCH_STORE": "", "PETAWATCH_BOOKS": ""}
        self.settings: dict[str, str] = {}
        self.targets: list[Target] = []
        for name, kind in (("kafka", "broker"), ("influx", "database"), ("postgres", "database")):
            if name in disks:
                self._start(name, kind, disks[name].folder)

    def _start(self, name: str, kind: str, data: Path) -> None:
        command = [
            sys.executable,
            str(_SERVICES),
            "start",
            "--cached",
            f"--{name}",
            "--dir",
            str(data),
        ]
        done = subprocess.run(command, capture_output=True, text=True, env=self._env, check=False)
        if done.returncode != 0:
            raise MissingServicesError(done.stderr.strip())
        lines = [line.partition("=") for line in done.stdout.splitlines()]
        self.settings |= {key: value for key, mark, value in lines if mark}
        state = json.loads((self._cache / "services.json").read_text(encoding="utf-8"))[name]
        if "pid" not in state:
            raise MissingServicesError(f"{name} runs in a container here: its process is needed")
        process = Path(f"/proc/{state['pid']}")
        words = (process / "cmdline").read_bytes().split(b"\0")[:-1]
        owner = process.owner()
        user = None if owner == Path("/proc/self").owner() else owner
        # From here on it is a child of this process, so that its end is seen.
        os.kill(state["pid"], signal.SIGKILL)
        target = Target(
            name, kind, [word.decode() for word in words], self._folder / f"{name}.log",
            os.environ, user,
        )  # fmt: skip
        target.port = int(state["address"].rpartition(":")[2])
        if "--engine-path" in target.words:
            engine = target.words[target.words.index("--engine-path") + 1]
            target.before = ["/bin/sh", str(_NEW_SEGMENTS), f"{engine}/wal"]
        target.start()
        self.targets.append(target)


class MissingServicesError(RuntimeError):
    """There is no such service here to be killed; the text says why."""
