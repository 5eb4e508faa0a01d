"""The books' database: schema, replacement of hours, progress, usage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, select, text

from collectors.contract.identity import parse_slot
from collectors.contract.inventory import InstalledNode, Inventory
from pipeline.books import journal, progress, queries, schema
from pipeline.books.claims import NOBODY, UPKEEP, Owner
from pipeline.books.database import BooksSetupError, BooksUnavailableError, Database
from pipeline.books.journal import HourStamp, Models, replace_hours
from pipeline.books.periods import Resolution, between
from pipeline.books.rows import FIGURES, HOUR_US, STATES, LedgerRows
from pipeline.books.totals import day_of

ZONE = ZoneInfo("Asia/Hong_Kong")
SLOTS = [parse_slot("0000:1b:00.0"), parse_slot("0000:3d:00.0/254/2")]
ANT, BEE = Owner("tenant", "ant", "p", "j1"), Owner("tenant", "bee", "p", "j2")
H = 490_000
SITE = Inventory(
    "t",
    "T",
    "Asia/Hong_Kong",
    "fp16",
    "dense",
    "boost",
    tuple(
        InstalledNode(n, "h", "r", m, tuple(SLOTS), 1.0)
        for n, m in (("n1", "H800"), ("n2", "A800"))
    ),
)


def ledger_rows(
    seed: int, hours: range, owners: tuple[Owner, ...] = (NOBODY, ANT, BEE, UPKEEP)
) -> LedgerRows:
    rng = np.random.default_rng(seed)
    keys = [
        (hour, node, slot, owner)
        for hour in hours
        for node in range(2)
        for slot in SLOTS
        for owner in sorted(rng.choice(len(owners), 2, replace=False).tolist())
    ]
    count = len(keys)
    return LedgerRows(
        ("n1", "n2"),
        owners,
        np.array([key[0] for key in keys], np.int64),
        np.array([key[1] for key in keys], np.int32),
        np.array([key[2] for key in keys], np.uint64),
        np.array([key[3] for key in keys], np.int32),
        rng.integers(0, 4, count).astype(np.uint8),
        {name: rng.integers(1, 2**45, count) for name in FIGURES},
    )


def put(connection: Connection, rows: LedgerRows, hours: range, until_us: int = 2**60) -> None:
    replace_hours(connection, rows, hours, HourStamp(until_us, 0, 7), Models(SITE), ZONE)


def sums(connection: Connection) -> tuple[dict[Any, list[int]], dict[Any, list[int]]]:
    """Day totals as they are kept, and as the hours give them."""
    columns = ("owner_kind", "tenant", "project", "model", "origin")
    totals = schema.day_totals.c
    kept: dict[Any, list[int]] = {
        tuple(row[:6]): list(row[6:])
        for row in connection.execute(
            select(totals.day, *(totals[c] for c in columns), *(totals[f] for f in FIGURES))
        )
    }
    hours = schema.hours.c
    summed: dict[Any, list[int]] = {}
    for row in connection.execute(
        select(hours.hour, *(hours[c] for c in columns), *(hours[f] for f in FIGURES))
    ):
        key = (day_of(row[0], ZONE), *row[1:6])
        old = summed.setdefault(key, [0] * len(FIGURES))
        summed[key] = [a + b for a, b in zip(old, row[6:], strict=True)]
    return kept, summed


async def test_the_steps_make_the_tables_that_the_code_knows(database: Database):
    await database.start()
    difference = await database.read(
        lambda one: compare_metadata(MigrationContext.configure(one), schema.metadata)
    )
    assert difference == []


async def test_books_of_a_newer_version_are_refused(database: Database):
    await database.write(
        lambda one: one.execute(text("UPDATE alembic_version SET version_num='9999'"))
    )
    with pytest.raises(BooksSetupError, match="schema 9999, made by a newer Petawatch"):
        await database.start()


@pytest.mark.parametrize("url", ["mysql://x/y", "books.db", "oracle://", ""])
def test_another_address_is_refused_with_what_to_write(url: str):
    with pytest.raises(BooksSetupError, match="sqlite:///FILE"):
        Database(url)


async def test_books_that_do_not_answer_are_unavailable():
    away = Database("postgresql+psycopg://books:secret@127.0.0.1:9/none")
    with pytest.raises(BooksUnavailableError) as caught:
        await away.start()
    assert "secret" not in str(caught.value)
    await away.close()


async def test_hours_come_back_as_written_and_days_are_their_sums(database: Database):
    hours = range(H, H + 26)
    rows = ledger_rows(1, hours)
    await database.write(lambda one: put(one, rows, hours))
    assert await database.read(lambda one: queries.read_rows(one, hours)) == rows.by_key()
    kept, summed = await database.read(sums)
    assert kept == summed
    assert len({key[0] for key in kept}) == 2


async def test_replacing_is_whole_and_repeatable(database: Database):
    hours = range(H, H + 3)
    first, again = ledger_rows(1, hours), ledger_rows(2, hours, (NOBODY, BEE))
    other = ledger_rows(3, range(H + 3, H + 4))
    await database.write(lambda one: put(one, first, hours))
    await database.write(lambda one: put(one, other, range(H + 3, H + 4)))
    await database.write(lambda one: put(one, again, hours))
    await database.write(lambda one: put(one, again, hours))
    rows = await database.read(lambda one: queries.read_rows(one, range(H, H + 9)))
    assert rows == {**again.by_key(), **other.by_key()}
    kept, summed = await database.read(sums)
    assert kept == summed


async def test_a_failed_replacement_leaves_everything_as_it_was(database: Database):
    hours = range(H, H + 2)
    rows = ledger_rows(1, hours)
    await database.write(lambda one: put(one, rows, hours))
    before = await database.read(sums)

    def fail(connection: Connection) -> None:
        put(connection, ledger_rows(5, hours), hours)
        raise RuntimeError("killed here")

    with pytest.raises(RuntimeError, match="killed here"):
        await database.write(fail)
    assert await database.read(sums) == before
    assert await database.read(lambda one: queries.read_rows(one, hours)) == rows.by_key()


async def test_what_was_pending_of_replaced_hours_is_done(database: Database):
    def work(connection: Connection) -> list[progress.NodeHour]:
        progress.add_pending(
            connection, [(H, "n1"), (H, "n3"), (H + 1, "n1")], progress.Cause.RECORDS
        )
        progress.add_pending(connection, [(H, "n1")], progress.Cause.RECORDS)
        put(connection, ledger_rows(1, range(H, H + 1)), range(H, H + 1))
        return progress.read_pending(connection)

    assert await database.write(work) == [(H, "n3"), (H + 1, "n1")]


async def test_hours_become_final_once_complete_and_late_enough(database: Database):
    hours = range(H, H + 2)

    def work(connection: Connection) -> tuple[int | None, int | None]:
        put(connection, ledger_rows(1, hours), hours, until_us=(H + 1) * HOUR_US + 5)
        open_before = progress.first_open_hour(connection)
        progress.make_final(connection, (H + 9) * HOUR_US)
        return open_before, progress.first_open_hour(connection)

    assert await database.write(work) == (H, H + 1)
    until = await database.read(lambda one: progress.read_until(one, H))
    assert until[H, "n1"] == (H + 1) * HOUR_US
    assert until[H + 1, "n2"] == (H + 1) * HOUR_US + 5


async def test_another_time_zone_makes_the_days_anew(database: Database):
    hours = range(H, H + 26)

    def work(connection: Connection) -> tuple[set[str], set[str]]:
        put(connection, ledger_rows(1, hours), hours)
        before = set(connection.execute(select(schema.day_totals.c.day)).scalars())
        journal.keep_totals(connection, replace(SITE, time_zone="Asia/Kolkata"))
        after = set(connection.execute(select(schema.day_totals.c.day)).scalars())
        return before, after

    before, after = await database.write(work)
    assert before == {day_of(hour, ZONE) for hour in hours}
    assert after == {day_of(hour, ZoneInfo("Asia/Kolkata")) for hour in hours}


def named(resolution: Resolution, hour: int) -> str | int | None:
    day = day_of(hour, ZONE)
    return {"total": None, "month": day[:7], "day": day, "hour": hour * HOUR_US}[resolution]


@pytest.mark.parametrize("resolution", ["total", "month", "day", "hour"])
@pytest.mark.parametrize("by", [("tenant",), ("tenant", "model"), ("job", "node"), ()])
async def test_usage_sums_the_rows(database: Database, by: tuple[str, ...], resolution: Resolution):
    hours = range(H, H + 60)
    rows = ledger_rows(4, hours)
    await database.write(lambda one: put(one, rows, hours))
    asked = range(H + 1, H + 55)
    answer = await database.read(
        lambda one: queries.usage(
            one,
            between(asked.start * HOUR_US + 1, asked.stop * HOUR_US, ZONE),
            by=by,
            resolution=resolution,
        )
    )
    models = {node.name: node.model for node in SITE.nodes}
    expected: dict[tuple[Any, ...], int] = {}
    for (hour, node, _, kind, tenant, project, job), one in rows.by_key().items():
        if hour in asked:
            fields = {
                "tenant": tenant,
                "project": project,
                "job": job,
                "node": node,
                "model": models[node],
            }
            when = named(resolution, hour)
            key = (when, kind, *(fields[name] for name in by), one["origin"])
            expected[key] = expected.get(key, 0) + one["energy_mj"]
    found = {
        (
            row.get("month", row.get("day", row.get("hour_us"))),
            row["owner_kind"],
            *(row[name] for name in by),
            row["origin"],
        ): row["energy_mj"]
        for row in answer
    }
    assert found == expected
    assert all(row["gpu_us"] == sum(row[state] for state in STATES) for row in answer)


async def test_usage_by_an_unknown_name_says_what_to_write(database: Database):
    with pytest.raises(ValueError, match="tenant, project"):
        await database.read(
            lambda one: queries.usage(one, between(0, HOUR_US, ZONE), by=["tenants"])
        )
