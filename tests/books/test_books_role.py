"""The role on a real bus, series store and database, against the plain reference."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import books_reference
import msgspec
from books_reference import HOUR, Sample
from books_world import S1, SITE, TEXT, H, World, at, job, run_samples
from sqlalchemy import Connection, select

from collectors.contract.bus import Message
from collectors.contract.topics import ALLOC, FLUSHED, GPU, Allocation, Flushed, Subject, dumps
from pipeline.books import progress, schema
from pipeline.books.database import BooksUnavailableError
from pipeline.books.role import Books
from pipeline.books.rows import FIGURES, STATES
from pipeline.books.totals import day_of

Rows = Mapping[Any, Mapping[str, int]]


def expected(
    samples: Sequence[Sample], allocations: Sequence[Allocation] = (), hours: range | None = None
) -> Rows:
    touched = {one.time_us // HOUR for one in samples}
    hours = hours or range(min(touched), max(touched) + 1)
    return books_reference.rows(samples, allocations, SITE, hours, TEXT)


def without_origin(rows: Rows) -> dict[Any, dict[str, int]]:
    return {key: {n: v for n, v in one.items() if n != "origin"} for key, one in rows.items()}


async def finish(world: World) -> None:
    books = world.books()
    await books.finish()
    await books.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits for what the running role will bring about; the test's own time limit ends it."""
    while not await condition():  # noqa: ASYNC110 - what is waited for is in a database
        await asyncio.sleep(0.02)


async def check_days(world: World) -> None:
    """Day totals equal the sum of their hours."""

    def sums(connection: Connection) -> tuple[int, int, set[str], set[str]]:
        hours, days = schema.hours.c, schema.day_totals.c
        by_hour = connection.execute(select(hours.hour, *(hours[name] for name in FIGURES))).all()
        by_day = connection.execute(select(days.day, *(days[name] for name in FIGURES))).all()
        zone = ZoneInfo(SITE.time_zone)
        return (
            sum(sum(row[1:]) for row in by_hour),
            sum(sum(row[1:]) for row in by_day),
            {day_of(row[0], zone) for row in by_hour},
            {row[0] for row in by_day},
        )

    hour_sum, day_sum, hour_days, days = await world.database.read(sums)
    assert hour_sum == day_sum
    assert hour_days == days


async def test_finish_computes_touched_hours_whole_for_every_node(world: World):
    samples = run_samples("n1", at(0, 100), at(1, 700)) + run_samples("n2", at(0, 0), at(0, 300))
    jobs = [
        job("1", "ant", at(0, 50), None, "n1", "n2"),
        job("1", "ant", at(0, 50), at(1, 11), "n1", "n2"),
    ]
    await world.allocate(*jobs)
    await world.store(samples)
    await finish(world)
    rows = await world.rows()
    assert without_origin(rows) == expected(samples, jobs)
    assert {key[1] for key in rows} == {"n1", "n2", "n3"}
    for hour in (H, H + 1):
        total = sum(one[state] for key, one in rows.items() for state in STATES if key[0] == hour)
        assert total == 6 * HOUR
    await check_days(world)


async def test_any_deliveries_with_computations_between_give_the_same_rows(world: World):
    """Late, early and repeated parts over a gap, two runs and a correction."""
    rng = random.Random(5)
    samples = [
        *run_samples("n1", at(0, 3000), at(0, 3590)),
        *run_samples("n1", at(3, 40), at(3, 900), run=2, base=1_000_000),
        *run_samples("n2", at(0, 3400), at(1, 300), phase_us=7),
        *run_samples("n2", at(1, 100), at(1, 400), run=2, epoch=2, phase_us=11),
        *run_samples("n3", at(-2, 0), at(2, 0), step_s=1700),
    ]
    jobs = [
        job("1", "ant", at(0, 3100), None, "n1", "n3"),
        job("2", "bee", at(0, 0), at(2, 10), "n2"),
        job("1", "ant", at(0, 3100), at(3, 500), "n1", "n3"),
        job("2", "cat", at(0, 20), at(1, 10), "n2"),
    ]
    deliveries: list[list[Sample]] = [[] for _ in range(8)]
    for one in samples:
        deliveries[rng.randrange(8)].append(one)
        if rng.random() < 0.1:
            deliveries[rng.randrange(8)].append(one)
    for index, delivery in enumerate(deliveries):
        await world.store(delivery)
        if index % 2:
            await world.allocate(jobs[index // 2])
        await step(world)
    await step(world)
    hours = range(H - 2, H + 4)
    computed = without_origin(await world.rows(range(H - 2, H + 3)))
    whole = {key: one for key, one in expected(samples, jobs, hours).items() if key[0] < H + 3}
    assert computed == whole
    await finish(world)
    assert without_origin(await world.rows()) == expected(samples, jobs, hours)
    await check_days(world)


async def step(world: World, books: Books | None = None) -> None:
    """One start, one computation, one stop, without `finish`."""
    role = books or world.books(interval_s=0.0)
    before = role.as_of_us
    stop = asyncio.Event()
    running = asyncio.create_task(role.run(stop))

    async def computed() -> bool:
        if running.done():
            await running
        done = not await world.database.read(lambda one: _due(one, role.as_of_us))
        return role.as_of_us is not None and role.as_of_us != before and done and await read(world)

    await until(computed)
    stop.set()
    await running


def _due(connection: Connection, as_of_us: int | None) -> bool:
    return any(hour * HOUR < (as_of_us or 0) for hour, _ in progress.read_pending(connection))


async def read(world: World) -> bool:
    """Whether the books have read all that is on the bus."""
    saved = await world.database.read(progress.read_positions)
    reader = world.bus.consumer([ALLOC, FLUSHED], None)
    await reader.start()
    ends = await reader.end_offsets()
    await reader.stop()
    return all(saved.get((one.topic, one.number), 0) >= end for one, end in ends.items())


async def test_the_hour_that_goes_on_is_computed_up_to_the_time_reached(world: World):
    await world.store(run_samples("n1", at(0, 0), at(0, 1000)), bus_us=at(0, 1010))
    await step(world)
    rows = await world.rows()
    as_of_us = at(0, 1007)
    assert {key[1] for key in rows} == {"n1", "n2", "n3"}
    assert {sum(one[state] for state in STATES) for one in rows.values()} == {as_of_us - at(0, 0)}
    await world.store(run_samples("n1", at(0, 0), at(0, 2000)), bus_us=at(0, 2010))
    await step(world)
    rows = await world.rows()
    assert {sum(one[state] for state in STATES) for one in rows.values()} == {
        at(0, 2007) - at(0, 0)
    }
    await check_days(world)


async def test_hours_are_final_after_the_lateness_and_late_data_computes_them_again(world: World):
    samples = run_samples("n1", at(0, 0), at(0, 600))
    await world.store(samples, bus_us=at(1, 800))
    await step(world)
    assert await finals(world) == set()
    await world.store([], bus_us=at(1, 1000))
    await step(world)
    assert await finals(world) == {H}
    late = run_samples("n2", at(0, 1000), at(0, 1600))
    await world.store(late, bus_us=at(1, 1200))
    await step(world)
    rows = await world.rows(range(H, H + 1))
    assert without_origin(rows) == expected([*samples, *late])
    assert rows[H, "n2", S1, "unallocated", "", "", ""]["origin"] == 3
    assert await finals(world) == {H}


async def finals(world: World) -> set[int]:
    table = schema.node_hours.c
    query = select(table.hour).where(table.final.is_(True))
    return set(await world.database.read(lambda one: one.execute(query).scalars().all()))


async def test_a_point_after_a_long_gap_computes_every_hour_between(world: World):
    first = run_samples("n1", at(0, 0), at(0, 600))
    last = [
        s for s in run_samples("n1", at(0, 0), at(30, 700), step_s=600) if s.time_us >= at(30, 0)
    ]
    await world.store(first, bus_us=at(30, 1))
    await step(world)
    await world.store(last, bus_us=at(31, 900))
    await step(world)
    rows = without_origin(await world.rows(range(H, H + 31)))
    assert rows == expected([*first, *last])
    assert rows[H + 15, "n1", S1, "unallocated", "", "", ""]["energy_mj"] > 0


async def test_a_corrected_allocation_computes_its_older_hours_at_once(world: World):
    samples = run_samples("n1", at(0, 0), at(1, 600))
    await world.allocate(job("1", "ant", at(0, 10)))
    await world.store(samples, bus_us=at(2, 100))
    role = world.books(interval_s=3600)
    await step(world)
    stop = asyncio.Event()
    running = asyncio.create_task(role.run(stop))
    corrected = job("1", "bee", at(0, 10), at(1, 0))
    await world.allocate(corrected)
    role.as_of_us = at(2, 90)  # as after its first hour of work

    async def computed() -> bool:
        rows = await world.rows(range(H, H + 1))
        return any(key[4] == "bee" for key in rows)

    await until(computed)
    stop.set()
    await running
    rows = await world.rows(range(H, H + 2))
    assert without_origin(rows) == expected(samples, [corrected])


async def test_a_partition_that_lags_holds_the_hour_back_and_an_empty_one_does_not(world: World):
    reader = world.bus.consumer([GPU], None)
    await reader.start()
    await world.producer.send([Message(GPU, b"n1", b"a record that no store has written yet")])
    (chunk,) = await reader.fetch(5.0)
    await reader.stop()
    busy = chunk.partition.number
    await world.store(
        run_samples("n2", at(0, 0), at(0, 600)), at(0, 600), partition=(busy + 1) % 12
    )
    stop = asyncio.Event()
    running = asyncio.create_task(world.books(interval_s=0.0).run(stop))

    async def cycled() -> bool:
        return world.board.total("books_cycles") >= 3

    await until(cycled)
    assert await world.rows() == {}
    told = Flushed(busy, chunk.next_offset, at(0, 300), ())
    await world.producer.send([Message(FLUSHED, b"", dumps(told))])

    async def computed() -> bool:
        return bool(await world.rows())

    await until(computed)
    stop.set()
    await running
    times = {sum(one[state] for state in STATES) for one in (await world.rows()).values()}
    assert times == {at(0, 597) - at(0, 0)}


async def test_records_that_cannot_be_read_are_counted_and_passed_over(world: World):
    beyond = Allocation("s", "1", "ant", "p", "j", (Subject("n1"),), 0, shared=True)
    numbers = [{"weight": 2**63}, {"parts": 2**70}, {"from_us": -(2**80)}, {"to_us": 2**64}]
    bad = [b"{", b'{"source":1}', b""]
    bad += [dumps(msgspec.structs.replace(beyond, **one)) for one in numbers]
    await world.producer.send([Message(ALLOC, b"k", value) for value in bad])
    await world.producer.send([Message(FLUSHED, b"0", b"[]")])
    samples = run_samples("n1", at(0, 0), at(0, 600))
    await world.store(samples)
    await finish(world)
    assert world.board.total("books_refused") == 8
    assert without_origin(await world.rows()) == expected(samples)


async def test_books_that_are_away_at_stop_do_not_hold_it_up(world: World):
    async def away(_: Any) -> None:
        raise BooksUnavailableError("gone")

    books = world.books()
    world.database.write = away  # pyright: ignore[reportAttributeAccessIssue]
    stop = asyncio.Event()
    running = asyncio.create_task(books.run(stop))

    async def waited() -> bool:
        return bool(world.board.total("books_waits"))

    await until(waited)
    stop.set()
    await running
