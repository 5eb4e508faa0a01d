"""Which of several `books` works: one leads, the others stand by.

A lock that ends with its process says who leads: of the file beside SQLite
books, or of a session of PostgreSQL.  A session may also end while its process
lives on (the server was started anew), so every leader writes a word of its
own into the books, and each of its transactions first looks whether it still
stands there: who was followed can write nothing more.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import DBAPIError

from pipeline.books import schema
from pipeline.books.database import BooksUnavailableError, Database
from pipeline.books.progress import write_meta

T = TypeVar("T")
_WORD = "books_leader"
_LOCK = 7_382_642
"""The number of the advisory lock; the schema's upgrades have the one before."""
_NOTICED = ("tcp_keepalives_idle = 10", "tcp_keepalives_interval = 5", "tcp_keepalives_count = 3")
"""The server lets a session go that is silent for half a minute, as when its machine lost power."""


class LeadershipLostError(RuntimeError):
    """Another process leads by now; what was being written is not."""


class Leader:
    """Leads or stands by; reads and writes as `Database` does, the latter only while it leads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._word = ""
        self._let_go: Callable[[], None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this process has taken the lock, and not let it go since."""
        return self._let_go is not None

    async def take(self) -> bool:
        """Tries to lead; False while another does.  Raises BooksUnavailableError."""
        if self._let_go is not None:
            return True
        let_go = await asyncio.to_thread(_lock, self._database.engine)
        if let_go is None:
            return False
        word = secrets.token_hex(8)
        try:
            await self._database.write(lambda one: write_meta(one, _WORD, word))
        except BaseException:
            let_go()
            raise
        self._word, self._let_go = word, let_go
        return True

    async def leave(self) -> None:
        """Lets the next one lead."""
        if self._let_go is not None:
            let_go, self._let_go = self._let_go, None
            await asyncio.to_thread(let_go)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """As `Database.read`."""
        return await self._database.read(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """As `Database.write`.  Raises LeadershipLostError where another process leads."""

        def guarded(connection: Connection) -> T:
            if hold_lead(connection) != self._word:
                raise LeadershipLostError("another process writes these books now")
            return work(connection)

        return await self._database.write(guarded)


def hold_lead(connection: Connection) -> str | None:
    """The word of who leads.  Until the transaction ends nobody can begin to lead, and who leads
    writes nothing."""
    meta = schema.meta.c
    return connection.execute(
        select(meta.value).where(meta.key == _WORD).with_for_update()
    ).scalar()


def _lock(engine: Engine) -> Callable[[], None] | None:
    """Takes the lock if it is free; returns what lets it go."""
    if engine.dialect.name == "sqlite":
        return _lock_file(engine.url.database)
    try:
        return _lock_session(engine)
    except DBAPIError as error:
        raise BooksUnavailableError(f"the books do not answer: {error.orig}") from error


def _lock_file(database: str | None) -> Callable[[], None] | None:
    if not database or database == ":memory:":
        return lambda: None
    path = Path(database)
    try:
        descriptor = os.open(path.with_name(path.name + ".leader"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise BooksUnavailableError(f"the books' folder does not take a file: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return lambda: os.close(descriptor)


def _lock_session(engine: Engine) -> Callable[[], None] | None:
    connection: Any = engine.connect().execution_options(isolation_level="AUTOCOMMIT", writes=True)
    try:
        # Its session is the lock: it must not go back to the pool.
        connection.detach()
        for setting in _NOTICED:
            connection.execute(text(f"SET {setting}"))
        taken = connection.execute(text(f"SELECT pg_try_advisory_lock({_LOCK})")).scalar()
    except BaseException:
        connection.close()
        raise
    if not taken:
        connection.close()
        return None

    def let_go() -> None:
        with suppress(DBAPIError):
            connection.close()

    return let_go
