"""The real Kafka, InfluxDB and PostgreSQL: found or started once for all workers of a test run.

Without one, its tests are skipped with the reason, or fail where
PETAWATCH_REQUIRE_STACK=1.  What the run started, it stops.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_SERVICES = Path(__file__).parents[1] / "deploy" / "services" / "services.py"
_RAN_BEFORE = pytest.StashKey[bool]()
_ADDRESSES = ("PETAWATCH_BUS", "PETAWATCH_STORE", "PETAWATCH_INFLUX_TOKEN", "PETAWATCH_BOOKS")
_GIVEN = {name: os.environ[name] for name in _ADDRESSES if name in os.environ}


@dataclass(frozen=True, slots=True)
class Influx:
    """Where the InfluxDB is: `url` with http://, the operator's `token`."""

    url: str
    token: str
    org: str
    store: str
    """The same as a value of PETAWATCH_STORE."""


@pytest.fixture(scope="session")
def kafka_url() -> str:
    """The real Kafka as a value of PETAWATCH_BUS."""
    return _start("--kafka")["PETAWATCH_BUS"]


@pytest.fixture(scope="session")
def influx() -> Influx:
    """The real InfluxDB."""
    settings = _start("--influx")
    store = settings["PETAWATCH_STORE"]
    address, _, org = store.removeprefix("influxdb://").partition("?org=")
    return Influx(
        f"http://{address}", settings["PETAWATCH_INFLUX_TOKEN"], org or "petawatch", store
    )


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """The real PostgreSQL as a value of PETAWATCH_BOOKS, its first database."""
    return _start("--postgres")["PETAWATCH_BOOKS"]


@pytest.fixture(autouse=True)
def no_settings_of_the_shell() -> Iterator[None]:
    """What `make services` prints may stand in the shell: it says where services are, and is no
    default of the commands that are tested."""
    kept = {name: os.environ.pop(name) for name in _ADDRESSES if name in os.environ}
    yield
    os.environ.update(kept)


def _start(which: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, str(_SERVICES), "start", "--cached", which],
        env={**os.environ, **_GIVEN},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        missing = done.stderr.strip() or f"services.py ended with status {done.returncode}"
        if os.environ.get("PETAWATCH_REQUIRE_STACK") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    lines = [line for line in done.stdout.splitlines() if "=" in line]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _state_file() -> Path:
    return (
        Path(os.environ.get("PETAWATCH_CACHE") or Path.home() / ".cache" / "petawatch")
        / "services.json"
    )


def _running() -> bool:
    return _state_file().is_file() and _state_file().read_text(encoding="utf-8").strip() not in {
        "",
        "{}",
    }


def pytest_configure(config: pytest.Config) -> None:
    """Remembers whether the services ran before this run."""
    config.stash[_RAN_BEFORE] = _running()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops what this run started; a worker leaves that to the run it works for."""
    is_worker = hasattr(config, "workerinput")
    if not is_worker and not config.stash[_RAN_BEFORE] and _running():
        subprocess.run([sys.executable, str(_SERVICES), "stop"], check=False)
