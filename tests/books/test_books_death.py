"""Books that die at any moment come to the rows of an undisturbed run."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from books_reference import Sample
from books_world import World, at, job, run_samples
from sqlalchemy import Connection
from test_books_role import check_days, expected, finish, step, without_origin

from collectors.contract.topics import Allocation


class _DeadError(Exception):
    """Stands for kill -9 at this point."""


@pytest.mark.parametrize("after", range(7))
async def test_a_death_before_any_transaction_costs_nothing(
    world: World, after: int, monkeypatch: pytest.MonkeyPatch
):
    samples = run_samples("n1", at(0, 3000), at(1, 600)) + run_samples("n2", at(0, 0), at(0, 200))
    jobs = [job("1", "ant", at(0, 10), at(1, 100))]
    await world.allocate(*jobs)
    await world.store(samples)
    write, left = world.database.write, [after]

    async def dying(work: Callable[[Connection], Any]) -> Any:
        if left[0] == 0:
            raise _DeadError
        left[0] -= 1
        return await write(work)

    with monkeypatch.context() as patch:
        patch.setattr(world.database, "write", dying)
        books = world.books(chunk_minutes=60)
        with pytest.raises(_DeadError):
            await books.finish()
        await books.close()
    await step(world)
    await finish(world)
    assert without_origin(await world.rows()) == expected(samples, jobs)
    await check_days(world)


_CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from books_world import World
async def main():
    world = World(Path({folder!r}))
    await world.start()
    print("ready", flush=True)
    await world.books(interval_s=0.0, chunk_minutes=60).run(asyncio.Event())
asyncio.run(main())
"""


async def test_kill_9_at_random_moments_leaves_the_rows_of_an_undisturbed_run(tmp_path: Path):
    rng = random.Random(9)
    samples: list[Sample] = []
    jobs: list[Allocation] = []
    for turn in range(3):
        world = World(tmp_path)
        await world.start()
        fresh = run_samples("n1", at(turn, 0), at(turn, 900), run=turn + 1, base=turn * 1_080_000)
        fresh += run_samples("n2", at(0, 300 * turn), at(0, 300 * turn + 300), run=turn + 1)
        jobs.append(job(str(turn), "ant", at(turn, 100), at(turn, 700)))
        samples += fresh
        await world.allocate(jobs[-1])
        await world.store(fresh[::2])
        await world.store(fresh[1::2], bus_us=at(turn, 1800))
        await world.close()
        code = _CHILD.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        await child.stdout.readline()
        # The moment is meant to be random: no condition stands for it.
        await asyncio.sleep(rng.random() * 0.3)
        child.kill()
        await child.wait()
    world = World(tmp_path)
    await world.start()
    await step(world)
    await finish(world)
    assert without_origin(await world.rows()) == expected(samples, jobs)
    await check_days(world)
    await world.close()
