"""Node-hours computed and replaced, in chunks of nodes so that little is in memory at once."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import Connection

from collectors.contract.inventory import Inventory
from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.kit.clock import Clock
from pipeline.books import journal, progress, versions
from pipeline.books.agenda import Agenda, plan, roster
from pipeline.books.claims import Claim
from pipeline.books.database import Database
from pipeline.books.gather import Gathered, gather
from pipeline.books.journal import HourStamp, Models
from pipeline.books.leader import Leader
from pipeline.books.ledger import compute_hours
from pipeline.books.progress import NodeHour
from pipeline.books.remember import Edges, Memory, edges_of, fresh
from pipeline.books.rows import HOUR_MINUTES, HOUR_US, LedgerRows
from pipeline.books.spans import Spans, by_node, merge_spans, spans_of
from pipeline.health import HealthBoard
from pipeline.series.port import SeriesStore, StoreTooSlowError

_log = logging.getLogger(__name__)
_USUAL_SLOTS = 8
"""Of a node that the inventory does not have."""
Follow = dict[int, set[str]]
"""Nodes by hour whose neighbouring hour's edge moved, so that a segment into theirs did."""


@dataclass(frozen=True, slots=True)
class _Job:
    """What all chunks of one hour share."""

    hour: int
    inventory: Inventory
    models: Models
    zone: ZoneInfo
    claims: Mapping[str, Sequence[Claim]]
    stamp: HourStamp

    @property
    def hours(self) -> range:
        return range(self.hour, self.hour + 1)

    @property
    def complete(self) -> bool:
        return self.stamp.until_us >= (self.hour + 1) * HOUR_US


class Computer:
    """Computes what is pending or behind; see `compute`."""

    def __init__(
        self,
        series: SeriesStore,
        database: Database | Leader,
        memory: Memory,
        clock: Clock,
        board: HealthBoard,
        *,
        chunk_minutes: int,
    ) -> None:
        self._series = series
        self._database = database
        self._memory = memory
        self._clock = clock
        self._board = board
        self._chunk_minutes = self._most_minutes = chunk_minutes
        self._gone = 0
        """Node-hours of this computation that stay as they are, for want of minutes."""

    async def compute(
        self,
        inventory: Inventory,
        until_us: int,
        final_before_us: int,
        *,
        tenants: Tenants = NO_TENANTS,
        again: bool = False,
    ) -> None:
        """Brings the ledger up to `until_us`, and anew what changed before it; `again` all of it.

        `tenants` may say whose claims are.  Hours that end at or before
        `final_before_us` are final.  Raises StoreUnavailableError and
        BooksUnavailableError; what was replaced by then stays, the rest is
        still pending.
        """
        first, pending = await self._database.read(lambda one: _first_hour(one, again=again))
        if first is None:
            return
        hours = range(first, (until_us - 1) // HOUR_US + 1)
        stored: dict[NodeHour, int] = {}
        if not again:
            stored = await self._database.read(lambda one: progress.read_until(one, first))
        agenda = plan(inventory, pending, stored, hours, until_us)
        stamp = HourStamp(until_us, final_before_us, self._clock.wall_us())
        zone = ZoneInfo(inventory.time_zone)
        frame = _Job(first, inventory, Models(inventory), zone, {}, stamp)
        self._gone = 0
        try:
            await self._all(agenda, frame, tenants)
        except StoreTooSlowError:
            # What is asked again is asked for in smaller parts, or it would be for ever.
            self._chunk_minutes = max(HOUR_MINUTES, self._chunk_minutes // 2)
            self._board.add("books_reads_too_slow")
            raise
        self._chunk_minutes = min(self._most_minutes, 2 * self._chunk_minutes)
        if self._gone:
            _log.warning("minutes_gone node_hours=%d the ledger stays as it was", self._gone)
        await self._database.write(lambda one: progress.make_final(one, final_before_us))

    async def _all(self, agenda: Agenda, frame: _Job, tenants: Tenants) -> None:
        """All hours of an agenda, then those beside them whose segments changed with theirs."""
        if len(agenda.hours()) > 1:
            await self._look_ahead(agenda, frame.inventory)
        follow: Follow = defaultdict(set)
        for hour in agenda.hours():
            changed = agenda.changed.get(hour, set())
            nodes = changed | agenda.extended.get(hour, set())
            await self._hour(await self._job(frame, hour, tenants), nodes, changed, follow)
        ledger = await self._database.read(progress.ledger_hours)
        for hour in sorted(hour for hour in follow if hour in ledger):
            done = agenda.changed.get(hour, set()) | agenda.extended.get(hour, set())
            nodes = (follow[hour] - done) & roster(frame.inventory, hour)
            await self._hour(await self._job(frame, hour, tenants), nodes, set(), follow={})

    async def _job(self, frame: _Job, hour: int, tenants: Tenants) -> _Job:
        low, high = hour * HOUR_US, (hour + 1) * HOUR_US
        claims = await self._database.read(
            lambda one: versions.claims_between(one, low, high, tenants=tenants)
        )
        return replace(frame, hour=hour, claims=claims)

    async def _look_ahead(self, agenda: Agenda, inventory: Inventory) -> None:
        """Learns the spans of all that changed before any of it is computed: an hour must know
        that a series goes on in a later one."""
        for hour, nodes in agenda.changed.items():
            for chunk in self._chunks(nodes, inventory):
                low = hour * HOUR_MINUTES
                parts = await self._series.minutes(low, low + HOUR_MINUTES, nodes=chunk, gauges=())
                spans = merge_spans([*self._memory.known(chunk), spans_of(parts)])
                self._memory.remember(by_node(spans), {})

    def _chunks(self, nodes: Iterable[str], inventory: Inventory) -> Iterable[list[str]]:
        names = sorted(nodes)
        wanted = set(names)
        slots = {one.name: len(one.slots) for one in inventory.nodes if one.name in wanted}
        most = max((slots.get(name, _USUAL_SLOTS) for name in names), default=1)
        size = self._chunk_minutes // (max(1, most) * HOUR_MINUTES)
        return progress.in_batches(names, max(1, size))

    async def _hour(
        self, job: _Job, nodes: Iterable[str], changed: set[str], follow: Follow
    ) -> None:
        for chunk in self._chunks(nodes, job.inventory):
            known = self._memory.known(chunk)
            gathered = await gather(self._series, known, job.hours, chunk)
            gone = await self._without_minutes(job.hour, changed.intersection(chunk), gathered)
            await self._replace(job, [node for node in chunk if node not in gone], gathered)
            self._follow(job, gathered, changed, follow)

    async def _without_minutes(
        self, hour: int, nodes: set[str], gathered: Gathered
    ) -> Sequence[str]:
        """The nodes of whose minutes the store keeps nothing more, though the ledger was made from
        them: such an hour stays as it is, since measurements must not give way to nothing."""
        parts = gathered.parts
        silent = nodes.difference(parts.nodes[code] for code in np.unique(parts.node).tolist())
        if not silent:
            return []
        gone = await self._database.read(lambda one: progress.seen_nodes(one, hour, silent))
        if gone:
            self._board.add("books_minutes_gone", len(gone))
            self._gone += len(gone)
            done = [(hour, node) for node in gone]
            await self._database.write(lambda one: progress.drop_pending(one, done))
        return gone

    async def _replace(self, job: _Job, nodes: Sequence[str], gathered: Gathered) -> None:
        rows = await asyncio.to_thread(
            compute_hours,
            gathered.parts,
            job.claims,
            job.inventory,
            job.hours,
            nodes,
            until_us=job.stamp.until_us,
            spans=gathered.spans,
        )
        spans = by_node(fresh(gathered.spans, job.stamp.until_us))
        kept = self._memory.to_keep(spans, complete=job.complete)
        await self._database.write(lambda one: _write(one, job, rows, kept))
        self._memory.remember(spans, kept)
        self._board.add("books_node_hours", len(nodes))

    def _follow(self, job: _Job, gathered: Gathered, changed: set[str], follow: Follow) -> None:
        neighbours = gathered.neighbours(job.hours)
        edges: dict[NodeHour, Edges] = {}
        for node, inside in by_node(gathered.inside).items():
            edges[job.hour, node] = edges_of(inside)
            if node not in changed:
                continue
            moved = self._memory.moved(job.hour, node, edges[job.hour, node])
            for side, hours in zip(moved, neighbours[node], strict=True):
                for hour in hours if side else ():
                    follow[hour].add(node)
        self._memory.remember_edges(edges)


def _first_hour(connection: Connection, *, again: bool) -> tuple[int | None, list[NodeHour]]:
    """The first hour that is not complete (`again`: of all), and what is pending."""
    pending = progress.read_pending(connection)
    hours = progress.ledger_hours(connection)
    if pending and (not hours or pending[0][0] < hours.start):
        return pending[0][0], pending
    if not hours or again:
        return (hours.start if hours else None), pending
    first = progress.first_open_hour(connection)
    return (hours.stop if first is None else first), pending


def _write(connection: Connection, job: _Job, rows: LedgerRows, kept: Mapping[str, Spans]) -> None:
    journal.replace_hours(connection, rows, job.hours, job.stamp, job.models, job.zone)
    progress.save_spans(connection, kept)
