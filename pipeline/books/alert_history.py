"""The history of alerts: taken from the bus, asked by people.

`AlertKeeper` copies `petawatch.alerts` and `petawatch.control` into the books;
positions move in the transaction that writes, and every write is an upsert, so
that nothing is lost or doubled after kill -9.  It decides nothing: alerts go
on when the books are away, and the copy catches up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, desc, or_, select

from collectors.contract.alerts import Alert, Control, Delivery, Incident, parse_alert_record
from collectors.contract.bus import Bus, BusUnavailableError, Chunk, Consumer
from collectors.contract.topics import ALERTS, CONTROL
from collectors.kit.clock import Clock
from pipeline.books import progress, schema_alerts
from pipeline.books.database import BooksUnavailableError, Database
from pipeline.health import HealthBoard

_log = logging.getLogger(__name__)
_AT_ONCE = 5_000
_AGAIN_S = 1.0
Record = Alert | Incident | Delivery | Control


class AlertKeeper:
    """Copies until it is stopped; a bus or database that is away is tried again."""

    def __init__(
        self, bus: Bus, database: Database, prefix: str, clock: Clock, board: HealthBoard
    ) -> None:
        """`prefix` stands before the topics' names."""
        self._bus, self._database = bus, database
        self._clock, self._board = clock, board
        database.report_to(board)
        self._topics = [prefix + ALERTS, prefix + CONTROL]
        self._prefix = prefix

    async def run(self, stop: Any) -> None:
        """Works until `stop` (an asyncio.Event) is set."""
        while not stop.is_set():
            consumer = self._bus.consumer(self._topics, None)
            try:
                await self._follow(consumer, stop)
            except (BusUnavailableError, BooksUnavailableError) as error:
                self._board.add("alert_history_waits")
                _log.warning("alert_history_waits error=%s", type(error).__name__)
                await self._clock.sleep(_AGAIN_S)
            finally:
                with suppress(BusUnavailableError):
                    await consumer.stop()

    async def _follow(self, consumer: Consumer, stop: Any) -> None:
        await consumer.start()
        ends = await consumer.end_offsets()
        saved = await self._database.read(progress.read_positions)
        for partition in consumer.assigned:
            offset = saved.get((partition.topic, partition.number), 0)
            # A topic that was made anew begins again.
            await consumer.seek(partition, 0 if offset > ends.get(partition, 0) else offset)
        while not stop.is_set():
            chunks = await consumer.fetch(1.0, _AT_ONCE)
            if chunks:
                records = list(self._read(chunks))
                offsets = {
                    (one.partition.topic, one.partition.number): one.next_offset for one in chunks
                }
                await self._database.write(lambda one, r=records, o=offsets: _keep(one, r, o))
                self._board.add("alert_history_records", len(records))

    def _read(self, chunks: Sequence[Chunk]) -> Iterable[Record]:
        for chunk in chunks:
            control = chunk.partition.topic == self._prefix + CONTROL
            for key, value in zip(chunk.keys, chunk.values, strict=True):
                try:
                    if control:
                        yield msgspec.json.decode(value, type=Control)
                    else:
                        yield parse_alert_record(bytes(key), bytes(value))
                except ValueError as error:
                    self._board.add("alert_history_refused")
                    _log.warning("record_refused topic=%s %s", chunk.partition.topic, error)


def _keep(
    connection: Connection, records: Sequence[Record], offsets: dict[tuple[str, int], int]
) -> None:
    tables = {kind: (table, row) for kind, table, row in _KINDS}
    by_kind: dict[type[Any], dict[tuple[Any, ...], dict[str, Any]]] = {}
    for record in records:
        if isinstance(record, Alert) and record.state == "pending":
            continue  # most come to nothing
        table, row_of = tables[type(record)]
        row = row_of(record)
        key = tuple(row[column.name] for column in table.primary_key)
        by_kind.setdefault(type(record), {})[key] = row
    for kind, rows in by_kind.items():
        table, _ = tables[kind]
        names = [column.name for column in table.columns if not column.primary_key]
        progress.upsert(connection, table, list(rows.values()), names)
    progress.save_positions(connection, offsets)


def _json(record: msgspec.Struct) -> str:
    return msgspec.json.encode(record).decode()


def _alert(one: Alert) -> dict[str, Any]:
    return {
        "fingerprint": one.fingerprint, "at_us": one.at_us, "state": one.state,
        "severity": one.severity, "rule": one.rule, "scope": one.subject.scope,
        "place": one.subject.name, "incident": one.incident, "record": _json(one),
    }  # fmt: skip


def _incident(one: Incident) -> dict[str, Any]:
    places = [member.subject.name for member in one.members]
    rules = {member.rule for member in one.members}
    parts = [one.id, one.title, one.cause, one.family, one.subject.name, one.text]
    words = " ".join([*parts, *one.tenants, *one.jobs, *rules, *places]).lower()
    return {
        "id": one.id, "state": one.state, "severity": one.severity, "concerns": one.concerns,
        "opened_us": one.opened_us, "revision": one.revision, "words": words,
        "record": _json(one),
    }  # fmt: skip


def _control(one: Control) -> dict[str, Any]:
    return {
        "kind": one.kind, "id": one.id, "incident": one.incident, "at_us": one.at_us,
        "record": _json(one),
    }  # fmt: skip


def _delivery(one: Delivery) -> dict[str, Any]:
    return {
        "target": one.target, "incident": one.incident, "notice": one.notice,
        "at_us": one.at_us, "outcome": one.outcome, "record": _json(one),
    }  # fmt: skip


_KINDS: tuple[tuple[type[Any], Any, Any], ...] = (
    (Alert, schema_alerts.alert_history, _alert),
    (Incident, schema_alerts.incidents, _incident),
    (Control, schema_alerts.controls, _control),
    (Delivery, schema_alerts.deliveries, _delivery),
)


def find_incidents(
    connection: Connection,
    *,
    states: Sequence[str] = ("open", "resolved"),
    severities: Sequence[str] = (),
    concerns: str | None = None,
    from_us: int | None = None,
    to_us: int | None = None,
    search: str = "",
    limit: int = 100,
    before: tuple[int, str] | None = None,
) -> list[Incident]:
    """Incidents, the newest first; each word of `search` must be in it.

    `before` is (opened_us, id) of the last one of the page before.
    """
    table = schema_alerts.incidents.c
    where: list[Any] = [table.state.in_(states)]
    if severities:
        where.append(table.severity.in_(severities))
    if concerns is not None:
        where.append(table.concerns == concerns)
    if from_us is not None:
        where.append(table.opened_us >= from_us)
    if to_us is not None:
        where.append(table.opened_us < to_us)
    where += [table.words.contains(word, autoescape=True) for word in search.lower().split()]
    if before is not None:
        same = and_(table.opened_us == before[0], table.id > before[1])
        where.append(or_(table.opened_us < before[0], same))
    query = select(table.record).where(*where).order_by(desc(table.opened_us), table.id)
    rows = connection.execute(query.limit(limit)).scalars()
    return [msgspec.json.decode(row, type=Incident) for row in rows]


def read_incident(connection: Connection, name: str) -> Incident | None:
    """An incident by id."""
    table = schema_alerts.incidents.c
    row = connection.execute(select(table.record).where(table.id == name)).scalar()
    return None if row is None else msgspec.json.decode(row, type=Incident)


def alerts_of(connection: Connection, incident: str, *, limit: int = 1_000) -> list[Alert]:
    """Transitions of an incident's alerts, in order of time."""
    table = schema_alerts.alert_history.c
    query = (
        select(table.record)
        .where(table.incident == incident)
        .order_by(table.at_us, table.fingerprint)
        .limit(limit)
    )
    return [msgspec.json.decode(row, type=Alert) for row in connection.execute(query).scalars()]


def read_controls(
    connection: Connection, *, kind: str | None = None, incident: str | None = None
) -> list[Control]:
    """Silences, acknowledgements and comments that are not deleted, the newest first."""
    table = schema_alerts.controls.c
    where: list[Any] = []
    if kind is not None:
        where.append(table.kind == kind)
    if incident is not None:
        where.append(table.incident == incident)
    query = select(table.record).where(*where).order_by(desc(table.at_us), table.id)
    rows = connection.execute(query).scalars()
    found = [msgspec.json.decode(row, type=Control) for row in rows]
    return [one for one in found if not one.deleted]


def deliveries_of(connection: Connection, incident: str) -> list[Delivery]:
    """What became of an incident's notices, in order of time."""
    table = schema_alerts.deliveries.c
    query = select(table.record).where(table.incident == incident)
    rows = connection.execute(query.order_by(table.at_us, table.target)).scalars()
    return [msgspec.json.decode(row, type=Delivery) for row in rows]
