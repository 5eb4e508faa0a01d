"""The database of the books: SQLite in a file, or PostgreSQL.  All SQL runs in threads."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from collectors.kit.config import SetupError
from pipeline.health import HealthBoard

T = TypeVar("T")
_BUSY_S = 10
"""A person waits for it where another process holds SQLite's lock; roles try again anyhow."""
_CONNECT_S = 10
_THREADS = 8
_AWAY = "books_away"
_UPGRADE_LOCK = 7_382_641
_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
}


class BooksSetupError(SetupError):
    """The books can never be opened as configured; the message says what to do."""


class BooksUnavailableError(ConnectionError):
    """The database cannot be reached or written now; try again."""


class Database:
    """Opens the books, brings their schema up to date, and runs work on them.

    One writer at a time; readers see the state before or after a write, never
    one in between.
    """

    def __init__(self, url: str) -> None:
        """`sqlite:///FILE` or `postgresql+psycopg://…`.  Raises BooksSetupError for another."""
        self._engine = _engine(url)
        self._writing = asyncio.Lock()
        # Of its own: a database that does not answer must not hold up anything else.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="books")
        self._boards: list[HealthBoard] = []

    @property
    def engine(self) -> Engine:
        """What the connections come from."""
        return self._engine

    def report_to(self, board: HealthBoard) -> None:
        """Says on a board from now on whether the last attempt to use the database failed
        (`books_away`)."""
        self._boards.append(board)
        board.set(_AWAY, 0)

    async def start(self) -> None:
        """Creates or upgrades the schema.  Raises BooksSetupError where a newer Petawatch made it,
        BooksUnavailableError where nothing answers."""
        await self.write(upgrade)

    async def read(self, work: Callable[[Connection], T], *, within_s: float | None = None) -> T:
        """Runs reading work on one snapshot.  Raises BooksUnavailableError, also where it takes
        longer than `within_s`: a server that is frozen says nothing."""
        try:
            async with asyncio.timeout(within_s):
                return await self._in_thread(work, writes=False)
        except TimeoutError:
            self._say(away=True)
            text = f"the books have not answered within {within_s:g} s"
            raise BooksUnavailableError(text) from None

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs work in one transaction: all of it or nothing.  Raises BooksUnavailableError."""
        async with self._writing:
            return await self._in_thread(work, writes=True)

    async def _in_thread(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        run = partial(self._run, work, writes=writes)
        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def _run(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        try:
            with self._engine.connect() as connection:
                connection.execution_options(writes=writes)
                with connection.begin():
                    done = work(connection)
        except DBAPIError as error:
            if error.connection_invalidated or _is_passing(error):
                self._say(away=True)
                raise BooksUnavailableError(f"the books do not answer: {error.orig}") from error
            raise
        self._say(away=False)
        return done

    def _say(self, *, away: bool) -> None:
        for board in self._boards:
            board.set(_AWAY, int(away))

    async def close(self) -> None:
        """Closes all connections."""
        await asyncio.to_thread(self._engine.dispose)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise BooksSetupError(f"the books' folder {folder} cannot be made: {reason}") from error


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.drivername in {"postgresql", "postgres"}:
            parsed = parsed.set(drivername="postgresql+psycopg")
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database:
            _make_folder(Path(parsed.database).parent)
        elif parsed.get_backend_name() != "postgresql":
            raise ArgumentError("no such database")
        engine = create_engine(parsed) if sqlite else _server(parsed)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise BooksSetupError(
            "the books' address is not one of sqlite:///FILE and postgresql+psycopg://USER@HOST/NAME"
            f" ({type(error).__name__})"
        ) from error
    if sqlite:
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
    else:
        event.listen(engine, "begin", _one_snapshot)
    return engine


def _server(url: URL) -> Engine:
    """A PostgreSQL: one that takes no connection is away, and is not waited for without end."""
    patience = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_S}
    return create_engine(url, pool_pre_ping=True, connect_args=patience)


def _configure(connection: Any, _: Any) -> None:
    """Without the driver's own transactions; synchronous=NORMAL survives kill -9."""
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "cache_size=-8000",
        f"busy_timeout={_BUSY_S * 1000}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("writes"))


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


def _one_snapshot(connection: Connection) -> None:
    if not _writes(connection):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _is_passing(error: DBAPIError) -> bool:
    """Whether trying again may help: a busy or absent database, not a wrong statement."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _PASSING
    return type(error).__name__ in {"OperationalError", "InterfaceError"}


def migrations() -> Config:
    """Where Alembic finds the revisions of the schema."""
    config = Config()
    config.set_main_option("script_location", "pipeline.books:migrations")
    config.set_main_option("path_separator", "os")
    return config


def upgrade(connection: Connection, to: str = "head") -> None:
    """Brings the schema to a revision.  Raises BooksSetupError where a newer Petawatch made it."""
    if connection.dialect.name == "postgresql":
        # Two processes that start at once must not both create the tables.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")
    config = migrations()
    current = MigrationContext.configure(connection).get_current_revision()
    script = ScriptDirectory.from_config(config)
    known = {step.revision for step in script.walk_revisions()}
    if current is not None and current not in known:
        raise BooksSetupError(
            f"the books have schema {current}, made by a newer Petawatch than this one, which knows"
            f" {script.get_current_head()}: install the newer version, or give other books"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, to)
