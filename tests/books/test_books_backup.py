"""Backups are whole, portable, and go on from where they were made."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from books_world import World, at, job, run_samples
from sqlalchemy import Connection, MetaData, func, select, text

from collectors.kit.config import ConfigError
from pipeline.books import dump, schema
from pipeline.books.database import Database, migrations, upgrade
from pipeline.books.leader import Leader
from pipeline.commands.backup import read_backup, write_backup


def content(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    found = MetaData()
    found.reflect(connection)
    return {
        table.name: [
            tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))
        ]
        for table in found.sorted_tables
    }


def same_books(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    """All but who leads, which every start writes anew."""
    found = content(connection)
    found["meta"] = [row for row in found["meta"] if row[0] != "books_leader"]
    return found


async def fill(world: World) -> None:
    await world.allocate(job("1", "ant", at(0, 100), None, "n1"))
    await world.store(run_samples("n1", at(0, 0), at(1, 300)))
    books = world.books()
    await books.finish()
    await books.close()


async def restored(url: str, file: Path, *, force: bool = False) -> Database:
    await read_backup(Database(url), file, force=force)
    return Database(url)


async def test_a_backup_restores_into_either_database(
    world: World, books_url: str, tmp_path: Path
) -> None:
    await fill(world)
    file = tmp_path / "books.backup"
    await write_backup(Database(books_url), file)
    assert file.stat().st_mode & 0o777 == 0o600
    other = await restored(f"sqlite:///{tmp_path}/other.db", file)
    back = await restored(books_url, file, force=True)
    one, two = await other.read(same_books), await back.read(same_books)
    assert one == two
    assert len(one["hours"]) > 4
    assert {table.name for table in schema.metadata.sorted_tables} <= set(one)
    await other.close()
    await back.close()


async def test_after_a_restore_the_books_catch_up_to_the_same_ledger(
    world: World, books_url: str, tmp_path: Path
) -> None:
    """The drill: run, back up under load, go on, destroy, restore, catch up."""
    file = tmp_path / "books.backup"
    samples = run_samples("n1", at(0, 0), at(3, 0)) + run_samples("n2", at(0, 9), at(3, 0))
    stop = asyncio.Event()
    running = asyncio.create_task(world.books(interval_s=0.05).run(stop))
    await world.allocate(job("1", "ant", at(0, 100), None, "n1"))
    for hour in range(3):
        now = [one for one in samples if at(hour, 0) <= one.time_us < at(hour + 1, 0)]
        await world.store(now)
        if hour == 1:
            await write_backup(Database(books_url), file)
            await world.allocate(job("2", "bee", at(1, 0), at(2, 500), "n2"))
    while len({key[0] for key in await world.rows()}) < 3:  # noqa: ASYNC110 - it is in a database
        await asyncio.sleep(0.02)
    stop.set()
    await running
    books = world.books()
    await books.finish()
    await books.close()
    undisturbed = await world.rows()
    await world.database.write(lambda one: one.execute(schema.hours.delete()))
    await world.database.close()
    await read_backup(Database(books_url), file, force=True)
    books = world.books()
    await books.finish()
    await books.close()
    assert await world.rows() == undisturbed


async def test_books_in_which_something_stands_or_that_are_in_use_are_not_replaced(
    world: World, books_url: str, tmp_path: Path
) -> None:
    await fill(world)
    file = tmp_path / "books.backup"
    await write_backup(Database(books_url), file)
    with pytest.raises(ConfigError, match="--force"):
        await read_backup(Database(books_url), file, force=False)
    leader = Leader(world.database)
    assert await leader.take()
    with pytest.raises(ConfigError, match="stop it"):
        await read_backup(Database(books_url), file, force=True)
    await leader.leave()
    assert await world.rows()


async def test_books_that_are_not_there_are_not_backed_up_as_nothing(tmp_path: Path) -> None:
    """A slip in the address would be found when the backup is needed."""
    file, books = tmp_path / "books.backup", tmp_path / "boks.db"
    with pytest.raises(ConfigError, match=r"no books at .*boks\.db"):
        await write_backup(Database(f"sqlite:///{books}"), file)
    assert not books.exists()
    database = Database(f"sqlite:///{books}")
    await database.start()
    with pytest.raises(ConfigError, match="nothing stands in the books"):
        await write_backup(database, file)
    assert not file.exists()


async def test_a_backup_that_cannot_be_written_is_said_and_leaves_nothing(
    world: World, books_url: str, tmp_path: Path
) -> None:
    await fill(world)
    with pytest.raises(ConfigError, match=r"absent/books\.backup cannot be written: No such file"):
        await write_backup(Database(books_url), tmp_path / "absent" / "books.backup")
    full = tmp_path / "full"
    full.mkdir()
    (full / "books.backup.part").symlink_to("/dev/full")
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        await write_backup(Database(books_url), full / "books.backup")
    assert list(full.iterdir()) == []


@pytest.mark.parametrize("harm", ["cut", "changed", "other", "newer"])
async def test_a_file_that_is_not_whole_changes_nothing(
    world: World, books_url: str, tmp_path: Path, harm: str
) -> None:
    await fill(world)
    before = await world.database.read(same_books)
    file = tmp_path / "books.backup"
    await write_backup(Database(books_url), file)
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    if harm == "cut":
        lines.pop()
    elif harm == "changed":
        lines[-2] = lines[-2].replace(b"1", b"2", 1)
    elif harm == "other":
        lines[0] = b'{"format":"something"}\n'
    else:
        head = json.loads(lines[0])
        lines[0] = json.dumps(head | {"revision": "r9999"}).encode() + b"\n"
    file.write_bytes(gzip.compress(b"".join(lines)))
    with pytest.raises(dump.DumpError, match=r"backup|newer"):
        await read_backup(Database(books_url), file, force=True)
    assert await world.database.read(same_books) == before


def revisions() -> list[str]:
    steps = ScriptDirectory.from_config(migrations()).walk_revisions()
    return [step.revision for step in steps][::-1]


@pytest.mark.parametrize("revision", revisions())
async def test_books_of_every_older_schema_keep_their_rows(
    books_url: str, tmp_path: Path, revision: str
) -> None:
    """Upgraded in place, and restored from a backup of that time."""
    old = Database(books_url)

    def make(connection: Connection) -> None:
        upgrade(connection, revision)
        found = MetaData()
        found.reflect(connection)
        for table in found.sorted_tables:
            if table.name != "alembic_version":
                for number in range(1, 4):
                    row = {c.name: _some(c, number) for c in table.columns}
                    connection.execute(table.insert().values(row))

    await old.write(make)
    before = await old.read(content)
    file = tmp_path / "old.backup"
    await old.read(lambda one: dump.write_dump(one, file))
    await old.start()
    after = await old.read(content)
    for name, rows in before.items():
        if name != "alembic_version":
            assert len(after[name]) == len(rows), name
    count = await old.read(
        lambda one: one.execute(select(func.count()).select_from(text("hours"))).scalar()
    )
    assert count == 3
    await old.close()
    other = await restored(f"sqlite:///{tmp_path}/other.db", file, force=True)
    again = await other.read(same_books)
    assert {name: len(rows) for name, rows in again.items() if name != "meta"} == {
        name: len(rows) for name, rows in after.items() if name != "meta"
    }
    await other.close()


def _some(column: object, number: int) -> object:
    kind = column.type.python_type  # type: ignore[attr-defined]
    return {str: f"v{number}", int: number, bool: bool(number % 2), bytes: bytes([number, 255])}[
        kind
    ]
