"""A simulated site's past in its books: all of it or none, once, and never beside real hours."""

from __future__ import annotations

import os
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from sqlalchemy import func, select

from collectors.contract.inventory import Inventory
from collectors.contract.source import SourceOptions
from collectors.kit import plugins
from collectors.kit.clock import SystemClock
from pipeline.books import schema
from pipeline.books.database import Database
from pipeline.books.past import PastHour, PastWriter, read_plan, wanted
from pipeline.books.rows import FIGURES, HOUR_US
from pipeline.books.totals import day_of
from pipeline.commands.past import fill
from pipeline.commands.up import up
from pipeline.commands.wiring import make_source
from pipeline.settings import Settings

FIRST, END = 500_000, 500_030


def _site() -> Inventory:
    return make_source("sim", SourceOptions(site="demo"), SystemClock()).inventory


def _hours() -> list[PastHour]:
    return list(plugins.load("petawatch.past", "hours")("demo", 1, range(FIRST, END)))


async def _books(path: Path) -> Database:
    database = Database(f"sqlite:///{path}")
    await database.start()
    return database


async def _rows(database: Database) -> list[tuple[object, ...]]:
    table = schema.hours
    return await database.read(
        lambda one: [tuple(row) for row in one.execute(select(table).order_by(*table.primary_key))]
    )


async def test_a_past_that_was_cut_off_goes_on_and_comes_to_the_same_rows(tmp_path: Path) -> None:
    whole = await _books(tmp_path / "whole.db")
    plan = await whole.read(lambda one: wanted(one, "demo", 1, range(FIRST, END)))
    assert plan is not None
    await PastWriter(whole, _site()).write(plan, _hours())

    cut = await _books(tmp_path / "cut.db")

    def some(count: int) -> list[PastHour]:
        return _hours()[:count]

    await PastWriter(cut, _site()).write(plan, some(11))
    again = await cut.read(lambda one: wanted(one, "demo", 1, range(END, END + 9)))
    assert again is not None
    assert (again.first, again.end, again.done) == (FIRST, END, FIRST + 11)
    await PastWriter(cut, _site()).write(again, _hours())
    assert await _rows(cut) == await _rows(whole)
    assert await cut.read(lambda one: wanted(one, "demo", 1, range(END, END + 9))) is None
    done = await cut.read(read_plan)
    assert done is not None
    assert done.complete
    await whole.close()
    await cut.close()


async def test_every_gpu_hour_is_whole_simulated_and_final_and_days_add_up(tmp_path: Path) -> None:
    database = await _books(tmp_path / "books.db")
    plan = await database.read(lambda one: wanted(one, "demo", 1, range(FIRST, END)))
    assert plan is not None
    await PastWriter(database, _site()).write(plan, _hours())
    hours, days = schema.hours.c, schema.day_totals.c
    states = hours.active_us + hours.idle_us + hours.down_us + hours.unobserved_us
    query = select(hours.hour, func.sum(states), func.min(hours.origin), func.max(hours.origin))
    for _, held_us, low, high in await database.read(
        lambda one: one.execute(query.group_by(hours.hour)).all()
    ):
        assert held_us == 64 * HOUR_US
        assert low == high == 3
    final = select(func.count()).where(schema.node_hours.c.final.is_(False))
    assert await database.read(lambda one: one.execute(final).scalar()) == 0
    for name in FIGURES:
        totals = await database.read(
            lambda one, name=name: one.execute(
                select(
                    select(func.sum(hours[name])).scalar_subquery(),
                    select(func.sum(days[name])).scalar_subquery(),
                )
            ).one()
        )
        assert totals[0] == totals[1], name
    zone = ZoneInfo("Asia/Hong_Kong")
    named = await database.read(lambda one: set(one.execute(select(days.day)).scalars()))
    assert named == {day_of(hour, zone) for hour in range(FIRST, END)}
    await database.close()


@pytest.mark.parametrize("site", ["demo", "aisc-phase1"])
async def test_books_that_have_hours_get_no_past(tmp_path: Path, site: str) -> None:
    database = await _books(tmp_path / "books.db")
    plan = await database.read(lambda one: wanted(one, "demo", 1, range(FIRST, END)))
    assert plan is not None
    await PastWriter(database, _site()).write(plan, _hours()[:1])
    await database.write(lambda one: one.execute(schema.meta.delete()))
    assert await database.read(lambda one: wanted(one, site, 1, range(FIRST, END))) is None
    await database.close()


@pytest.mark.parametrize(("parent", "hours"), [(None, 24), (os.getppid(), 24), (1 << 30, 0)])
async def test_a_past_ends_when_its_parent_is_gone(
    parent: int | None, hours: int, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'books.db'}"
    settings = Settings(data=tmp_path, books=url, past_days=1.0)
    await fill(settings, "demo", SystemClock(), parent)
    database = await _books(tmp_path / "books.db")
    plan = await database.read(read_plan)
    assert (0 if plan is None else plan.done - plan.first) == hours
    await database.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--faults", "random"], "write --site demo beside --faults"),
        (["--backend", "nvml", "--scenario", "FILE"], "write --site demo beside --scenario"),
        (["--site", "demo", "--scenario", "FILE"], "line 1: no fault 'nope'"),
        (["--site", "demo", "--telemetry-faults", "lat"], 'did you mean "late"'),
    ],
)
def test_faults_that_cannot_happen_keep_up_from_starting(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[[event]]\nfault = "nope"\n', encoding="utf-8")
    given = [str(file) if word == "FILE" else word for word in arguments]
    result = CliRunner().invoke(up, [*given, "--data", str(tmp_path / "data"), "--no-open"])
    assert result.exit_code != 0
    assert says in f"{result.output}{result.exception}"
