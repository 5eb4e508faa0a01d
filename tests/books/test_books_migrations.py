"""The schema's steps up and down, several that start at once, and a whole run on each engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

from collectors.contract.source import SourceOptions
from collectors.kit.clock import SystemClock
from pipeline.books.database import Database
from pipeline.commands.wiring import ephemeral, install, make_source
from pipeline.selftest.run import Selftest, SelftestOptions
from pipeline.settings import Settings


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", "pipeline.books:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


async def test_steps_go_down_to_nothing_and_up_again(database: Database) -> None:
    def work(connection: Connection) -> tuple[set[str], set[str], set[str]]:
        before = set(inspect(connection).get_table_names())
        command.downgrade(_config(connection), "base")
        nothing = set(inspect(connection).get_table_names())
        command.upgrade(_config(connection), "head")
        return before, nothing, set(inspect(connection).get_table_names())

    before, nothing, after = await database.write(work)
    assert nothing == {"alembic_version"}
    assert before == after
    assert {"hours", "day_places", "day_jobs"} <= after


async def test_several_that_start_at_once_make_one_schema(books_url: str) -> None:
    """`books` and `serve` of a new installation."""
    opened = [Database(books_url) for _ in range(4)]
    await asyncio.gather(*(one.start() for one in opened))
    revision = await opened[0].read(
        lambda one: MigrationContext.configure(one).get_current_revision()
    )
    assert revision is not None
    for one in opened:
        await one.close()


@pytest.mark.stack
@pytest.mark.parametrize("books_url", ["postgresql"], indirect=True)
async def test_a_simulated_time_is_exact_in_postgresql(books_url: str, tmp_path: Path) -> None:
    """Every integer of the ledger against what the records say, as `petawatch selftest` has it."""
    clock = SystemClock()
    options = SelftestOptions(minutes=6, telemetry_faults="all")
    own = ephemeral(Settings(), tmp_path)
    own = msgspec.structs.replace(own, books=books_url)
    start_us = clock.wall_us() // 3_600_000_000 * 3_600_000_000 - 180_000_000
    source = make_source(
        "sim",
        SourceOptions(
            site="demo", seed=1, speed=None, minutes=options.minutes, start_us=start_us,
            topic_prefix=own.topic_prefix, truth=own.data,
            extra={"telemetry_faults": "all", "observable": "off"},
        ),
        clock,
    )  # fmt: skip
    installation = install(own, clock, source.inventory, series=True, books=True)
    first = start_us // 60_000_000
    try:
        await installation.start()
        test = Selftest(installation, source, options, range(first, first + 7))
        checks, _ = await test.run(own.data)
    finally:
        await installation.close()
    assert [check for check in checks if not check.ok] == []
    assert len(checks) > 5
