"""The books' database on both engines, new for each test."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from books_world import World
from sqlalchemy import create_engine, text

from pipeline.books.database import Database

sys.path.insert(0, str(Path(__file__).parents[1] / "chaos"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.stack)])
def books_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """The address of empty books, gone after the test."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/books.db"
        return
    server: str = request.getfixturevalue("postgres_url").replace("://", "+psycopg://", 1)
    name = f"books_{secrets.token_hex(6)}"
    # CREATE DATABASE and DROP DATABASE cannot run in a transaction.
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.rpartition("/")[0] + f"/{name}"
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


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
