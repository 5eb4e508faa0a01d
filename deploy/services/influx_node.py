"""One InfluxDB 2.x on loopback: from a cached binary, from an image, or built from its Go module."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from processes import (
    MissingError,
    Settings,
    docker_answers,
    docker_run,
    free_port,
    install,
    say,
    spawn,
    wait_for_answer,
)

VERSION = "2.9.1"
IMAGE = f"influxdb:{VERSION}"
ORG, BUCKET = "petawatch", "petawatch"
_TOOLS = ("go", "cargo", "rustc", "gcc", "pkg-config")
_PACKAGES = ("gcc", "libc6-dev", "pkg-config")


def start(cache: Path, data: Path, *, may_install: bool) -> Settings:
    """Starts a server, waits for its answer and sets it up.  Raises MissingError."""
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = _start(cache, data, port, may_install=may_install)
    settings["address"] = f"127.0.0.1:{port}"
    wait_for_answer(settings, lambda: answers(settings["address"]), "InfluxDB")
    settings["token"] = _set_up(settings["address"], data / "token")
    return settings


def _start(cache: Path, data: Path, port: int, *, may_install: bool) -> Settings:
    binary = _binary(cache)
    if not binary.is_file() and docker_answers():
        return docker_run(["--publish", f"127.0.0.1:{port}:8086", IMAGE], "InfluxDB")
    if not binary.is_file():
        _build(cache, may_install=may_install)
    begin_segments(data / "engine")
    command = [
        binary,
        *("--http-bind-address", f"127.0.0.1:{port}"),
        *("--engine-path", data / "engine"),
        *("--bolt-path", data / "influxd.bolt"),
        *("--sqlite-path", data / "influxd.sqlite"),
        *("--reporting-disabled", "--ui-disabled", "--log-level", "warn"),
    ]
    return spawn(command, data / "influxd.log")


def begin_segments(engine: Path) -> bool:
    """What is due before every start of InfluxDB: `deploy/influxdb/new-segments.sh`.  Whether it
    could be done; InfluxDB must not run."""
    script = Path(__file__).parents[1] / "influxdb" / "new-segments.sh"
    done = subprocess.run(["/bin/sh", str(script), str(engine / "wal")], check=False)  # noqa: S603
    return done.returncode == 0


def at_hand(cache: Path) -> bool:
    """Whether a start would not have to build."""
    return _binary(cache).is_file() or docker_answers()


def _binary(cache: Path) -> Path:
    return cache / f"influxd-{VERSION}" / "influxd"


def _build(cache: Path, *, may_install: bool) -> None:
    if may_install and any(shutil.which(tool) is None for tool in ("gcc", "pkg-config")):
        install(_PACKAGES)
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if lacking:
        raise MissingError(
            f"InfluxDB: {', '.join(lacking)} missing to build it, and no Docker engine answers."
            " Install Go 1.25 or later, Rust, gcc and pkg-config;"
            " or give PETAWATCH_STORE=influxdb://HOST:PORT?org=ORG and PETAWATCH_INFLUX_TOKEN."
        )
    say(f"InfluxDB {VERSION}: building it, once")
    script = Path(__file__).with_name("build-influxd.sh")
    done = subprocess.run(["/bin/sh", str(script), str(cache)], stdout=sys.stderr, check=False)  # noqa: S603
    if done.returncode != 0:
        raise MissingError("InfluxDB: the build failed, see above.")


def _set_up(address: str, kept: Path) -> str:
    """The operator's token: a new one, or the one of these data."""
    if not json.loads(_get(f"http://{address}/api/v2/setup"))["allowed"]:
        return kept.read_text(encoding="utf-8")
    token = secrets.token_urlsafe(32)
    kept.touch(mode=0o600)
    kept.write_text(token, encoding="utf-8")
    body = {
        "username": "petawatch",
        "password": secrets.token_urlsafe(24),
        "org": ORG,
        "bucket": BUCKET,
        "token": token,
        "retentionPeriodSeconds": 0,
    }
    request = urllib.request.Request(
        f"http://{address}/api/v2/setup",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=20):  # noqa: S310
        return token


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
        return answer.read()


def answers(address: str) -> bool:
    """Whether a server at HOST:PORT says that it is well."""
    try:
        return json.loads(_get(f"http://{address}/health")).get("status") == "pass"
    except (OSError, ValueError, urllib.error.URLError):
        return False
