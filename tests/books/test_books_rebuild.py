"""Hours rebuilt from the minutes are the hours that were there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from books_reference import Sample
from books_world import H, World, at, job, run_samples
from manual_clock import ManualClock
from sqlalchemy import Connection, delete, select, update

from collectors.contract.tenants import NO_TENANTS
from pipeline.books import progress, schema
from pipeline.books.rebuild import HoursRebuild, Site
from pipeline.books.rows import FIGURES
from pipeline.commands.rebuild import Progress

HOURS = range(H - 10, H + 60)


@dataclass
class Said:
    """What a rebuild said, and where it is to be broken off."""

    stop_at: int = 2**60
    steps: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def __call__(self, done: int, total: int) -> None:
        self.steps.append((done, total))
        if done >= self.stop_at:
            raise KeyboardInterrupt


def rebuild(world: World) -> HoursRebuild:
    site = Site(world.inventory, NO_TENANTS)
    return HoursRebuild(world.series, world.database, site, world.clock)


@pytest.fixture
async def filled(world: World) -> World:
    """A ledger with a silence over hours, two runs at once, and a job."""
    samples: list[Sample] = [
        *run_samples("n1", at(0, 3000), at(0, 3590)),
        *run_samples("n1", at(4, 40), at(4, 900)),
        *run_samples("n2", at(0, 3400), at(1, 300), phase_us=7),
        *run_samples("n2", at(1, 100), at(3, 400), run=2, epoch=2, phase_us=11),
        *run_samples("n3", at(-1, 0), at(2, 0), step_s=1700),
        *run_samples("n3", at(5, 0), at(6, 100)),
    ]
    await world.allocate(job("1", "ant", at(0, 3100), at(4, 500), "n1", "n3"))
    await world.store(samples)
    books = world.books()
    await books.finish()
    await books.close()
    return world


def spoil(connection: Connection) -> None:
    """Wrong figures, and hours without rows."""
    hours = schema.hours
    wrong = {name: hours.c[name] + 7 for name in FIGURES}
    seen = hours.c.active_us + hours.c.idle_us + hours.c.down_us > 0
    connection.execute(update(hours).where(hours.c.node != "n2", seen).values(wrong))
    connection.execute(delete(hours).where(hours.c.node == "n2", hours.c.hour == H + 1))


async def test_rebuilt_hours_are_identical_whatever_they_were(filled: World) -> None:
    before = await filled.rows()
    await filled.database.write(spoil)
    await filled.database.write(lambda one: one.execute(delete(schema.spans)))
    assert await filled.rows() != before
    said = Said()
    count = await rebuild(filled).run(HOURS, said)
    assert await filled.rows() == before
    assert said.steps[0] == (0, count)
    assert said.steps[-1][0] == count == len({key[:2] for key in before})


async def test_a_rebuild_that_was_broken_off_goes_on_where_it_was(filled: World) -> None:
    before = await filled.rows()
    await filled.database.write(spoil)
    with pytest.raises(KeyboardInterrupt):
        await rebuild(filled).run(HOURS, Said(stop_at=9))
    left = len(await filled.database.read(progress.read_pending))
    said = Said()
    total = await rebuild(filled).run(HOURS, said)
    assert 0 < left < total
    assert said.steps[0] == (total - left, total)
    assert await filled.rows() == before
    # Done, it begins from the start again.
    again = Said()
    await rebuild(filled).run(HOURS, again)
    assert again.steps[0] == (0, total)


async def test_what_a_rebuild_left_the_role_does_at_its_next_turn(filled: World) -> None:
    before = await filled.rows()
    await filled.database.write(spoil)
    with pytest.raises(KeyboardInterrupt):
        await rebuild(filled).run(HOURS, Said(stop_at=9))
    books = filled.books()
    await books.finish()
    await books.close()
    assert await filled.rows() == before


async def test_hours_whose_minutes_are_gone_stay(filled: World) -> None:
    before = await filled.rows()
    await filled.series.delete_before(0, at(2, 0))
    said, one = Said(), rebuild(filled)
    await one.run(range(H, H + 2), said)
    assert one.kept > 0
    assert await filled.rows() == before
    assert await filled.database.read(progress.read_pending) == []


async def test_an_hour_that_goes_on_is_left_to_the_role(filled: World) -> None:
    table = schema.node_hours

    def open_last(connection: Connection) -> None:
        last = connection.execute(select(table.c.hour).order_by(table.c.hour.desc())).scalar()
        assert last is not None
        connection.execute(
            update(table).where(table.c.hour == last).values(until_us=last * 3_600_000_000 + 5)
        )
        progress.add_pending(connection, [(last, "n1")], progress.Cause.RECORDS)

    await filled.database.write(open_last)
    pending = await filled.database.read(progress.read_pending)
    await rebuild(filled).run(HOURS, Said())
    assert await filled.database.read(progress.read_pending) == pending


async def test_beside_a_role_that_works_it_waits_for_it(filled: World) -> None:
    hours = range(H - 9, H + 6)  # Of the last one the role knows that it goes on.
    before = await filled.rows(hours)
    await filled.database.write(spoil)
    stop = asyncio.Event()
    running = asyncio.create_task(filled.books(interval_s=0.05).run(stop))
    while not await _leads(filled):  # noqa: ASYNC110 - what is waited for is in a database
        await asyncio.sleep(0.02)
    await rebuild(filled).run(HOURS, Said())
    stop.set()
    await running
    assert await filled.rows(hours) == before


async def _leads(world: World) -> bool:
    return (
        await world.database.read(lambda one: progress.read_meta(one, "books_leader")) is not None
    )


def test_progress_says_what_stands_still_seldom() -> None:
    clock, said = ManualClock(), list[str]()
    progress = Progress("things", clock, said.append)
    for second in range(25):
        clock.move(1.0)
        progress(0 if second < 22 else second, 100)
    assert [text.partition(" · ")[0] for text in said] == [
        "0 %",
        "0 %",
        "0 %",
        "22 %",
        "23 %",
        "24 %",
    ]
