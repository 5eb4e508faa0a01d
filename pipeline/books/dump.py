"""The books as one file, and back: the same for SQLite and PostgreSQL, so that either restores either.

The file is gzip over lines of JSON.  The first says what it is, by which
revision of the schema it was made, and the tables in order; then for each
table a line with its name and columns and a line per some hundred rows; the
last line has a SHA-256 of all before it.  What a column holds as bytes is
base64.  Everything is read in one snapshot, so that positions on the bus and
what was read from there belong together: restored books go on from there.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Boolean,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    func,
    inspect,
    select,
    text,
)

from pipeline.books import schema
from pipeline.books.database import BooksSetupError, migrations, upgrade

_FORMAT = "petawatch books 1"
_ROWS = 500
_VERSION_TABLE = "alembic_version"


class DumpError(BooksSetupError):
    """The file is no whole backup, or one of a newer Petawatch; the message says which."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What went through: tables and rows."""

    revision: str
    tables: int
    rows: int


def write_dump(connection: Connection, file: Path) -> Counted:
    """Writes all tables to a new file, which has its name only once it is whole on disk."""
    part = file.with_name(file.name + ".part")
    try:
        with part.open("wb") as raw:
            part.chmod(0o600)
            with gzip.GzipFile(
                fileobj=raw, mode="wb", compresslevel=6, filename="", mtime=0
            ) as out:
                counted = _write(connection, cast("BinaryIO", out))
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(file)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    return counted


def _write(connection: Connection, out: BinaryIO) -> Counted:
    digest = hashlib.sha256()

    def line(value: Any) -> None:
        data = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        digest.update(data)
        out.write(data)

    revision = MigrationContext.configure(connection).get_current_revision()
    tables = _tables(connection)
    line({"format": _FORMAT, "revision": revision, "tables": [one.name for one in tables]})
    rows = 0
    for table in tables:
        line({"table": table.name, "columns": [column.name for column in table.columns]})
        query = select(table).order_by(*table.primary_key)
        answer = connection.execution_options(yield_per=_ROWS).execute(query)
        for batch in answer.partitions(_ROWS):
            line([[_said(value) for value in row] for row in batch])
            rows += len(batch)
    out.write(json.dumps({"sha256": digest.hexdigest(), "rows": rows}).encode() + b"\n")
    return Counted(str(revision), len(tables), rows)


def _tables(connection: Connection) -> list[Table]:
    """The tables as the database has them, those that others refer to first."""
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != _VERSION_TABLE]


def _said(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    return value


def check_dump(file: Path) -> Counted:
    """Reads a file to its end.  Raises DumpError where it is not a whole backup that this version
    can take."""
    head, tables, rows = "", 0, 0
    for value in _lines(file):
        if isinstance(value, list):
            rows += len(cast("list[Any]", value))
        elif "table" in value:
            tables += 1
        else:
            head = str(value["revision"])
    return Counted(head, tables, rows)


def _lines(file: Path) -> Iterator[Any]:
    """All lines but the last, which must agree with them."""
    digest, before = hashlib.sha256(), b""
    try:
        with gzip.open(file, "rb") as lines:
            for number, data in enumerate(lines):
                if before:
                    digest.update(before)
                    yield _head(before, file) if number == 1 else json.loads(before)
                before = data
        last = json.loads(before)
    except (OSError, EOFError, ValueError, gzip.BadGzipFile) as error:
        if isinstance(error, DumpError | FileNotFoundError | PermissionError):
            raise
        raise DumpError(f"{file} is not a whole backup of the books: {error}") from error
    if _of(last, "sha256") != digest.hexdigest():
        raise DumpError(f"{file} is not a whole backup of the books: its checksum does not agree")


def _of(value: Any, name: str) -> Any:
    return cast("dict[str, Any]", value).get(name) if isinstance(value, dict) else None


def _head(data: bytes, file: Path) -> Any:
    head = json.loads(data)
    if _of(head, "format") != _FORMAT:
        raise DumpError(f"{file} is not a backup of the books that this version can read")
    known = {step.revision for step in ScriptDirectory.from_config(migrations()).walk_revisions()}
    if head["revision"] not in known:
        raise DumpError(
            f"{file} was made by a newer Petawatch (schema {head['revision']}): install that first"
        )
    return cast("dict[str, Any]", head)


def is_empty(connection: Connection) -> bool:
    """Whether the database holds no books, or books in which nothing stands."""
    there = set(inspect(connection).get_table_names())
    return not any(
        connection.execute(select(func.count()).select_from(table)).scalar()
        for table in schema.metadata.sorted_tables
        if table.name in there and table.name != schema.meta.name
    )


def restore(connection: Connection, file: Path) -> Counted:
    """Puts a backup in the place of all that is there, and brings it to today's schema.

    Within the caller's transaction; the file must have been looked at by `check_dump`.
    """
    found = MetaData()
    found.reflect(connection)
    found.drop_all(connection)
    first = next(_lines(file))
    upgrade(connection, str(first["revision"]))
    counted = _fill(connection, file)
    upgrade(connection)
    return counted


def _fill(connection: Connection, file: Path) -> Counted:
    """Fills the tables, which are of the file's revision; what the schema itself puts there goes."""
    tables = {one.name: one for one in _tables(connection)}
    revision, rows, name, columns = "", 0, "", list[str]()
    for one in reversed(tables.values()):
        connection.execute(one.delete())
    for value in _lines(file):
        if isinstance(value, list):
            table = tables[name]
            batch = [_row(table, columns, row) for row in cast("list[list[Any]]", value)]
            connection.execute(table.insert(), batch)
            rows += len(batch)
        elif "table" in value:
            name, columns = str(value["table"]), value["columns"]
        else:
            revision = str(value["revision"])
    if connection.dialect.name == "postgresql":
        for one in tables.values():
            _set_sequence(connection, one)
    return Counted(revision, len(tables), rows)


def _row(table: Table, columns: list[str], row: list[Any]) -> dict[str, Any]:
    return {name: _meant(table, name, value) for name, value in zip(columns, row, strict=True)}


def _meant(table: Table, name: str, value: Any) -> Any:
    kind = table.c[name].type
    if isinstance(kind, LargeBinary) and value is not None:
        return base64.b64decode(value["bytes"])
    if isinstance(kind, Boolean) and value is not None:
        return bool(value)
    return value


def _set_sequence(connection: Connection, table: Table) -> None:
    """Numbers that the database gives go on after the highest one."""
    keys = [column for column in table.primary_key if isinstance(column.type, Integer)]
    if len(keys) != 1 or len(table.primary_key) != 1:
        return
    key = keys[0]
    sequence = connection.execute(
        text("SELECT pg_get_serial_sequence(:table, :column)"),
        {"table": table.name, "column": key.name},
    ).scalar()
    highest = connection.execute(select(func.max(key))).scalar()
    if sequence is not None and highest is not None:
        connection.execute(
            text("SELECT setval(:name, :value)"), {"name": sequence, "value": highest}
        )
