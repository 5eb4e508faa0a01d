"""A hundred jobs on a real Slurm: the ledger has what `sacct` has, to the second, on the prolog's GPUs."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING

import pytest
from slurm_world import NODES, SLOTS, World, prologs_record, write_hooks

from collectors.contract.bus import Message
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.topics import FLUSHED, Flushed, dumps
from collectors.slurm.names import hosts
from pipeline.books.database import Database
from pipeline.books.queries import read_rows
from pipeline.books.role import Books, BooksSettings
from pipeline.books.rows import STATES
from pipeline.health import HealthBoard
from pipeline.series.duck import DuckStore

if TYPE_CHECKING:
    from slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
ACCOUNTS = ("lab-a", "lab-b", "lab-c")
JOBS = 100
HOUR_US = 3_600_000_000
Found = dict[tuple[str, str, str, int], int]
"""By (tenant, job, node, slot) µs."""
Told = dict[tuple[str, str], list[tuple[int, set[int]]]]
SITE = Inventory(
    "t", "T", "UTC", "fp16", "dense", "boost",
    tuple(InstalledNode(node, "h", "r", "H800", tuple(SLOTS), 1.0) for node in NODES),
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[SlurmCluster]:
    """Slurm with the hooks of deploy/slurm; skipped, with the reason, where it cannot be had."""
    from processes import MissingError  # noqa: PLC0415 -- of deploy/services, by slurm_world
    from slurm_cluster import SlurmCluster  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("slurm")
    hooks = write_hooks(folder)
    made = SlurmCluster(folder, prolog=hooks["prolog"], epilog=hooks["epilog"])
    try:
        made.start()
    except MissingError as missing:
        if os.environ.get("PETAWATCH_REQUIRE_STACK") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    made.add_accounts(ACCOUNTS)
    yield made
    made.stop()


@pytest.fixture
async def world(cluster: SlurmCluster) -> AsyncGenerator[World]:
    made = World(cluster.data, cluster)
    await made.start()
    yield made
    await made.close()


def commands(number: int) -> list[list[str]]:
    """What is submitted: one to four GPUs, on one node or on both, for up to a second."""
    chance = random.Random(7)
    made: list[list[str]] = []
    for _ in range(number):
        account = chance.choice(ACCOUNTS)
        gpus = chance.choice([1, 1, 1, 1, 2, 2, 3, 4])
        both = ["--nodes=2"] if chance.random() < 0.15 else []
        seconds = chance.choice([0, 0.3, 0.6, 1])
        name = chance.choice(["train", "x Account=evil", "a|b"])
        made.append(
            ["sbatch", "--parsable", "--requeue", "--output=/dev/null", f"--account={account}",
             f"--gres=gpu:h800:{gpus}", *both, f"--job-name={name}", f"--wrap=sleep {seconds}"]
        )  # fmt: skip
    return made


async def submit(world: World, some: list[list[str]]) -> list[str]:
    return [(await asyncio.to_thread(world.cluster.run, *one)).strip() for one in some]


async def try_on(world: World, jobs: list[str], *command: str) -> int:
    """A command on each job; how often Slurm agreed: some are over by then."""
    done = 0
    for job in jobs:
        try:
            await asyncio.to_thread(world.cluster.run, *command, job)
        except subprocess.CalledProcessError:
            continue
        done += 1
    return done


def queued(world: World, *states: str) -> list[str]:
    return world.cluster.run("squeue", "-h", "-o", "%A", "-t", ",".join(states)).split()


def sacct(world: World) -> list[dict[str, str]]:
    """By Slurm's own tool, of all runs, also a requeued job's first."""
    columns = ["JobIDRaw", "Account", "State", "Start", "End", "NodeList", "AllocTRES"]
    text = world.cluster.run(
        "env", "SLURM_TIME_FORMAT=%s", "TZ=UTC", "sacct", "-n", "-P", "-D", "-a", "-X",
        "-S", "now-1hour", "-o", ",".join(columns),
    )  # fmt: skip
    return [dict(zip(columns, line.split("|"), strict=True)) for line in text.splitlines()]


async def look_until(world: World, done: asyncio.Event) -> None:
    """The agents go on looking, as agents do."""
    while not done.is_set():
        await world.look()
        await asyncio.sleep(0.5)


async def until(true: Callable[[], bool]) -> None:
    """Waits for what Slurm will bring about; the test's own time limit ends it."""
    while not await asyncio.to_thread(true):  # noqa: ASYNC110 -- what is waited for is outside
        await asyncio.sleep(0.3)


async def settle(world: World, jobs: list[str]) -> None:
    """Returns when slurmdbd has the end of all runs, and nobody has anything to tell any more."""
    book = world.watcher.book

    def over() -> bool:
        rows = sacct(world)
        # slurmdbd may not have heard of a requeued job's last run.
        done = {row["JobIDRaw"] for row in rows if row["State"] != "REQUEUED"}
        ended = all(row["End"].isdecimal() for row in rows)
        return ended and done >= {*jobs} and not queued(world, "pending", "running", "completing")

    await until(over)
    while await world.look():
        continue
    asked_s = world.clock.wall_us() // 1_000_000
    await until(lambda: book.accounted_s > asked_s)


async def ledger(world: World) -> Found:
    """What the real books come to."""
    hours = range(
        min(int(row["Start"]) for row in sacct(world) if row["Start"].isdecimal()) // 3_600,
        world.clock.wall_us() // HOUR_US + 1,
    )
    touched = tuple((node, hour) for node in NODES for hour in hours)
    told = Flushed(0, 1, world.clock.wall_us(), touched)
    await world.producer.send([Message(FLUSHED, b"0", dumps(told))])
    series = DuckStore(world.folder / "series.duckdb", memory_limit_mb=64)
    database = Database(f"sqlite:///{world.folder}/books.db")
    await series.start()
    await database.start()
    books = Books(
        world.bus, series, lambda: SITE, database, BooksSettings(), world.clock,
        HealthBoard("books", "test", world.clock),
    )  # fmt: skip
    try:
        await books.finish()
        await books.close()
        rows = await database.read(lambda one: read_rows(one, hours))
    finally:
        await series.close()
        await database.close()
    found: dict[tuple[str, str, str, int], int] = defaultdict(int)
    for (_, node, slot, kind, tenant, _, job), row in rows.items():
        if kind == "tenant":
            found[tenant, job, node, slot] += sum(row[state] for state in STATES)
    return found


async def when_running(world: World, least: int) -> list[str]:
    """The running jobs, once there are so many; of some no prolog has run yet."""
    found: list[str] = []

    def enough() -> bool:
        found[:] = queued(world, "running")
        return len(found) >= least

    await until(enough)
    return found


async def a_busy_while(world: World) -> list[str]:
    """A hundred jobs, some requeued, some cancelled, while the watcher and slurmctld are away for
    a time, one after the other; returns the jobs."""
    some = commands(JOBS)
    jobs = await submit(world, some[:35])
    assert await try_on(world, await when_running(world, 3), "scontrol", "requeue")
    await world.end_watching(at_once=True)
    jobs += await submit(world, some[35:60])
    assert await try_on(world, jobs[50:55], "scancel", "--state=PENDING")
    assert await try_on(world, await when_running(world, 2), "scancel")
    await asyncio.to_thread(world.cluster.stop_controller)
    world.begin_watching()
    await asyncio.to_thread(world.cluster.start_controller)
    jobs += await submit(world, some[60:])
    assert await try_on(world, await when_running(world, 2), "scontrol", "requeue")
    return jobs


def seconds_of(row: dict[str, str]) -> int:
    """GPU-seconds of a run; one that was cancelled before it began again has a start alone."""
    gpus = int(row["AllocTRES"].partition("gres/gpu=")[2].partition(",")[0] or 0)
    return gpus * (int(row["End"]) - int(row["Start"]))


def check_seconds(rows: list[dict[str, str]], found: Found) -> None:
    """Each account, and each job, has in the ledger what sacct has, and nobody else has anything."""
    expected, billed = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for row in rows:
        expected[row["Account"], row["JobIDRaw"]] += seconds_of(row) * 1_000_000
    for (tenant, job, _, _), time_us in found.items():
        billed[tenant, job] += time_us
    assert billed == +expected
    for account in ACCOUNTS:
        assert sum(time_us for (tenant, _), time_us in billed.items() if tenant == account) > 0


def apart_s(row: dict[str, str], time_s: int) -> int:
    """How far a prolog is from a run: before its start, which may be set anew after it, or, where
    it was ended at once, after its end.  A requeued run begins seconds after the one before."""
    return max(int(row["Start"]) - time_s, time_s - int(row["End"]), 0)


def check_places(rows: list[dict[str, str]], found: Found, told: Told) -> int:
    """Each run has the GPUs that its prolog was told, to the second; returns how many were told.

    Of a job's other runs, whose prolog was told nothing, the ledger has the rest.
    """
    runs: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        runs[row["JobIDRaw"]].append(row)
    expected, whole = Counter[tuple[str, str, str, int]](), dict[tuple[str, str], bool]()
    for (node, job), prologs in told.items():
        seen: list[int] = []
        for time_s, gpus in prologs:
            row = min(runs[job], key=lambda one: apart_s(one, time_s))
            seen.append(int(row["Start"]))
            for gpu in gpus:
                lasted_s = int(row["End"]) - int(row["Start"])
                expected[row["Account"], job, node, SLOTS[gpu]] += lasted_s * 1_000_000
        assert len(seen) == len(set(seen)), (node, job, prologs, runs[job])
        there = [one for one in runs[job] if node in hosts(one["NodeList"])]
        whole[node, job] = all(int(one["Start"]) in seen for one in there if seconds_of(one))
    for place, time_us in expected.items():
        assert found.get(place, 0) >= time_us, (place, told[place[2], place[1]], runs[place[1]])
    for place, time_us in found.items():
        _, job, node, _ = place
        if whole.get((node, job)):
            assert time_us == expected[place], (place, told[node, job], runs[job])
    return len(+expected)


async def test_a_hundred_jobs(world: World) -> None:
    done = asyncio.Event()
    looking = asyncio.create_task(look_until(world, done))
    jobs = await a_busy_while(world)
    await settle(world, jobs)
    done.set()
    await looking
    await world.end_watching()
    rows = [row for row in await asyncio.to_thread(sacct, world) if row["Start"].isdecimal()]
    assert len(set(jobs)) == JOBS
    assert "REQUEUED" in {row["State"] for row in rows}
    found = await ledger(world)
    assert world.watcher.book.unplaced.left == {}
    check_seconds(rows, found)
    assert check_places(rows, found, prologs_record(world.folder)) > JOBS // 2
