"""What people decide: written with who did it, then sent.

An act is one transaction of the books: a row of `audit`, and the records that
it puts on the bus in `outbox`.  `Outbox` sends these in order and removes them
once the bus has them; a crash between the two sends one again, which says the
same again.  Knows the database and the bus; no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, desc, insert, select

from collectors.contract.bus import Bus, BusUnavailableError, Message, Producer, RefusedError
from collectors.kit.clock import Clock
from pipeline.books import schema
from pipeline.books.database import BooksUnavailableError, Database
from pipeline.health import HealthBoard

_log = logging.getLogger(__name__)
_BATCH = 500
_LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class Act:
    """Who did what to what; `messages` go to the bus."""

    actor: str
    action: str
    """`reservation.add`, `silence.add`, `incident.acknowledge`, …"""
    subject: str
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])
    messages: Sequence[Message] = ()


@dataclass(frozen=True, slots=True)
class Audited:
    """A row of the audit."""

    number: int
    at_us: int
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]


def write_act(connection: Connection, act: Act, at_us: int) -> None:
    """Writes an act in the caller's transaction."""
    row = {
        "at_us": at_us,
        "actor": act.actor,
        "action": act.action,
        "subject": act.subject,
        "detail": msgspec.json.encode(act.detail).decode(),
    }
    connection.execute(insert(schema.audit).values(row))
    rows = [{"topic": one.topic, "key": one.key, "value": one.value} for one in act.messages]
    if rows:
        connection.execute(insert(schema.outbox), rows)


def read_audit(
    connection: Connection, *, subject: str | None = None, limit: int = 200
) -> list[Audited]:
    """The last acts, the newest first; `subject` narrows them to one."""
    table = schema.audit
    query = select(table).order_by(desc(table.c.number)).limit(limit)
    if subject is not None:
        query = query.where(table.c.subject == subject)
    return [
        Audited(
            row.number, row.at_us, row.actor, row.action, row.subject,
            msgspec.json.decode(row.detail),
        )
        for row in connection.execute(query)
    ]  # fmt: skip


class Outbox:
    """Sends what acts left, in order; one process has it, `serve`."""

    def __init__(self, database: Database, bus: Bus, clock: Clock, board: HealthBoard) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._board = board
        database.report_to(board)
        self._poked = asyncio.Event()
        self._stopping = False

    async def act(self, act: Act) -> None:
        """Writes an act; its records follow at once where the bus is there.

        Raises BooksUnavailableError: then nothing was done.
        """
        await self.decide(lambda _connection, _at_us: act)

    async def decide(self, work: Callable[[Connection, int], Act]) -> None:
        """Writes the act that `work` does now, in the same transaction.

        Raises what the work does, and BooksUnavailableError: then nothing was done.
        """
        at_us = self._clock.wall_us()
        await self._database.write(lambda one: write_act(one, work(one, at_us), at_us))
        self._poked.set()

    def stop(self) -> None:
        """Ends `run` after what it is at."""
        self._stopping = True
        self._poked.set()

    async def run(self) -> None:
        """Sends until `stop`; a bus or database that is away is tried again."""
        producer: Producer | None = None
        try:
            while not self._stopping:
                try:
                    if producer is None:
                        producer = await self._producer()
                    more = await self._send(producer)
                except (BusUnavailableError, BooksUnavailableError) as error:
                    self._board.add("outbox_waits")
                    _log.warning("outbox_waits error=%s", type(error).__name__)
                    more = False
                if not more:
                    await self._wait()
        finally:
            if producer is not None:
                await producer.stop()

    async def _producer(self) -> Producer:
        producer = self._bus.producer()
        await producer.start()
        return producer

    async def _send(self, producer: Producer) -> bool:
        """Sends the next records; whether there may be more."""
        table = schema.outbox
        query = select(table).order_by(table.c.number).limit(_BATCH)
        rows = await self._database.read(lambda one: list(one.execute(query)))
        if not rows:
            return False
        messages = [Message(row.topic, bytes(row.key), bytes(row.value)) for row in rows]
        try:
            await producer.send(messages)
        except RefusedError as error:
            # The bus will never take it; the audit has what was meant.
            self._board.add("outbox_refused", len(error.refused))
            _log.error("outbox_refused reason=%s", error)
        # By name: one with a lower number may have been committed meanwhile.
        sent = delete(table).where(table.c.number.in_([row.number for row in rows]))
        await self._database.write(lambda one: one.execute(sent))
        return len(rows) == _BATCH

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await self._poked.wait()
        self._poked.clear()
