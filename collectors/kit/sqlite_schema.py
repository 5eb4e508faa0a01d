"""The tables of a SQLite log, and the lock that keeps a second writer out."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
from pathlib import Path
from typing import IO

from collectors.contract.bus import BusUnavailableError

OFFSET_BITS = 40
"""A record's row number is its partition's log number and, in these low bits, its offset:
each partition is one run of the table's tree, read and cut from its ends."""

_VERSION = 1
_SCHEMA = """
CREATE TABLE topics (
    name TEXT PRIMARY KEY, partitions INTEGER NOT NULL, retention_s INTEGER NOT NULL,
    retention_bytes INTEGER NOT NULL, compacted INTEGER NOT NULL
);
CREATE TABLE logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, number INTEGER NOT NULL,
    first INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 0,
    records INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0, last_us INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, number)
);
CREATE TABLE records (
    position INTEGER PRIMARY KEY, append_us INTEGER NOT NULL, arrival_us INTEGER,
    key BLOB NOT NULL, value BLOB NOT NULL
);
CREATE TABLE commits (
    member_group TEXT NOT NULL, topic TEXT NOT NULL, number INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (member_group, topic, number)
) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


def connect(path: Path, *, read_only: bool, fsync: bool) -> sqlite3.Connection:
    """An open connection in autocommit mode, its tables there.

    In WAL mode a finished transaction survives the end of the process;
    `fsync` makes it survive a power cut too.  Raises BusUnavailableError.
    """
    try:
        return _connect(path, read_only=read_only, fsync=fsync)
    except sqlite3.Error as error:
        raise BusUnavailableError(f"{path} cannot be opened as a bus log: {error}") from error


def _connect(path: Path, *, read_only: bool, fsync: bool) -> sqlite3.Connection:
    if read_only:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
        )
    else:
        connection = sqlite3.connect(path, check_same_thread=False)
    connection.isolation_level = None
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        if not read_only:
            _prepare(connection, fsync=fsync)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            raise BusUnavailableError(
                f"{path} is a log of version {version}; this program writes {_VERSION}"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, *, fsync: bool) -> None:
    connection.execute("PRAGMA page_size = 8192")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL" if fsync else "PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA cache_size = -4096")
    if connection.execute("PRAGMA user_version").fetchone() == (0,):
        connection.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;"
        )


def lock(path: Path) -> IO[str]:
    """Makes this process the log's only writer until the returned file is closed.

    The kernel lets go of the lock when the process ends, however it ends.
    Raises BusUnavailableError that says who has it.
    """
    holder = path.with_name(path.name + ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder.seek(0)
        owner = holder.read().strip() or "another process"
        holder.close()
        raise BusUnavailableError(
            f"{path} is in use by {owner}; end that first, or choose another path"
        ) from error
    holder.truncate(0)
    holder.write(f"process {os.getpid()} ({Path(sys.argv[0]).name or 'python'})\n")
    holder.flush()
    return holder
