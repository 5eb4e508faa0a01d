"""Several `books` of one ledger: one works, the next takes over, and who was followed writes nothing."""

from __future__ import annotations

import asyncio
import sys

import pytest
from books_world import World, at, run_samples
from sqlalchemy import text
from test_books_role import expected, finish, until, without_origin

from pipeline.books.database import Database
from pipeline.books.leader import Leader, LeadershipLostError
from pipeline.books.progress import read_meta, write_meta

_CHILD = """
import asyncio, sys
from pipeline.books.database import Database
from pipeline.books.leader import Leader
async def main():
    leader = Leader(Database({url!r}))
    print(await leader.take(), flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_one_leads_until_it_leaves(database: Database, books_url: str) -> None:
    other = Database(books_url)
    one, two = Leader(database), Leader(other)
    assert await one.take()
    assert await one.take()
    assert not await two.take()
    await one.write(lambda connection: write_meta(connection, "k", "one"))
    await one.leave()
    assert not one.leads
    assert await two.take()
    await two.write(lambda connection: write_meta(connection, "k", "two"))
    await two.leave()
    await other.close()


async def test_the_next_leads_after_kill_9(database: Database, books_url: str) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CHILD.format(url=books_url), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"True\n"
    leader = Leader(database)
    assert not await leader.take()
    child.kill()
    await child.wait()
    await until(leader.take)
    await leader.leave()


async def test_who_lost_the_lock_without_knowing_writes_nothing(
    database: Database, books_url: str
) -> None:
    other = Database(books_url)
    one, two = Leader(database), Leader(other)
    assert await one.take()
    await lose(one, database)
    await until(two.take)
    with pytest.raises(LeadershipLostError):
        await one.write(lambda connection: write_meta(connection, "k", "one"))
    assert await database.read(lambda connection: read_meta(connection, "k")) is None
    await two.write(lambda connection: write_meta(connection, "k", "two"))
    await one.leave()
    await two.leave()
    await other.close()


async def lose(leader: Leader, database: Database) -> None:
    """The lock goes and the leader does not hear of it: a server's sessions end with it."""
    if database.engine.dialect.name == "sqlite":
        await Leader.leave(leader)
        leader._let_go = lambda: None  # pyright: ignore[reportPrivateUsage]
        return
    ended = text(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        " AND objid = 7382642 AND granted"
    )
    await database.write(lambda connection: connection.execute(ended))


async def test_a_second_role_stands_by_and_goes_on_where_the_first_one_was(world: World) -> None:
    samples = run_samples("n1", at(0, 0), at(1, 600))
    await world.store(samples[: len(samples) // 2], bus_us=at(0, 2000))
    first, second = world.books(interval_s=0.0), world.books(interval_s=0.0)
    stops = [asyncio.Event(), asyncio.Event()]
    running = asyncio.create_task(first.run(stops[0]))

    async def computed() -> bool:
        return bool(await world.rows())

    await until(computed)
    standing_by = asyncio.create_task(second.run(stops[1]))

    async def looked() -> bool:
        return world.board.total("books_leads") == 0

    await until(looked)
    assert second.as_of_us is None
    await world.store(samples[len(samples) // 2 :], bus_us=at(1, 2000))
    stops[0].set()
    await running

    async def followed() -> bool:
        return second.as_of_us == at(1, 1997)

    await until(followed)
    stops[1].set()
    await standing_by
    await finish(world)
    assert without_origin(await world.rows()) == expected(samples)
