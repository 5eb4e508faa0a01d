"""How far the books are: positions on the bus, clocks of partitions, what is to be computed again.

Each function works within the caller's transaction, so that a position moves
together with what it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntFlag
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, and_, delete, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.books import schema
from pipeline.books.rows import HOUR_US
from pipeline.books.schema_months import adjustments
from pipeline.books.spans import Spans, pack, unpack

T = TypeVar("T")
NodeHour = tuple[int, str]
"""(hour, node)."""


class Cause(IntFlag):
    """Why a node-hour is to be computed again; several may come together."""

    RECORDS = 1
    ALLOCATIONS = 2
    SITE_FILES = 4
    REBUILD = 8


_MANY = 400
"""Values per IN list, well below the number of parameters that a database takes."""


def in_batches(items: Iterable[T], size: int = _MANY) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can say what to do on conflict, in the dialect of the connection."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def upsert(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], update: Sequence[str]
) -> None:
    """Inserts rows by primary key; of those that are there the columns `update` are replaced."""
    if not rows:
        return
    statement = insert_into(connection, table)
    key = list(table.primary_key)
    if update:
        values = {name: statement.excluded[name] for name in update}
        statement = statement.on_conflict_do_update(index_elements=key, set_=values)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=key)
    connection.execute(statement, rows)


def read_meta(connection: Connection, key: str) -> str | None:
    """A value that holds for the books as a whole."""
    query = select(schema.meta.c.value).where(schema.meta.c.key == key)
    return connection.execute(query).scalar()


def write_meta(connection: Connection, key: str, value: str) -> None:
    """Sets such a value."""
    upsert(connection, schema.meta, [{"key": key, "value": value}], ["value"])


def add_pending(connection: Connection, node_hours: Iterable[NodeHour], cause: Cause) -> None:
    """Marks node-hours to be computed, beside what they are marked for already."""
    rows = [{"hour": hour, "node": node, "causes": int(cause)} for hour, node in node_hours]
    if not rows:
        return
    table = schema.pending
    statement = insert_into(connection, table)
    both = table.c.causes.op("|")(statement.excluded.causes)
    statement = statement.on_conflict_do_update(
        index_elements=list(table.primary_key), set_={"causes": both}
    )
    connection.execute(statement, rows)


def drop_pending(connection: Connection, node_hours: Iterable[NodeHour]) -> None:
    """Forgets marks on node-hours of which nothing can come."""
    table = schema.pending
    for batch in in_batches(node_hours):
        connection.execute(delete(table).where(tuple_(table.c.hour, table.c.node).in_(batch)))


def read_pending(connection: Connection) -> list[NodeHour]:
    """All marks, in order."""
    table = schema.pending.c
    query = select(table.hour, table.node).order_by(table.hour, table.node)
    return [(hour, node) for hour, node in connection.execute(query)]


def save_positions(connection: Connection, offsets: Mapping[tuple[str, int], int]) -> None:
    """How far (topic, partition) have been read."""
    rows = [
        {"topic": topic, "partition": number, "next_offset": offset}
        for (topic, number), offset in offsets.items()
    ]
    upsert(connection, schema.positions, rows, ["next_offset"])


def read_positions(connection: Connection) -> dict[tuple[str, int], int]:
    """What `save_positions` saved last."""
    table = schema.positions.c
    query = select(table.topic, table.partition, table.next_offset)
    return {(topic, number): offset for topic, number, offset in connection.execute(query)}


def save_clocks(connection: Connection, clocks: Mapping[int, tuple[int, int]]) -> None:
    """Per partition of the GPU records (offset, bus time) reached by the series store."""
    rows = [
        {"partition": number, "next_offset": offset, "bus_us": bus_us}
        for number, (offset, bus_us) in clocks.items()
    ]
    upsert(connection, schema.clocks, rows, ["next_offset", "bus_us"])


def read_clocks(connection: Connection) -> dict[int, tuple[int, int]]:
    """What `save_clocks` saved last."""
    table = schema.clocks.c
    query = select(table.partition, table.next_offset, table.bus_us)
    return {number: (offset, bus_us) for number, offset, bus_us in connection.execute(query)}


def save_spans(connection: Connection, spans: Mapping[str, Spans]) -> None:
    """The spans of whole nodes."""
    rows = [{"node": node, "data": pack(one)} for node, one in spans.items()]
    upsert(connection, schema.spans, rows, ["data"])


def read_spans(connection: Connection) -> dict[str, Spans]:
    """What `save_spans` saved last of each node."""
    table = schema.spans.c
    return {
        node: unpack(node, data)
        for node, data in connection.execute(select(table.node, table.data))
    }


def ledger_hours(connection: Connection) -> range:
    """From the first hour of the ledger to the one after its last."""
    first, last = connection.execute(
        select(
            select(func.min(schema.node_hours.c.hour)).scalar_subquery(),
            select(func.max(schema.node_hours.c.hour)).scalar_subquery(),
        )
    ).one()
    return range(0) if first is None else range(first, last + 1)


def last_hour(connection: Connection) -> int | None:
    """The last hour of the ledger, or that will be in it."""
    pending = [hour for hour, _ in read_pending(connection)[-1:]]
    return max([*pending, *ledger_hours(connection)[-1:]], default=None)


def first_open_hour(connection: Connection) -> int | None:
    """The first hour of the ledger that is not final."""
    table = schema.node_hours.c
    query = select(func.min(table.hour)).where(table.final.is_(False))
    return connection.execute(query).scalar()


def read_until(connection: Connection, from_hour: int) -> dict[NodeHour, int]:
    """Up to when the ledger has each node-hour from an hour on."""
    table = schema.node_hours.c
    query = select(table.hour, table.node, table.until_us).where(table.hour >= from_hour)
    return {(hour, node): until_us for hour, node, until_us in connection.execute(query)}


def seen_nodes(connection: Connection, hour: int, nodes: Iterable[str]) -> list[str]:
    """The nodes of which the ledger, with its adjustments, has anything but unobserved time in an
    hour."""
    seen: dict[str, int] = {}
    for batch in in_batches(nodes):
        for table in (schema.hours.c, adjustments.c):
            known = func.sum(table.active_us + table.idle_us + table.down_us)
            there = and_(table.hour == hour, table.node.in_(batch))
            for node, known_us in connection.execute(
                select(table.node, known).where(there).group_by(table.node)
            ):
                seen[node] = seen.get(node, 0) + int(known_us)
    return sorted(node for node, known_us in seen.items() if known_us > 0)


def make_final(connection: Connection, before_us: int) -> None:
    """Makes final the hours that are complete and end at or before a time."""
    table = schema.node_hours
    ended = (table.c.hour + 1) * HOUR_US
    complete = and_(ended <= before_us, table.c.until_us >= ended, table.c.final.is_(False))
    connection.execute(update(table).where(complete).values(final=True))
