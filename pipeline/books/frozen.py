"""Hours of frozen months: what would change them is kept beside them, as adjustments.

A month that somebody has signed stays as it was, to the byte, whatever is learnt later: late
records, corrections and rebuilds are computed as ever, and the difference between that and what
the books have of a node-hour (the ledger's rows and all adjustments before) is added as rows of
`adjustments`, in the transaction that would have replaced the hour.  The same computation again
differs by nothing and adds nothing.  Knows tables and rows; when a month may be frozen is
`pipeline.books.months`' to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, select

from pipeline.books import schema
from pipeline.books.progress import Cause, NodeHour, in_batches
from pipeline.books.rows import FIGURES, I64, STATES, LedgerRows
from pipeline.books.schema_months import adjustments, frozen_months

OWNER = ("owner_kind", "tenant", "project", "job", "model", "origin")
_KEY = ("hour", "node", *OWNER)
Key = tuple[Any, ...]
"""Values of hour, node and OWNER."""
_WORDS = {
    Cause.RECORDS: "late records",
    Cause.ALLOCATIONS: "allocations",
    Cause.SITE_FILES: "site files",
    Cause.REBUILD: "rebuild",
}
_BESIDE = "hours beside it"


@dataclass(frozen=True, slots=True)
class Frozen:
    """A frozen month: its hours by the time zone of then, and who froze it when."""

    month: str
    hours: range
    time_zone: str
    frozen_us: int
    actor: str
    note: str
    sha256: str
    """Over the month's day totals (`pipeline.books.months.digest`)."""


def frozen_within(connection: Connection, hours: range) -> list[Frozen]:
    """The frozen months of which some of these hours are, in order."""
    table = frozen_months.c
    meets = and_(table.first_hour < hours.stop, table.stop_hour > hours.start)
    return _read(connection, meets)


def frozen_month(connection: Connection, month: str) -> Frozen | None:
    """A month as it was frozen; None where it is not."""
    return next(iter(_read(connection, frozen_months.c.month == month)), None)


def _read(connection: Connection, where: ColumnElement[bool]) -> list[Frozen]:
    query = select(frozen_months).where(where).order_by(frozen_months.c.first_hour)
    return [
        Frozen(
            row.month, range(row.first_hour, row.stop_hour), row.time_zone, row.frozen_us,
            row.actor, row.note, row.sha256,
        )
        for row in connection.execute(query)
    ]  # fmt: skip


def stretches(connection: Connection, hours: range) -> Iterator[tuple[range, Frozen | None]]:
    """The hours in pieces: each of one frozen month, or of none."""
    at = hours.start
    for frozen in frozen_within(connection, hours):
        start, stop = max(at, frozen.hours.start), min(hours.stop, frozen.hours.stop)
        if at < start:
            yield range(at, start), None
        yield range(start, stop), frozen
        at = stop
    if at < hours.stop:
        yield range(at, hours.stop), None


def keep_out(
    connection: Connection,
    frozen: Frozen,
    rows: LedgerRows,
    models: Sequence[str],
    hours: range,
    known_us: int,
) -> None:
    """Leaves hours of a frozen month as they are, and notes by what `rows`, which are all there
    is of these hours of `rows.nodes`, differ from what the books have; `models` are by row.

    What was pending of these node-hours is done.
    """
    change: defaultdict[Key, I64] = defaultdict(lambda: np.zeros(len(FIGURES), np.int64))
    causes: dict[NodeHour, int] = {}
    for key, figures in _summed(rows, models):
        change[key] += figures
    for nodes in in_batches(rows.nodes):
        for table in (schema.hours, adjustments):
            for key, figures in _sums(connection, table, _of(table, hours, nodes)):
                change[key] -= figures
        pending = schema.pending
        query = select(pending).where(_of(pending, hours, nodes))
        causes |= {(row.hour, row.node): row.causes for row in connection.execute(query)}
        connection.execute(delete(pending).where(_of(pending, hours, nodes)))
    added = [
        {
            "month": frozen.month,
            **dict(zip(_KEY, key, strict=True)),
            "cause": _words(causes.get((key[0], key[1]), 0)),
            "known_us": known_us,
            **dict(zip(FIGURES, figures.tolist(), strict=True)),
        }
        for key, figures in sorted(change.items())
        if figures.any()
    ]
    if added:
        connection.execute(adjustments.insert(), added)


def _of(table: Table, hours: range, nodes: Sequence[str]) -> ColumnElement[bool]:
    hour = table.c.hour
    return and_(hour >= hours.start, hour < hours.stop, table.c.node.in_(nodes))


def _words(causes: int) -> str:
    named = [words for cause, words in _WORDS.items() if causes & cause]
    return ", ".join(named) or _BESIDE


def _sums(
    connection: Connection, table: Table, where: ColumnElement[bool]
) -> Iterator[tuple[Key, I64]]:
    key = [table.c[name] for name in _KEY]
    sums = [func.sum(table.c[name]) for name in FIGURES]
    for row in connection.execute(select(*key, *sums).where(where).group_by(*key)):
        values = tuple(row)
        figures = np.array([int(value) for value in values[len(key) :]], np.int64)
        yield values[: len(key)], figures


def _summed(rows: LedgerRows, models: Sequence[str]) -> Iterator[tuple[Key, I64]]:
    keys: dict[Key, int] = {}
    group: NDArray[np.intp] = np.zeros(len(rows), np.intp)
    columns = zip(
        rows.hour.tolist(), rows.node.tolist(), rows.owner.tolist(), models,
        rows.origin.tolist(), strict=True,
    )  # fmt: skip
    for index, (hour, node, owner, model, origin) in enumerate(columns):
        key: Key = (hour, rows.nodes[int(node)], *rows.owners[int(owner)], model, origin)
        group[index] = keys.setdefault(key, len(keys))
    sums = np.zeros((len(keys), len(FIGURES)), np.int64)
    for place, name in enumerate(FIGURES):
        np.add.at(sums[:, place], group, rows.figures[name])
    for key, index in keys.items():
        yield key, sums[index]


def adjusted(connection: Connection, month: str) -> int:
    """How many rows of adjustments a month has."""
    return connection.execute(select(func.count()).where(adjustments.c.month == month)).scalar_one()


def read_adjustments(
    connection: Connection,
    where: ColumnElement[bool],
    *,
    by: Sequence[str] = ("month", "owner_kind", "tenant", "project", "model", "origin", "cause"),
) -> list[dict[str, Any]]:
    """Sums of adjustments by some of their columns, in that order, with `gpu_us`; those that
    come to nothing are left out."""
    table = adjustments.c
    key = [table[name] for name in by]
    sums = [func.sum(table[name]) for name in FIGURES]
    query = select(*key, *sums).where(where).group_by(*key).order_by(*key)
    found: list[dict[str, Any]] = []
    for row in connection.execute(query):
        values = tuple(row)
        figures = {name: int(value) for name, value in zip(FIGURES, values[len(by) :], strict=True)}
        if any(figures.values()):
            held = sum(figures[state] for state in STATES)
            found.append(
                {**dict(zip(by, values[: len(by)], strict=True)), "gpu_us": held, **figures}
            )
    return found
