"""Sets a fresh machine up: the virtual environment, and the tools that tests use.

Standard library only, since it runs before anything is installed.

    python3 deploy/setup.py environment run|dev
    python3 deploy/setup.py tools [--install]

Packages come from the lock files by hash.  What cannot be had is named, with
what to do; only a missing environment stops (exit status 3).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCKS = {"run": "requirements.lock", "dev": "requirements-dev.lock"}
OLDEST = (3, 11)
# What a test needs → commands of which one is enough, Debian packages, and what goes without it.
# What the real services need, deploy/services/services.py knows.
TOOLS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "Chromium": (("chromium", "chromium-browser", "google-chrome"), ("chromium",), "browser tests"),
    "Alertmanager": (
        ("prometheus-alertmanager", "alertmanager"),
        ("prometheus-alertmanager",),
        "tests on a real Alertmanager",
    ),
    "Slurm": (
        ("slurmdbd",),
        ("slurm-wlm", "slurmdbd", "munge", "mariadb-server"),
        "tests on a real Slurm",
    ),
    "gcc": (("gcc", "cc"), ("gcc", "libc6-dev"), "tests on a stand-in for the NVIDIA library"),
}


# Servers are beside what a person's own search finds.
_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def say(text: str) -> None:
    """A line for the person who typed make."""
    print(f"petawatch set-up: {text}", flush=True)


def stop(text: str) -> int:
    """The environment cannot be made: says why, and gives the exit status."""
    say(text)
    return 3


def call(*command: str | Path) -> int:
    """Runs a command in the project's folder, its output shown; 127 when it is not there."""
    try:
        return subprocess.run([*map(str, command)], cwd=ROOT, check=False).returncode  # noqa: S603
    except OSError:
        return 127


def answers(*command: str | Path) -> bool:
    """Whether a command runs and succeeds."""
    try:
        done = subprocess.run([*map(str, command)], check=False, capture_output=True)  # noqa: S603
    except OSError:
        return False
    return done.returncode == 0


def uv_command() -> list[str] | None:
    """uv where there is one, since it installs ten times faster; else pip does."""
    for command in (["uv"], [sys.executable, "-m", "uv"]):
        if answers(*command, "--version"):
            return command
    return None


def environment(kind: str) -> int:
    """Makes `.venv`, installs the lock, then this project in place."""
    if sys.version_info[:2] < OLDEST:
        return stop("Python 3.11 or later is needed; write PYTHON=/path/to/it behind make")
    uv = uv_command()
    if not answers(PYTHON, "-c", "") and (status := _make_venv(uv)):
        return status
    locks = ["-r", "requirements-build.lock", "-r", LOCKS[kind]]
    if uv:
        install = [*uv, "pip", "install", "--quiet", "--python", str(PYTHON)]
    else:
        if not answers(PYTHON, "-m", "pip", "--version"):
            call(PYTHON, "-m", "ensurepip")
        install = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    say(f"installing {LOCKS[kind]}")
    if call(*install, "--require-hashes", *locks):
        return stop("the packages could not be installed (see above); is the index reachable?")
    return call(*install, "--no-deps", "--no-build-isolation", "--editable", ".")


def _make_venv(uv: list[str] | None) -> int:
    say(f"making .venv with Python {sys.version.split()[0]}")
    shutil.rmtree(VENV, ignore_errors=True)
    if uv and call(*uv, "venv", "--quiet", "--python", sys.executable, str(VENV)) == 0:
        return 0
    if not answers(sys.executable, "-c", "import ensurepip, venv"):
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        if not _apt((package,)):
            return stop(f"this Python comes without venv: install it (Debian: {package})")
    return call(sys.executable, "-m", "venv", VENV)


def _apt(packages: tuple[str, ...]) -> bool:
    """Installs Debian packages where that may be done without asking: as root."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    say(f"installing {', '.join(packages)}")
    quiet = ["-qq", "-o", "Dpkg::Use-Pty=0"]
    call("apt-get", "update", *quiet)
    return call("apt-get", "install", "-y", "--no-install-recommends", *quiet, *packages) == 0


def here(commands: tuple[str, ...]) -> bool:
    """Whether one of the commands is there."""
    return any(shutil.which(name, path=_PATH) for name in commands)


def tools(*, install: bool) -> int:
    """Names what tests will have to do without, after installing what can be."""
    missing = {name: row for name, row in TOOLS.items() if not here(row[0])}
    if missing and install and _apt(tuple(p for row in missing.values() for p in row[1])):
        missing = {name: row for name, row in TOOLS.items() if not here(row[0])}
    for name, (_, packages, purpose) in missing.items():
        say(f"{name} is not here: {purpose} will be left out (Debian: {' '.join(packages)})")
    return 0


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Sets a fresh machine up.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("environment").add_argument("kind", choices=sorted(LOCKS))
    commands.add_parser("tools").add_argument("--install", action="store_true")
    given = parser.parse_args()
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    if given.command == "environment":
        return environment(given.kind)
    return tools(install=given.install)


if __name__ == "__main__":
    sys.exit(main())
