"""The DuckDB file itself: opening, its tables, transactions, upserts, its size.

Everything here blocks; `DuckStore` calls it in threads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from pipeline.series.duck_columns import Columns, tables
from pipeline.series.port import I32, StoreSetupError, StoreUnavailableError

_log = logging.getLogger(__name__)
_MOST_MEMORY = 16
"""Times the memory limit that DuckDB may come to, where it fails for want of memory."""
_CHECKPOINT_BYTES = 64 * 2**20
_KEEP_OPEN_MINUTES = 5
_MOVE_EVERY_MINUTES = 10
_MOVE_ROWS = 100_000
_SHARE_DROPPED = 0.1


def sql(*parts: str) -> str:
    """One statement; names come from the catalogue and numbers are integers, all else is bound."""
    return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Upsert:
    """Rows for `table`, each replacing the one with its key."""

    table: str
    key: tuple[str, ...]
    columns: Columns


class DuckFile:
    """One open DuckDB database file, and the ids of the node names in it."""

    def __init__(self, path: Path, *, memory_limit_mb: int, threads: int) -> None:
        self.path = path
        self.memory_limit_mb = memory_limit_mb
        self._most_memory_mb = memory_limit_mb * _MOST_MEMORY
        self._config: dict[str, str | bool | int | float | list[str]] = {
            "threads": threads,
            "checkpoint_threshold": f"{_CHECKPOINT_BYTES}B",
            "temp_directory": str(path.with_suffix(".tmp")),
        }
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._ids: dict[str, int] = {}
        self._closed_before: dict[str, int] = {}
        self._open_rows: dict[str, int] = {}

    def open(self) -> None:
        """Opens or creates the file; StoreSetupError when it cannot be had."""
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
                self._prepare(self._connection)

    def _connect(self) -> duckdb.DuckDBPyConnection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            limit = {"memory_limit": f"{self.memory_limit_mb}MB"}
            return duckdb.connect(self.path, config=self._config | limit)
        except duckdb.IOException as error:
            if "lock" in str(error):
                raise StoreSetupError(
                    f"{self.path} is open in another process: DuckDB takes one process only;"
                    " stop that one, choose another data directory, or use InfluxDB"
                ) from error
            raise StoreSetupError(
                f"{self.path} cannot be opened as a DuckDB file: {error}"
            ) from error
        except (duckdb.Error, OSError) as error:
            raise StoreSetupError(f"{self.path} cannot be opened: {error}") from error

    def _prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        for table, columns in tables().items():
            listed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({listed})")
            described = connection.execute(f"DESCRIBE {table}").fetchall()
            there = {str(row[0]) for row in described}
            for name, kind in columns.items():
                if name not in there:
                    connection.execute(f'ALTER TABLE {table} ADD COLUMN "{name}" {kind}')
        rows = connection.execute("SELECT name, id FROM nodes ORDER BY id").fetchall()
        self._ids = {str(name): int(number) for name, number in rows}
        for table in ("minutes", "masks"):
            newest = sql("SELECT coalesce(max(minute) + 1, 0) FROM", table)
            self._closed_before[table] = int(_row(connection, newest)[0])

    @contextmanager
    def cursor(self) -> Generator[duckdb.DuckDBPyConnection]:
        """A cursor of its own, for one thread; the engine's failures become the port's."""
        connection = self._connection
        if connection is None:
            raise StoreUnavailableError(f"{self.path} is not open")
        cursor = connection.cursor()
        try:
            yield cursor
        except (duckdb.FatalException, duckdb.InternalException) as error:
            self._allow_more(error)
            self._reopen()
            raise StoreUnavailableError(f"{self.path}: {error}") from error
        except (
            duckdb.IOException,
            duckdb.OutOfMemoryException,
            duckdb.TransactionException,
            duckdb.InterruptException,
        ) as error:
            if self._allow_more(error):
                with suppress(duckdb.Error):
                    cursor.execute(f"SET memory_limit = '{self.memory_limit_mb}MB'")
            raise StoreUnavailableError(f"{self.path}: {error}") from error
        finally:
            cursor.close()

    def _allow_more(self, error: duckdb.Error) -> bool:
        """Doubles the memory where it was too little, or the same would fail for ever: what a
        checkpoint needs grows with the site.  Whether that was done."""
        told = str(error).lower()
        if "memory" not in told and "failed to pin" not in told:
            return False
        if self.memory_limit_mb >= self._most_memory_mb:
            return False
        self.memory_limit_mb = min(2 * self.memory_limit_mb, self._most_memory_mb)
        _log.warning("duckdb_memory_raised limit_mb=%d %s", self.memory_limit_mb, self.path)
        return True

    def _reopen(self) -> None:
        """After a fatal error DuckDB refuses everything until the file is opened anew."""
        self.close()
        with suppress(StoreSetupError):
            self.open()

    @contextmanager
    def transaction(self) -> Generator[duckdb.DuckDBPyConnection]:
        """A cursor in a transaction, durable when the context ends, undone when it raises."""
        closed_before, ids = dict(self._closed_before), dict(self._ids)
        with self.cursor() as cursor:
            cursor.begin()
            try:
                yield cursor
                cursor.commit()
            except BaseException:
                with suppress(duckdb.Error):
                    cursor.rollback()
                self._closed_before, self._ids = closed_before, ids
                raise

    def node_names(self) -> list[str]:
        """Names by id."""
        return list(self._ids)

    def known_ids(self, nodes: Sequence[str]) -> list[int]:
        """The ids of the names that the file knows."""
        return [self._ids[name] for name in nodes if name in self._ids]

    def node_ids(self, cursor: Any, nodes: Sequence[str], node: I32) -> I32:
        """The file's ids for indices into `nodes`; new names are written down."""
        for index in np.unique(node).tolist():
            name = str(nodes[int(index)])
            if name not in self._ids:
                self._ids[name] = len(self._ids)
                cursor.execute("INSERT INTO nodes VALUES (?, ?)", [self._ids[name], name])
        lookup = np.array([self._ids.get(name, -1) for name in nodes], np.int32)
        return lookup[node]

    def append(self, cursor: Any, table: str, columns: Columns) -> None:
        """Adds rows; columns that are not given are NULL."""
        cursor.register("batch", columns)
        try:
            cursor.execute(sql("INSERT INTO", table, "BY NAME SELECT * FROM batch"))
        finally:
            cursor.unregister("batch")

    def upsert(self, cursor: Any, rows: Upsert) -> None:
        """Replaces rows by key, in the open table and, for late ones, in the closed one."""
        newest = int(rows.columns["minute"].max())
        oldest = int(rows.columns["minute"].min())
        table, closed_before = rows.table, self._closed_before[rows.table]
        self._delete_keys(cursor, f"{table}_open", rows, oldest)
        if oldest < closed_before:
            self._delete_keys(cursor, table, rows, oldest)
        self.append(cursor, f"{table}_open", rows.columns)
        self._open_rows[table] = self._open_rows.get(table, 0) + len(rows.columns["minute"])
        late = newest >= closed_before + _MOVE_EVERY_MINUTES + _KEEP_OPEN_MINUTES
        if late or self._open_rows[table] > _MOVE_ROWS:
            self._close_minutes(cursor, table, newest - _KEEP_OPEN_MINUTES)

    def _delete_keys(self, cursor: Any, table: str, rows: Upsert, oldest: int) -> None:
        cursor.register("keys", {name: rows.columns[name] for name in rows.key})
        same = " AND ".join(f"{table}.{name} = keys.{name}" for name in rows.key)
        try:
            since = f"WHERE {table}.minute >= {oldest} AND"
            cursor.execute(sql("DELETE FROM", table, "USING keys", since, same))
        finally:
            cursor.unregister("keys")

    def _close_minutes(self, cursor: Any, table: str, before: int) -> None:
        condition = f"minute < {before}"
        rows = sql("SELECT * FROM", f"{table}_open", "WHERE", condition)
        cursor.execute(sql("INSERT INTO", table, "BY NAME", rows))
        cursor.execute(sql("DELETE FROM", f"{table}_open", "WHERE", condition))
        self._closed_before[table] = max(before, self._closed_before[table])
        self._open_rows[table] = 0

    def delete_before(self, cursor: Any, raw_us: int, minutes_us: int) -> dict[str, int]:
        """Removes older rows; says how many of each table."""
        gone = {"raw": _deleted(cursor, "raw", f"time_us < {int(raw_us)}")}
        older = f"minute < {int(minutes_us) // 60_000_000}"
        for table in ("minutes", "masks"):
            gone[table] = _deleted(cursor, table, older) + _deleted(cursor, f"{table}_open", older)
        return gone

    def size_bytes(self) -> int:
        """Blocks in use and the log, in bytes; free blocks of the file are used again."""
        with self.cursor() as cursor:
            used = _row(cursor, "SELECT block_size * used_blocks FROM pragma_database_size()")[0]
        log = self.path.with_name(self.path.name + ".wal")
        return int(used) + (log.stat().st_size if log.exists() else 0)

    def shrink(self, budget_bytes: int) -> dict[str, int]:
        """Drops a tenth of the oldest raw samples (then minutes) at a time until it fits."""
        dropped = {"raw": 0, "minutes": 0, "masks": 0}
        while self.size_bytes() > budget_bytes:
            with self.transaction() as cursor:
                cuts = _cuts(cursor)
                if cuts is None:
                    break
                gone = self.delete_before(cursor, *cuts)
            for table, rows in gone.items():
                dropped[table] += rows
            with self.cursor() as cursor:
                cursor.execute("CHECKPOINT")
        return dropped

    def close(self) -> None:
        """Closes the file; a checkpoint empties the log."""
        with self._lock:
            if self._connection is not None:
                with suppress(duckdb.Error):
                    self._connection.close()
                self._connection = None

    def remove(self) -> None:
        """Closes and deletes the file and its log."""
        self.close()
        for path in (self.path, self.path.with_name(self.path.name + ".wal")):
            path.unlink(missing_ok=True)


def _row(cursor: Any, statement: str) -> Any:
    """The only row; fetching one and no more would leave the transaction open, which keeps
    checkpoints from giving back what was deleted."""
    (row,) = cursor.execute(statement).fetchall()
    return row


def _deleted(cursor: Any, table: str, condition: str) -> int:
    return int(_row(cursor, sql("DELETE FROM", table, "WHERE", condition))[0])


def _cuts(cursor: Any) -> tuple[int, int] | None:
    """Before which raw and minute times to drop next; None when there is nothing left."""
    first, last = _row(cursor, "SELECT min(time_us), max(time_us) FROM raw")
    if first is not None:
        return int(first + (last - first) * _SHARE_DROPPED) + 1, 0
    first, last = _row(cursor, "SELECT min(minute), max(minute) FROM minutes")
    if first is not None:
        return 0, (int(first + (last - first) * _SHARE_DROPPED) + 1) * 60_000_000
    return None
