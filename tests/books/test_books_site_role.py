"""The role takes over the site's files while it runs, and its ledger follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
from books_world import SITE, H, World, at, job, run_samples
from test_books_role import until

from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.contract.tenants_file import parse_tenants
from pipeline.books.acts import Outbox, read_audit
from pipeline.books.role import Books, BooksSettings

FILE = """
[[tenants]]
id = "ape"
[[names]]
tenant = "ape"
accounts = ["lab"]
"""
RESERVED = '\n[[reservations]]\nid = "r"\ntenant = "ape"\nnodes = "n3"\n'


class Files:
    """What the site's files say now."""

    tenants: Tenants = NO_TENANTS


@asynccontextmanager
async def running(world: World, files: Files) -> AsyncGenerator[None]:
    books = Books(
        world.bus, world.series, lambda: world.inventory, world.database,
        BooksSettings(interval_s=0.2), world.clock, world.board, lambda: files.tenants,
    )  # fmt: skip
    outbox = Outbox(world.database, world.bus, world.clock, world.board)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(books.run(stop))
        group.create_task(outbox.run())
        try:
            yield
        finally:
            stop.set()
            outbox.stop()


async def owners(world: World, node: str, hour: int = H) -> set[str]:
    """Whose the node is in an hour of the ledger: tenants or owner kinds."""
    rows = await world.rows(range(hour, hour + 1))
    return {key[4] or key[3] for key in rows if key[1] == node}


async def test_files_that_change_are_followed_and_survive_a_restart(world: World) -> None:
    files = Files()
    held = msgspec.structs.replace(job("1", "", at(0, 0)), account="lab")
    await world.allocate(held)
    await world.store(run_samples("n1", at(0, 0), at(1, 600)), bus_us=at(1, 700))

    async def is_(node: str, *names: str) -> None:
        async def holds() -> bool:
            return await owners(world, node) == set(names)

        await until(holds)

    async with running(world, files):
        await is_("n1", "unallocated")
        files.tenants = parse_tenants(Path("t"), FILE + RESERVED, world.inventory)
        await is_("n1", "ape")
        await is_("n3", "ape")
        world.inventory = replace(SITE, nodes=SITE.nodes[:2])
        await is_("n3")
    # What changes while nobody looks is met at the next start.
    files.tenants = parse_tenants(Path("t"), FILE.replace('"lab"', '"labs"'), world.inventory)
    world.inventory = replace(SITE, nodes=SITE.nodes[1:])
    async with running(world, files):
        await is_("n1")
        await is_("n3", "unallocated")
        world.inventory = SITE
        await is_("n1", "unallocated")
    acts = await world.database.read(read_audit)
    assert [(one.actor, one.detail["removed"]) for one in acts] == [("file", ["r"]), ("file", [])]
