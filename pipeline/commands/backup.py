"""`petawatch backup` and `petawatch restore`: the books as one file, and back."""

from __future__ import annotations

from pathlib import Path

import click

from collectors.kit.config import ConfigError
from collectors.kit.options import setting_options
from pipeline.books import dump
from pipeline.books.database import Database
from pipeline.books.leader import Leader
from pipeline.commands import stages
from pipeline.commands.wiring import load_settings
from pipeline.settings import Settings


@click.command(help="Writes the books to one file, while they are in use.")
@setting_options(Settings, "books")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def backup(*, config: Path | None, file: Path, force: bool, **options: object) -> None:
    """Either the whole file is there in the end, or what was there before."""
    settings = load_settings(config, options)
    if file.exists() and not force:
        raise ConfigError(f"{file} is there already: choose another name, or say --force")
    stages.run_until_done(write_backup(Database(settings.books), file))


async def write_backup(database: Database, file: Path) -> None:
    """Writes the file.  Raises BooksUnavailableError, and ConfigError for books that are not
    there (a slip in their address must not end in a backup of nothing) and for a file that
    cannot be written."""
    _check_there(database)
    try:
        await database.start()
        if await database.read(dump.is_empty):
            raise ConfigError(f"nothing stands in the books at {database.engine.url}: name others")
        counted = await database.read(lambda one: dump.write_dump(one, file))
    except ConnectionError:
        raise  # the books do not answer
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        await database.close()
    click.echo(f"{counted.rows:,} rows of {counted.tables} tables, schema {counted.revision}.")


def _check_there(database: Database) -> None:
    url = database.engine.url
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise ConfigError(f"there are no books at {url.database}: name those that there are")


@click.command(help="Fills the books from a file that `backup` wrote.")
@setting_options(Settings, "books")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--force", is_flag=True, help="Replace books in which something stands.")
def restore(*, config: Path | None, file: Path, force: bool, **options: object) -> None:
    """All of it or nothing, in one transaction; an earlier schema is then brought up to date."""
    settings = load_settings(config, options)
    stages.run_until_done(read_backup(Database(settings.books), file, force=force))


async def read_backup(database: Database, file: Path, *, force: bool) -> None:
    """Restores.  Raises DumpError for a file that is not whole, ConfigError for books that are
    in use or not empty, BooksUnavailableError."""
    dump.check_dump(file)
    leader = Leader(database)
    try:
        await database.start()
        if not force and not await database.read(dump.is_empty):
            raise ConfigError("something stands in these books: name others, or say --force")
        if not await leader.take():
            raise ConfigError("a books role works on these books: stop it, then restore")
        counted = await database.write(lambda one: dump.restore(one, file))
    finally:
        await leader.leave()
        await database.close()
    click.echo(
        f"{counted.rows:,} rows of {counted.tables} tables are back; the books go on from the"
        " positions on the bus that are among them."
    )
