"""A CSV of dated intervals as allocations.  Knows no bus.

Columns, in any order, named in the first line: `tenant`, `node`, `from`; and if
there are such `project`, `job`, `slots`, `to`, `account`, `user`, `kind`, `id`.
Times are ISO 8601 with a zone, or seconds since 1970.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path

from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.topics import PRECEDENCE, Allocation, Subject

NEEDED = ("tenant", "node", "from")
KNOWN = (*NEEDED, "project", "job", "slots", "to", "account", "user", "kind", "id")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_S = 253_402_300_800
"""The year 10000."""
_KINDS = ("job", "reservation", "maintenance")


class TableError(ValueError):
    """A line that cannot be taken; the message has its place and what to write."""


def read_table(path: Path, source: str, known_us: int) -> Iterator[Allocation]:
    """The allocations of a file, in its order; `known_us` is when they became known.

    The same line gives the same (source, id) again, so that a corrected file
    replaces what an earlier one said: its id is the column `id`, else job,
    node, slots and beginning.  Raises TableError, OSError.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        _check_columns(path, reader.fieldnames or ())
        seen: set[str] = set()
        try:
            for row in reader:
                one = _allocation(row, source, known_us)
                if one.id in seen:
                    raise TableError(f"the id {one.id!r} is there twice")
                seen.add(one.id)
                yield one
        except (TableError, csv.Error, UnicodeDecodeError) as error:
            raise TableError(f"{path}:{reader.line_num}: {error}") from error


def _check_columns(path: Path, names: Sequence[str]) -> None:
    missing = [name for name in NEEDED if name not in names]
    strange = [name for name in names if name not in KNOWN]
    if missing or strange or len(set(names)) != len(names):
        wrong = f"no column {missing[0]!r}" if missing else f"not all are known: {', '.join(names)}"
        raise TableError(f"{path}:1: {wrong}; there may be {', '.join(KNOWN)}, each once")


def _allocation(row: Mapping[str | None, str | None], source: str, known_us: int) -> Allocation:
    if None in row or None in row.values():
        raise TableError("not as many cells as the first line has")
    cell = {str(name): str(value).strip() for name, value in row.items()}
    kind = cell.get("kind") or "job"
    if kind not in _KINDS:
        raise TableError(f"`kind` is one of {', '.join(_KINDS)}, not {kind!r}")
    if not cell["node"] or not (cell["tenant"] or kind == "maintenance"):
        raise TableError("`node` and `tenant` must say something")
    from_us, to_us = _time_us("from", cell["from"]), None
    if cell.get("to"):
        to_us = _time_us("to", cell["to"])
        if to_us < from_us:
            raise TableError("`to` is before `from`")
    slots = _slots(cell.get("slots", ""))
    job = cell.get("job", "")
    return Allocation(
        source,
        cell.get("id") or f"{job}/{cell['node']}/{'+'.join(slots)}@{from_us}",
        tenant=cell["tenant"],
        project=cell.get("project", ""),
        job=job,
        subjects=(Subject(cell["node"], slots),),
        from_us=from_us,
        to_us=to_us,
        kind=kind,
        known_us=known_us,
        precedence=PRECEDENCE["static"],
        account=cell.get("account", ""),
        user=cell.get("user", ""),
    )


def _slots(text: str) -> tuple[str, ...]:
    """PCI addresses with blanks or `;` between; none is all of the node's."""
    try:
        return tuple(slot_text(parse_slot(one)) for one in text.replace(";", " ").split())
    except ValueError as error:
        raise TableError(f"`slots`: {error}") from None


def _time_us(name: str, text: str) -> int:
    """µs since 1970, to the last one."""
    wrong = TableError(
        f"`{name}` is {text!r}; write 2026-01-31T12:00:00+08:00, or seconds since 1970"
    )
    try:
        seconds = Decimal(text)
    except InvalidOperation:
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            raise wrong from None
        if time.tzinfo is None:
            raise wrong from None
        return (time - _EPOCH) // timedelta(microseconds=1)
    if not seconds.is_finite() or abs(seconds) >= _LATEST_S:
        raise wrong
    return int(seconds * 1_000_000)
