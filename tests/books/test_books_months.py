"""Frozen months: they stay as they were, and what is learnt later is beside them to the last unit."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from books_reference import HOUR
from books_strategies import BASE
from books_world import SITE, World, at, job, run_samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Table, delete, func, select, update
from test_books_site_files import HOURS, STEP, Kept, Step, empty, sample

from collectors.contract.tenants import NO_TENANTS
from collectors.contract.topics import ALLOC
from pipeline.books import months, progress, schema, site_files, totals
from pipeline.books.database import Database
from pipeline.books.frozen import OWNER, read_adjustments
from pipeline.books.leader import Leader
from pipeline.books.months import MonthRefusedError
from pipeline.books.periods import month_period, standing
from pipeline.books.rebuild import HoursRebuild, Site
from pipeline.books.rows import FIGURES
from pipeline.books.schema_months import adjustments, frozen_days, frozen_months
from pipeline.books.site_files import SiteFiles
from pipeline.commands.backup import read_backup, write_backup

Sums = dict[tuple[Any, ...], tuple[int, ...]]
BY = ("hour", "node", *OWNER)
ZONE = ZoneInfo("Asia/Hong_Kong")
MONTH = "2025-11"
"""Of the small world's hours the last two before H are November's in Hong Kong."""


def summed(connection: Connection, *tables: Table) -> Sums:
    """By hour, node and owner, what some tables have together; nothing where that is nothing."""
    found: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(FIGURES))
    for table in tables:
        key = [table.c[name] for name in BY]
        sums = [func.sum(table.c[name]) for name in FIGURES]
        for row in connection.execute(select(*key, *sums).group_by(*key)):
            old = found[tuple(row[: len(BY)])]
            for place, value in enumerate(row[len(BY) :]):
                old[place] += int(value)
    return {key: tuple(one) for key, one in found.items() if any(one)}


def all_rows(connection: Connection, table: Table) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in connection.execute(select(table)))


def within(sums: Sums, hours: range) -> Sums:
    return {key: one for key, one in sums.items() if key[0] in hours}


def without(sums: Sums, hours: range) -> Sums:
    return {key: one for key, one in sums.items() if key[0] not in hours}


def sign(connection: Connection, hours: range) -> None:
    """Some hours as if they were a month."""
    row = {
        "month": "1970-01", "first_hour": hours.start, "stop_hour": hours.stop, "time_zone": "UTC",
        "frozen_us": 1, "actor": "a", "note": "", "sha256": "",
    }  # fmt: skip
    connection.execute(frozen_months.insert().values(row))


async def books(path: Path) -> Kept:
    kept = Kept(path)
    await kept.database.start()
    await kept.database.write(empty)
    return kept


async def compare(
    paths: Sequence[Path], said: Sequence[Step], frozen_at: int, hours: range
) -> None:
    """Books with frozen hours and books without take the same steps."""
    kept, free = [await books(path) for path in paths]
    before: Sums = {}
    for number, one in enumerate(said):
        if number == frozen_at:
            before = await kept.database.read(lambda one: summed(one, schema.hours))
            await kept.database.write(lambda one: sign(one, hours))
        await kept.take([one])
        await free.take([one])
    if frozen_at < len(said):
        now = await kept.database.read(lambda one: summed(one, schema.hours))
        assert within(now, hours) == within(before, hours)
    both = await kept.database.read(lambda one: summed(one, schema.hours, adjustments))
    assert both == await free.database.read(lambda one: summed(one, schema.hours))
    assert await kept.database.read(progress.read_pending) == await free.database.read(
        progress.read_pending
    )
    days = await kept.database.read(lambda one: all_rows(one, schema.day_totals))
    await kept.database.write(lambda one: totals.rebuild(one, ZoneInfo("UTC")))
    assert days == await kept.database.read(lambda one: all_rows(one, schema.day_totals))
    count = await kept.database.read(lambda one: len(all_rows(one, adjustments)))
    # The same again adds nothing.
    await kept.compute(again=True)
    assert count == await kept.database.read(lambda one: len(all_rows(one, adjustments)))
    for one in (kept, free):
        await one.database.close()


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(STEP, min_size=2, max_size=6),
    st.integers(1, 5),
    st.integers(HOURS.start, HOURS.stop - 1),
    st.integers(1, 3),
)
def test_frozen_hours_and_their_adjustments_are_what_the_hours_would_be(
    two: Sequence[Path], said: list[Step], frozen_at: int, first: int, count: int
) -> None:
    points = [sample("n1", BASE, 0), sample("n1", BASE + HOUR, HOUR)]
    asyncio.run(compare(two, [points, *said], frozen_at, range(first, first + count)))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("months")
    return [folder / "frozen.db", folder / "free.db"]


END = at(3, 0)
NOW = month_period(MONTH, ZONE).to_us
SHORT = dataclasses.replace(
    SITE, nodes=tuple(dataclasses.replace(one, from_us=at(0, 0), to_us=END) for one in SITE.nodes)
)


@pytest.fixture
async def ended(world: World) -> World:
    """A November of three hours, all of them final."""
    world.inventory = SHORT
    await world.allocate(job("1", "ant", at(0, 100), at(2, 0), "n1"))
    await world.store(run_samples("n1", at(0, 0), at(2, 1800)), bus_us=at(9, 0))
    await turn(world)
    return world


async def turn(world: World) -> None:
    role = world.books()
    await role.finish()
    await role.close()


async def freeze(world: World, month: str = MONTH, at_us: int = NOW) -> Any:
    return await world.database.write(
        lambda one: months.freeze(one, world.inventory, month, "ann", "signed", at_us)
    )


async def adjusted(world: World, *by: str) -> list[dict[str, Any]]:
    names = by or ("hour", "node", "tenant", "cause")
    return await world.database.read(
        lambda one: read_adjustments(one, adjustments.c.month == MONTH, by=names)
    )


async def test_late_records_and_corrections_leave_a_frozen_month_as_it_is(ended: World) -> None:
    frozen = await freeze(ended)
    before = await ended.rows()
    statement = await ended.database.read(lambda one: all_rows(one, schema.day_totals))
    await ended.store(run_samples("n2", at(0, 0), at(0, 600)), bus_us=at(9, 1))
    await turn(ended)
    assert {(row["node"], row["cause"]) for row in await adjusted(ended)} == {
        ("n2", "late records")
    }
    await ended.allocate(job("1", "bee", at(0, 100), at(2, 0), "n1"))
    await turn(ended)
    await turn(ended)
    assert await ended.rows() == before
    assert statement == await ended.database.read(lambda one: all_rows(one, schema.day_totals))
    moved = {row["tenant"]: row for row in await adjusted(ended, "tenant", "node", "cause")
             if row["cause"] == "allocations"}  # fmt: skip
    assert moved["bee"]["gpu_us"] == -moved["ant"]["gpu_us"] == 2 * (at(2, 0) - at(0, 100))
    # All the time that was installed still is somebody's.
    assert sum(row["gpu_us"] for row in await adjusted(ended)) == 0
    # Taken back, nothing is left to be booked of it.
    await ended.allocate(job("1", "ant", at(0, 100), at(2, 0), "n1"))
    await turn(ended)
    assert {row["node"] for row in await adjusted(ended, "node", "tenant")} == {"n2"}
    checked = await ended.database.read(lambda one: months.check(one, MONTH))
    assert checked is not None
    assert checked.same
    assert checked.sha256 == frozen.sha256


async def test_what_a_month_is_signed_for_can_be_checked_years_later(ended: World) -> None:
    await freeze(ended)

    async def checked() -> Any:
        return await ended.database.read(lambda one: months.check(one, MONTH))

    hours, copies = schema.hours, frozen_days
    ours = hours.c.tenant == "ant"
    more = {"gflop": hours.c.gflop + 1}
    await ended.database.write(lambda one: one.execute(update(hours).where(ours).values(more)))
    found = await checked()
    assert not found.same
    (one,) = found.differences
    assert (one["of"], one["day"], one["tenant"], one["figure"]) == (
        "ledger", "2025-11-25", "ant", "gflop",
    )  # fmt: skip
    assert one["now"] == one["frozen"] + 4
    less = {"gflop": hours.c.gflop - 1}
    await ended.database.write(lambda one: one.execute(update(hours).where(ours).values(less)))
    assert (await checked()).same
    wrong = update(copies).where(copies.c.tenant == "ant").values(energy_mj=5)
    await ended.database.write(lambda one: one.execute(wrong))
    assert [one["of"] for one in (await checked()).differences] == ["copy"]


async def test_a_month_stands_as_frozen_and_can_be_frozen_once(ended: World) -> None:
    period = month_period(MONTH, ZONE)
    assert (await ended.database.read(lambda one: standing(one, period))).frozen is None
    frozen = await freeze(ended)
    assert (await ended.database.read(lambda one: standing(one, period))).frozen == frozen
    with pytest.raises(MonthRefusedError, match="It is frozen since 2025-12-01 00:00, by ann"):
        await freeze(ended)
    # There December begins while it is November in Hong Kong.
    moved = dataclasses.replace(ended.inventory, time_zone="Etc/GMT-14")
    with pytest.raises(MonthRefusedError, match="no hour can be signed twice"):
        await ended.database.write(
            lambda one: months.freeze(one, moved, "2025-12", "ann", "", NOW + 999 * HOUR)
        )


def _spoilt(kind: str, connection: Connection) -> None:
    table = schema.node_hours
    there = (table.c.hour == at(1, 0) // HOUR, table.c.node == "n2")
    if kind == "missing":
        connection.execute(delete(table).where(*there))
    elif kind == "provisional":
        connection.execute(update(table).where(*there).values(final=False))
    elif kind == "pending":
        progress.add_pending(connection, [(at(1, 0) // HOUR, "n2")], progress.Cause.RECORDS)
    elif kind == "decided":
        row = {"topic": f"x{ALLOC}", "key": b"k", "value": b"v"}
        connection.execute(schema.outbox.insert().values(row))
    elif kind == "inventory":
        site_files.adopt(connection, SiteFiles(SITE), 5, ALLOC)
    elif kind == "empty":
        for one in (schema.hours, table):
            connection.execute(delete(one))


OBSTACLES = [
    ("missing", r"does not have 2025-11-25 01:00 to 2025-11-25 02:00 \(n2\)\. Wait"),
    ("provisional", r"provisional are 2025-11-25 01:00 to 2025-11-25 02:00 \(n2\)"),
    ("pending", r"to be computed again are 2025-11-25 01:00 to 2025-11-25 02:00 \(n2\)"),
    ("decided", "on its way to the bus"),
    ("inventory", "have not taken over"),
    ("empty", "The ledger has nothing of it"),
    ("early", "goes on until 2025-12-01 00:00"),
]


async def test_what_keeps_a_month_from_being_frozen_is_said(ended: World) -> None:
    for kind, says in OBSTACLES:
        at_us = NOW - 1 if kind == "early" else NOW

        def work(connection: Connection, kind: str = kind, at_us: int = at_us) -> None:
            _spoilt(kind, connection)
            months.freeze(connection, ended.inventory, MONTH, "ann", "", at_us)

        # What was refused left nothing, so the next begins as this did.
        with pytest.raises(MonthRefusedError, match=says):
            await ended.database.write(work)
    for table in (frozen_months, frozen_days):
        assert await ended.database.read(lambda one, table=table: all_rows(one, table)) == []
    await freeze(ended)


async def test_a_backup_has_what_was_frozen_and_what_came_since(
    ended: World, books_url: str, tmp_path: Path
) -> None:
    await freeze(ended)
    await ended.store(run_samples("n2", at(0, 0), at(0, 600)), bus_us=at(9, 1))
    await turn(ended)
    tables = (schema.hours, frozen_months, frozen_days, adjustments)
    before = [await ended.database.read(lambda one, of=of: all_rows(one, of)) for of in tables]
    assert all(before)
    file = tmp_path / "books.backup"
    await write_backup(Database(books_url), file)
    other = f"sqlite:///{tmp_path}/other.db"
    await read_backup(Database(other), file, force=False)
    await read_backup(Database(books_url), file, force=True)
    for url in (other, books_url):
        back = Database(url)
        assert [await back.read(lambda one, of=of: all_rows(one, of)) for of in tables] == before
        checked = await back.read(lambda one: months.check(one, MONTH))
        assert checked is not None
        assert checked.same
        await back.close()
    # What is learnt after the restore goes beside it too, and nothing that is known twice.
    await turn(ended)
    await ended.store(run_samples("n3", at(0, 0), at(0, 600)), bus_us=at(9, 2))
    await turn(ended)
    now = [await ended.database.read(lambda one, of=of: all_rows(one, of)) for of in tables]
    assert now[:3] == before[:3]
    assert [row for row in now[3] if row[3] == "n2"] == before[3]
    assert len(now[3]) > len(before[3])


@pytest.mark.parametrize("broken_off", [False, True])
async def test_a_rebuild_leaves_a_frozen_month_and_finds_nothing_new(
    ended: World, *, broken_off: bool
) -> None:
    await freeze(ended)
    await ended.store(run_samples("n2", at(0, 0), at(0, 600)), bus_us=at(9, 1))
    await turn(ended)
    tables = (schema.hours, schema.day_totals, adjustments)
    before = [await ended.database.read(lambda one, of=of: all_rows(one, of)) for of in tables]
    site = Site(ended.inventory, NO_TENANTS)
    hours = range(at(-9, 0) // HOUR, at(9, 0) // HOUR)
    if broken_off:
        with pytest.raises(KeyboardInterrupt):
            await HoursRebuild(ended.series, ended.database, site, ended.clock).run(hours, _stop)
    await HoursRebuild(ended.series, ended.database, site, ended.clock).run(
        hours, lambda _done, _total: None
    )
    assert await ended.database.read(progress.read_pending) == []
    now = [await ended.database.read(lambda one, of=of: all_rows(one, of)) for of in tables]
    assert now == before


def _stop(done: int, _total: int) -> None:
    if done >= 3:
        raise KeyboardInterrupt


async def test_who_freezes_and_who_writes_hours_wait_for_each_other(
    ended: World, books_url: str
) -> None:
    own, other = Database(books_url), ended.database
    role = Leader(own)
    assert await role.take()
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    freezing: list[asyncio.Task[Any]] = []

    def start() -> None:
        freezing.append(asyncio.create_task(freeze(ended)))
        begun.set()

    def write(connection: Connection) -> None:
        table = schema.day_totals
        connection.execute(update(table).values(gflop=table.c.gflop + 7))
        hours = schema.hours
        last = hours.c.hour == at(2, 0) // HOUR
        connection.execute(update(hours).where(last, hours.c.node == "n1").values(energy_mj=9))
        asyncio.run_coroutine_threadsafe(_begin(start, begun), loop).result(30)
        connection.execute(update(table).values(gflop=table.c.gflop - 7))
        totals.rebuild(connection, ZONE)

    await role.write(write)
    await freezing[0]
    checked = await other.read(lambda one: months.check(one, MONTH))
    assert checked is not None
    assert checked.same
    await role.leave()
    await own.close()


async def _begin(start: Any, begun: asyncio.Event) -> None:
    start()
    await begun.wait()


async def test_the_health_page_counts_down_to_the_end_of_a_month_s_minutes(world: World) -> None:
    world.inventory = SHORT
    await world.store(run_samples("n1", at(0, 0), at(2, 1800)), bus_us=at(9, 0))

    async def left(days: float) -> float:
        at_us = at(0, 0) + int(days * 24 * HOUR)
        return await world.database.read(lambda one: months.days_left(one, ZONE, at_us, 90.0))

    assert await left(5) == 90.0
    await turn(world)
    # November goes on, then is over, and its first minute is the ledger's.
    assert [await left(day) for day in (5, 6, 69, 91)] == [90.0, 84.0, 21.0, -1.0]
    await freeze(world)
    assert await left(91) == 90.0
    stop, settings_ = asyncio.Event(), {"interval_s": 0.0, "minutes_days": 30.0}
    running = asyncio.create_task(world.books(**settings_).run(stop))
    while world.board.value("unfrozen_left_days") is None:
        assert not running.done()
        await asyncio.sleep(0.01)
    assert world.board.value("unfrozen_left_days") == 30.0
    stop.set()
    await running
    assert world.board.value("unfrozen_left_days") is None


def test_months_of_hours_are_named_in_order() -> None:
    first = int(datetime(2025, 11, 30, 16, tzinfo=UTC).timestamp()) // 3600
    assert months.months_of(range(first - 1, first + 24 * 32), ZONE) == [
        "2025-11", "2025-12", "2026-01",
    ]  # fmt: skip
    assert months.months_of(range(0), ZONE) == []
