"""Books that are locked, full or stopped for a while: the role, the history of alerts and acts wait,
say so, and come to the same rows; the API says what does not answer, and the present goes on."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import books_reference
import httpx
import pytest
from books_reference import Sample
from books_world import SITE, TEXT, H, World, at, job, run_samples
from chaos_disk import Disk
from chaos_processes import MissingServicesError, Services, Target

from collectors.contract.alerts import Incident, Subject
from collectors.contract.bus import Message
from collectors.contract.topics import ALERTS, Allocation, dumps
from pipeline.api.app import create_app
from pipeline.api.deps import ApiDeps
from pipeline.api.settings import ApiSettings
from pipeline.books import alert_history, database, schema
from pipeline.books.acts import Outbox, read_audit
from pipeline.books.alert_history import AlertKeeper
from pipeline.books.database import BooksUnavailableError
from pipeline.books.queries import BooksReader
from pipeline.health import HealthBoard

GPU = Subject("gpu", "n1/0", "h", "r", "n1", "0000:1b:00.0")


@dataclass
class Writers:
    """Everything that writes to the books, at work, and what happened so far."""

    world: World
    client: httpx.AsyncClient
    boards: list[HealthBoard]
    samples: list[Sample] = field(default_factory=list[Sample])
    jobs: list[Allocation] = field(default_factory=list[Allocation])
    comments: int = 0

    async def an_hour_passes(self) -> None:
        """Samples, a job and an incident; nobody waits for the books."""
        world, hour = self.world, len(self.jobs)
        samples = run_samples("n1", at(hour, 0), at(hour, 600), step_s=120, run=hour + 9)
        held = job(f"j{hour}", "ant", at(hour, 60), at(hour, 300))
        told = Incident(
            f"i{hour}", "resolved", "critical", "N1/0: off", "lost", "off", GPU, hour, hour, 1, 1
        )
        self.samples += samples
        self.jobs.append(held)
        await world.allocate(held)
        await world.producer.send([Message(ALERTS, told.key, dumps(told))])
        await world.store(samples, at(hour, 4_000))

    async def comment(self) -> int:
        """Comments on an incident over HTTP; the status."""
        url = "/api/v1/incidents/i0/comments"
        answer = await self.client.post(url, json={"text": "looking"})
        self.comments += answer.status_code == 200
        if answer.status_code == 503:
            assert answer.json()["detail"].startswith("The ledger does not answer now")
        return answer.status_code

    async def all_is_there(self) -> bool:
        """Whether ledger, history, audit and outbox are what an undisturbed run has."""
        hours = range(H, H + len(self.jobs))
        read = self.world.database.read
        try:
            rows = await self.world.rows(hours)
            incidents = await read(alert_history.find_incidents)
            audit = await read(read_audit)
            unsent = await read(lambda one: list(one.execute(schema.outbox.select())))
        except BooksUnavailableError:
            return False
        plain = {k: {n: v for n, v in row.items() if n != "origin"} for k, row in rows.items()}
        wanted = books_reference.rows(self.samples, self.jobs, SITE, hours, TEXT)
        counts = len(incidents), len(audit), len(unsent)
        return plain == wanted and counts == (len(self.jobs), self.comments, 0)

    def away(self) -> list[float | None]:
        """What each says of the books."""
        return [board.value("books_away") for board in self.boards]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110 - what is waited for is in a database
        await asyncio.sleep(0.05)


@asynccontextmanager
async def writers_of(folder: Path, url: str) -> AsyncGenerator[Writers]:
    world = World(folder, url)
    await world.start()
    clock, stop = world.clock, asyncio.Event()
    keeper_board = HealthBoard("alerts", "1", clock)
    serve_board = HealthBoard("serve", "1", clock)
    acts = Outbox(world.database, world.bus, clock, serve_board)
    reader = BooksReader(world.database, lambda: SITE)
    deps = ApiDeps(world.bus, world.series, lambda: SITE, clock, serve_board, reader, acts)
    app = create_app(deps, ApiSettings())
    keeper = AlertKeeper(world.bus, world.database, "", clock, keeper_board)
    books = world.books(interval_s=0.3, lateness_s=0.0)
    running = [asyncio.create_task(one) for one in (books.run(stop), keeper.run(stop))]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client,
    ):
        yield Writers(world, client, [world.board, keeper_board, serve_board])
    stop.set()
    await asyncio.gather(*running)
    await world.close()


async def through(
    folder: Path, url: str, begin: Callable[[], object], end: Callable[[], object], *, reads: bool
) -> None:
    """Something happens, the books go away, more happens, they come back, and more happens."""
    async with writers_of(folder, url) as writers:
        await writers.an_hour_passes()
        assert await writers.comment() == 200
        await until(writers.all_is_there)
        assert writers.away() == [0, 0, 0]
        begin()
        await writers.an_hour_passes()
        # A log file that has room left from before takes some more although the disk is full.
        await until(lambda: refused(writers))

        async def said() -> bool:
            return writers.away() == [1, 1, 1]

        if not reads:
            asked = await writers.client.get("/api/v1/allocations")
            assert asked.status_code == 503
        await until(said)
        for path in ("/api/v1/health", "/api/v1/gpus", "/api/v1/incidents", "/readyz"):
            assert (await writers.client.get(path)).status_code == 200, path
        end()
        await until(lambda: accepted(writers))
        await writers.an_hour_passes()
        await until(writers.all_is_there)

        async def well() -> bool:
            return writers.away() == [0, 0, 0]

        await until(well)


async def accepted(writers: Writers) -> bool:
    return await writers.comment() == 200


async def refused(writers: Writers) -> bool:
    return await writers.comment() == 503


@contextmanager
def locked(file: Path) -> Generator[None]:
    """Another process begins to write and does not end."""
    code = (
        "import sqlite3, sys\n"
        "books = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n"
        "books.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield


async def test_books_that_another_process_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_S", 0.2)
    file = tmp_path / "books.db"
    lock = locked(file)
    await through(
        tmp_path, f"sqlite:///{file}", lock.__enter__,
        lambda: lock.__exit__(None, None, None), reads=True,
    )  # fmt: skip


async def test_books_on_a_full_disk(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", 8)
    try:
        if disk.kind != "file system":
            pytest.skip("nothing may be mounted here")
        url = f"sqlite:///{disk.folder}/books.db"
        await through(tmp_path, url, lambda: disk.fill([]), disk.clear, reads=True)
    finally:
        disk.close()


def reachable_folder() -> Path:
    """A PostgreSQL runs as another user, who must get to its data."""
    folder = Path(tempfile.mkdtemp(prefix="petawatch-books-"))
    folder.chmod(0o711)
    return folder


@pytest.mark.stack
async def test_a_server_that_is_stopped_and_started(postgres_url: str, tmp_path: Path) -> None:
    assert postgres_url  # what is installed for the shared one is what this one starts from
    folder = reachable_folder()
    disk = Disk(folder / "postgres", 300)
    try:
        services = Services(folder, {"postgres": disk})
    except MissingServicesError as missing:
        disk.close()
        shutil.rmtree(folder)
        pytest.skip(str(missing))
    [server] = services.targets
    try:
        await until(lambda: running(server))
        url = services.settings["PETAWATCH_BOOKS"]

        def stop() -> None:
            # SIGTERM would wait until the last client has gone.
            server.signal(signal.SIGINT)
            server.process.wait()

        await through(tmp_path, url, stop, server.start, reads=False)
    finally:
        server.kill()
        disk.close()
        shutil.rmtree(folder)


async def running(server: Target) -> bool:
    """A server that was killed comes up only once its children have ended, too."""
    server.start()
    return server.answers()
