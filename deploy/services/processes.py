"""Processes, ports and waiting, for the services that tests and trials run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Settings = dict[str, Any]
"""A service as the state file keeps it: plain JSON values."""


class MissingError(RuntimeError):
    """A service cannot be had here; the text says what is missing."""


def say(text: str) -> None:
    """Progress, for the person; standard output is for settings."""
    print(text, file=sys.stderr, flush=True)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def spawn(
    command: Sequence[str | Path],
    log: Path,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
) -> Settings:
    """Starts a server that outlives this program, as `user` where given; returns its `pid` and
    `born`."""
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **(env or {})},
            user=user,
            cwd="/" if user else None,
        )
    return {"pid": process.pid, "born": _born(process.pid), "log": str(log)}


def _born(pid: int) -> str:
    """When a process started, in the kernel's words: a pid alone may be somebody else's by now."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return _born_without_proc(pid)
    return "" if fields[0] == "Z" else fields[19]


def _born_without_proc(pid: int) -> str:
    ps = shutil.which("ps")
    if ps is None or Path("/proc/self/stat").exists():
        return ""
    command = [ps, "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603


def alive(settings: Settings) -> bool:
    """Whether the process or container of a service runs."""
    if "container" in settings:
        return bool(_docker("ps", "-q", "--no-trunc", "--filter", f"id={settings['container']}"))
    return "pid" in settings and _born(settings["pid"]) == settings["born"] != ""


def stop(settings: Settings, patience_s: float = 20.0) -> None:
    """Ends a service: asks first, kills after `patience_s`."""
    if "container" in settings:
        _docker("rm", "--force", "--volumes", settings["container"])
        return
    first = settings.get("stop_signal", int(signal.SIGTERM))
    for wish, wait_s in ((first, patience_s), (signal.SIGKILL, 5.0)):
        if not alive(settings):
            return
        os.kill(settings["pid"], wish)
        wait_until(lambda: not alive(settings), wait_s)


def wait_until(true: Callable[[], bool], within_s: float) -> bool:
    """Asks again and again; whether it became true in time."""
    deadline_s = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def wait_for_answer(
    settings: Settings, answers: Callable[[], bool], name: str, within_s: float = 60.0
) -> None:
    """Returns when the service answers.  Raises MissingError with the end of its log."""
    if wait_until(lambda: answers() or not alive(settings), within_s) and answers():
        return
    stop(settings)
    log = Path(settings.get("log", ""))
    end = log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.is_file() else ""
    raise MissingError(f"{name} was started and did not answer.\n{end}".rstrip())


def docker_answers() -> bool:
    """Whether there is a Docker engine behind the docker command."""
    return bool(_docker("info", "--format", "{{.ServerVersion}}"))


def docker_run(arguments: Sequence[str], name: str) -> Settings:
    """Starts a container.  Raises MissingError."""
    say(f"{name}: starting a container")
    container = _docker("run", "--detach", *arguments, within_s=600)
    if not container:
        raise MissingError(f"{name}: docker run failed")
    return {"container": container}


def _docker(*arguments: str, within_s: float = 20.0) -> str:
    program = shutil.which("docker")
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603
            [program, *arguments], capture_output=True, text=True, timeout=within_s, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def install(packages: Sequence[str]) -> None:
    """Installs Debian packages where this is root on Debian; else says what to do."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise MissingError(
            f"--install needs root and apt-get; install these yourself: {' '.join(packages)}"
        )
    say(f"installing {' '.join(packages)}")
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(  # noqa: S603
            [apt, "-q", *arguments],
            stdout=sys.stderr,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )
        if done.returncode != 0:
            raise MissingError(f"apt-get {arguments[0]} failed, see above.")
