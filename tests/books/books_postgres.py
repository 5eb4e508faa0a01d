"""A PostgreSQL server of the tests' own, in a folder of its own, on a free loopback port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _binary(name: str) -> str:
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    found = shutil.which(name) or next((str(place) for place in places), None)
    if found is None:
        pytest.skip(f"PostgreSQL is not installed here ({name} is missing)")
    return str(Path(found).resolve())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def postgres() -> Generator[str]:
    """The URL of a running server; it is stopped in the end.  Skips where there is no PostgreSQL."""
    initdb, pg_ctl = _binary("initdb"), _binary("pg_ctl")
    with (
        tempfile.TemporaryDirectory(prefix="petawatch-postgres-") as folder,
        _server(Path(folder), initdb, pg_ctl) as url,
    ):
        yield url


@contextmanager
def _server(folder: Path, initdb: str, pg_ctl: str) -> Generator[str]:
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    data = folder / "data"
    data.mkdir()
    if user is not None:
        shutil.chown(folder, user)
        shutil.chown(data, user)
    port = _free_port()
    options = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories='' -c fsync=off"

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, cwd=data, stdout=subprocess.DEVNULL)

    run(initdb, "-D", str(data), "-U", "books", "-A", "trust", "-E", "UTF8", "--no-sync")
    run(pg_ctl, "-D", str(data), "-w", "-l", str(data / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://books@127.0.0.1:{port}/postgres"
    finally:
        run(pg_ctl, "-D", str(data), "-m", "immediate", "-w", "stop")
