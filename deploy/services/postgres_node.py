"""One PostgreSQL on loopback, from Debian's packages or an image."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

from processes import (
    MissingError,
    Settings,
    docker_answers,
    docker_run,
    free_port,
    install,
    spawn,
    wait_for_answer,
)

VERSION = "17"
IMAGE = f"postgres:{VERSION}"
USER = "books"
_PACKAGES = ("postgresql",)
_INSTALLED = Path("/usr/lib/postgresql")


def start(cache: Path, data: Path, *, may_install: bool) -> Settings:
    """Starts a server and waits for its answer.  Raises MissingError."""
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = _start(cache, data, port, may_install=may_install)
    settings["address"] = f"127.0.0.1:{port}"
    wait_for_answer(settings, lambda: answers(settings["address"]), "PostgreSQL")
    return settings


def _start(cache: Path, data: Path, port: int, *, may_install: bool) -> Settings:
    if not at_hand(cache) and may_install and not docker_answers():
        install(_PACKAGES)
    if not at_hand(cache):
        raise MissingError(
            "PostgreSQL: initdb and postgres are missing, and no Docker engine answers."
            " Install Debian's postgresql; or give PETAWATCH_BOOKS=postgresql://USER@HOST/NAME."
        )
    if binary("initdb") is None:
        trust = ["--env", "POSTGRES_HOST_AUTH_METHOD=trust", "--env", f"POSTGRES_USER={USER}"]
        return docker_run(["--publish", f"127.0.0.1:{port}:5432", *trust, IMAGE], "PostgreSQL")
    return _spawn(data, port)


def at_hand(_: Path) -> bool:
    """Whether a start would not have to install anything."""
    return binary("initdb") is not None or docker_answers()


def binary(name: str) -> Path | None:
    """A program of the server: on the path, else where Debian keeps the newest."""
    found = shutil.which(name)
    if found is not None:
        return Path(found).resolve()
    versions = sorted(_INSTALLED.glob("*"), key=lambda one: one.name.zfill(4), reverse=True)
    return next((path for one in versions if (path := one / "bin" / name).is_file()), None)


def owner() -> str | None:
    """Whom the server runs as where this is root, which it refuses to be: postgres."""
    return "postgres" if os.geteuid() == 0 else None


def _spawn(data: Path, port: int) -> Settings:
    initdb, server = binary("initdb"), binary("postgres")
    if initdb is None or server is None:
        raise MissingError("PostgreSQL: initdb is here, and postgres is not.")
    folder, user = data / "data", owner()
    folder.mkdir(exist_ok=True)
    if user is not None:
        for path in (data, folder):
            shutil.chown(path, user)
        _open_way(data)
    if not (folder / "PG_VERSION").exists():
        # Trust is enough on loopback for tests and trials; nothing else can reach it.
        command = [initdb, "-D", folder, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync"]
        done = subprocess.run(  # noqa: S603
            [str(word) for word in command], user=user, cwd="/", stdout=sys.stderr, check=False
        )
        if done.returncode != 0:
            raise MissingError("PostgreSQL: initdb failed, see above.")
    options = {
        "listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    settings = spawn([server, "-D", folder, *words], data / "postgres.log", user=user)
    # SIGTERM would wait until the last client has gone.
    return {**settings, "stop_signal": int(signal.SIGINT)}


def _open_way(data: Path) -> None:
    """The server's user has to get to its folder, which a temporary one keeps others from."""
    parent = data.parent
    if not parent.stat().st_mode & 0o001:
        parent.chmod(parent.stat().st_mode | 0o011)


def answers(address: str) -> bool:
    """Whether a PostgreSQL speaks there and takes connections: it says which of its ways to
    begin it knows, and refuses strangers with an error of its own kind."""
    host, _, port = address.rpartition("@")[2].partition("/")[0].partition(":")
    words = b"user\0" + USER.encode() + b"\0database\0postgres\0\0"
    hello = struct.pack("!ii", 8 + len(words), 3 << 16) + words
    try:
        with socket.create_connection((host, int(port or 5432)), timeout=2) as peer:
            peer.settimeout(2)
            peer.sendall(hello)
            said = peer.recv(400)
    except (OSError, ValueError):
        return False
    # R asks for (or waives) a password; an error other than 57P03 (starting up) is an answer too.
    return said[:1] == b"R" or (said[:1] == b"E" and b"57P03" not in said)
