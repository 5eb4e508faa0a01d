"""Hours of the ledger computed anew from the minutes, many at once.

What is to be done stands in the books as pending, so that a rebuild that was
interrupted is gone on with: by the next one, or by the `books` role.  Where
that role works, it is left to do it all.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import Connection, select

from collectors.contract.inventory import Inventory
from collectors.contract.tenants import Tenants
from collectors.kit.clock import Clock
from pipeline.books import journal, progress, schema, versions
from pipeline.books.agenda import roster
from pipeline.books.claims import Claim
from pipeline.books.database import Database
from pipeline.books.gather import Gathered, gather
from pipeline.books.journal import HourStamp, Models
from pipeline.books.leader import Leader
from pipeline.books.ledger import compute_hours
from pipeline.books.progress import Cause, NodeHour
from pipeline.books.remember import Memory, fresh
from pipeline.books.rows import HOUR_MINUTES, HOUR_US
from pipeline.books.spans import by_node, merge_spans, spans_of
from pipeline.series.port import SeriesStore

_META = "rebuild_hours"
_CHUNK_MINUTES = 50_000
"""GPU-minutes in memory at once: about 60 MB."""
_LOOK_S = 1.0
_ALL = 2**62

Say = Callable[[int, int], None]
"""Is told how many node-hours are done, of how many."""


@dataclass(frozen=True, slots=True)
class Site:
    """What hours are computed by."""

    inventory: Inventory
    tenants: Tenants


class HoursRebuild:
    """Rebuilds complete hours of a ledger that is there."""

    def __init__(self, series: SeriesStore, database: Database, site: Site, clock: Clock) -> None:
        self._series = series
        self._database = database
        self._leader = Leader(database)
        self._site = site
        self._clock = clock
        self._models = Models(site.inventory)
        self._zone = ZoneInfo(site.inventory.time_zone)
        self._memory = Memory()
        self._gone = 0

    @property
    def kept(self) -> int:
        """Node-hours that stay as they are, since their minutes are no longer there."""
        return self._gone

    async def run(self, hours: range, say: Say) -> int:
        """Computes the hours anew; returns how many node-hours.

        Raises BooksUnavailableError, StoreUnavailableError and, where another
        process took the books over, LeadershipLostError; what is not done by
        then is still pending.
        """
        todo = await self._database.write(lambda one: self._mark(one, hours))
        total = len(todo)
        while True:
            pending = await self._database.read(progress.read_pending)
            left = [one for one in pending if one in todo]
            say(total - len(left), total)
            if not left or await self._leader.take():
                break
            # The role works: it does what is pending at its next turn.
            await self._clock.sleep(_LOOK_S)
        try:
            if left:
                await self._compute(left, total, say)
        finally:
            await self._leader.leave()
        await self._database.write(lambda one: progress.write_meta(one, _META, ""))
        return total

    def _mark(self, connection: Connection, hours: range) -> set[NodeHour]:
        """Makes all pending, unless an interrupted rebuild of the same left something; returns
        what is to be done in all."""
        todo = _complete(connection, hours, self._site.inventory)
        goes_on = progress.read_meta(connection, _META) == f"{hours.start} {hours.stop}"
        if not (goes_on and todo.intersection(progress.read_pending(connection))):
            progress.add_pending(connection, sorted(todo), Cause.REBUILD)
            progress.write_meta(connection, _META, f"{hours.start} {hours.stop}")
        return todo

    async def _compute(self, left: Sequence[NodeHour], total: int, say: Say) -> None:
        todo: dict[int, set[str]] = defaultdict(set)
        for hour, node in left:
            todo[hour].add(node)
        self._memory = Memory(await self._leader.read(progress.read_spans))
        unknown = {node for _, node in left if not self._memory.known([node])}
        for hours, nodes in self._windows({hour: todo[hour] & unknown for hour in todo}):
            # Of what the books have never seen an hour must know what goes on in a later one.
            low, high = hours.start * HOUR_MINUTES, hours.stop * HOUR_MINUTES
            parts = await self._series.minutes(low, high, nodes=nodes, gauges=())
            spans = merge_spans([*self._memory.known(nodes), spans_of(parts)])
            self._memory.remember(by_node(spans), {})
        done = total - len(left)
        for hours, nodes in self._windows(todo):
            await self._window(hours, nodes)
            done += len(hours) * len(nodes)
            say(done, total)

    def _windows(self, todo: Mapping[int, set[str]]) -> Iterator[tuple[range, Sequence[str]]]:
        """Consecutive hours with the same nodes, as many of each as one read should bring."""
        slots = {node.name: len(node.slots) for node in self._site.inventory.nodes}
        for hours, nodes in _blocks(todo, self._series.hours_a_read):
            most = max((slots.get(node, 8) for node in nodes), default=1) or 1
            size = max(1, _CHUNK_MINUTES // (most * HOUR_MINUTES * len(hours)))
            for chunk in progress.in_batches(sorted(nodes), size):
                yield hours, chunk

    async def _window(self, hours: range, nodes: Sequence[str]) -> None:
        gathered = await gather(self._series, self._memory.known(nodes), hours, nodes)
        from_us, to_us = hours.start * HOUR_US, hours.stop * HOUR_US
        tenants = self._site.tenants
        claims = await self._leader.read(
            lambda one: versions.claims_between(one, from_us, to_us, tenants=tenants)
        )
        gone = await self._without_minutes(hours, nodes, gathered)
        for part, some in _kept_apart(hours, nodes, gone):
            await self._replace(part, some, gathered, claims)

    async def _without_minutes(
        self, hours: range, nodes: Sequence[str], gathered: Gathered
    ) -> set[NodeHour]:
        """Node-hours whose minutes are kept no more, though the ledger was made from them: they
        stay, since measurements must not give way to nothing."""
        parts = gathered.parts
        keys = np.unique(
            np.stack([parts.minute // HOUR_MINUTES, parts.node.astype(np.int64)]), axis=1
        )
        there = {(int(hour), str(parts.nodes[int(node)])) for hour, node in keys.T.tolist()}
        gone: set[NodeHour] = set()
        for hour in hours:
            silent = [node for node in nodes if (hour, node) not in there]
            if silent:
                seen = await self._leader.read(
                    lambda one, hour=hour, silent=silent: progress.seen_nodes(one, hour, silent)
                )
                gone.update((hour, node) for node in seen)
        if gone:
            self._gone += len(gone)
            await self._leader.write(lambda one: progress.drop_pending(one, sorted(gone)))
        return gone

    async def _replace(
        self,
        hours: range,
        nodes: Sequence[str],
        gathered: Gathered,
        claims: Mapping[str, Sequence[Claim]],
    ) -> None:
        rows = await asyncio.to_thread(
            compute_hours,
            gathered.parts,
            claims,
            self._site.inventory,
            hours,
            nodes,
            spans=gathered.spans,
        )
        until_us = hours.stop * HOUR_US
        spans = by_node(fresh(gathered.spans, until_us))
        kept = self._memory.to_keep(spans, complete=True)

        def write(connection: Connection) -> None:
            final_us = _final_before(connection, hours)
            stamp = HourStamp(until_us, final_us, self._clock.wall_us())
            journal.replace_hours(connection, rows, hours, stamp, self._models, self._zone)
            progress.save_spans(connection, kept)

        await self._leader.write(write)
        self._memory.remember(spans, kept)


def _complete(connection: Connection, hours: range, inventory: Inventory) -> set[NodeHour]:
    """The node-hours that the ledger has or should have to the end of their hour; on the others
    the role still works by itself."""
    ledger = progress.ledger_hours(connection)
    first, stop = max(hours.start, ledger.start), min(hours.stop, ledger.stop)
    until = progress.read_until(connection, first)
    reached_us = max(until.values(), default=0)
    todo: set[NodeHour] = set()
    for hour in range(first, stop):
        if (hour + 1) * HOUR_US <= reached_us:
            todo.update((hour, node) for node in roster(inventory, hour))
    todo.update(one for one in until if one[0] < stop)
    return {one for one in todo if until.get(one, _ALL) >= (one[0] + 1) * HOUR_US}


def _final_before(connection: Connection, hours: range) -> int:
    """The end of the last of the hours that is final: what is final stays so."""
    table = schema.node_hours.c
    query = select(table.hour).where(
        table.hour >= hours.start, table.hour < hours.stop, table.final.is_(True)
    )
    final = set(connection.execute(query.distinct()).scalars())
    return (max(final) + 1) * HOUR_US if final else 0


def _blocks(todo: Mapping[int, set[str]], most: int) -> Iterator[tuple[range, set[str]]]:
    """Consecutive hours with the same nodes, at most so many at once."""
    hours = sorted(todo)
    start = 0
    for at in range(1, len(hours) + 1):
        first = hours[start]
        whole = at == len(hours) or at - start == most
        if whole or hours[at] - first != at - start or todo[hours[at]] != todo[first]:
            yield range(first, first + at - start), todo[first]
            start = at


def _kept_apart(
    hours: range, nodes: Sequence[str], gone: set[NodeHour]
) -> Iterator[tuple[range, Sequence[str]]]:
    """The hours and nodes without those that are gone, in as few pieces as may be."""
    pieces: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for node in nodes:
        pieces[tuple(hour for hour in hours if (hour, node) not in gone)].append(node)
    for wanted, some in pieces.items():
        for _, run in itertools.groupby(enumerate(wanted), key=lambda one: one[1] - one[0]):
            whole = [hour for _, hour in run]
            yield range(whole[0], whole[-1] + 1), some
