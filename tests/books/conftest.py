"""The books' database on both engines, new for each test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from books_postgres import postgres
from books_world import World
from sqlalchemy import create_engine, text

from pipeline.books.database import Database

_names = itertools.count()


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str]:
    """A real PostgreSQL; its tests are skipped where none is installed."""
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.stack)])
def books_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of empty books."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/books.db"
    server: str = request.getfixturevalue("postgres_url")
    name = f"books{next(_names)}"
    # CREATE DATABASE cannot run in a transaction.
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.rpartition("/")[0] + f"/{name}"


@pytest.fixture
async def database(books_url: str) -> AsyncGenerator[Database]:
    """Empty books, their schema in place."""
    opened = Database(books_url)
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
async def world(books_url: str, tmp_path: Path) -> AsyncGenerator[World]:
    """Nothing happened yet."""
    made = World(tmp_path, books_url)
    await made.start()
    yield made
    await made.close()
