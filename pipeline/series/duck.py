"""The embedded series store: one DuckDB file, one process.

Minute parts and masks are rewritten at each flush while their minute is
open, then hardly ever: they stand in small `…_open` tables, where an upsert
is cheap, and are moved in bulk to the tables that no index burdens.  Raw
samples are only ever appended; a repeated one is dropped when read.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np

from collectors.contract.catalogue import CATALOGUE, Kind, Metric
from pipeline.series import duck_columns as dc
from pipeline.series.columns import batched_raw, empty_masks, empty_parts, empty_raw, select_raw
from pipeline.series.duck_file import DuckFile, Upsert, sql
from pipeline.series.port import MinuteParts, NodeMasks, RawSamples, WriteBatch, WriteResult

T = TypeVar("T")
_GIB = 2**30
_ROWS_AN_INSERT = 40_000
"""An insert costs some 10 ms whatever it holds; more rows at once only cost memory."""
_CHECK_EVERY = 30
"""Writes between two looks at the disk budget: five minutes at a flush every ten seconds."""


def _listed(column: str, numbers: Iterable[int] | None) -> str:
    """A condition on a column of integers; None is no condition."""
    if numbers is None:
        return "TRUE"
    values = [str(int(number)) for number in numbers]
    return f"{column} IN ({', '.join(values)})" if values else "FALSE"


def _halves(table: str, columns: Iterable[str], where: Sequence[str]) -> str:
    """Selects from a table and its `…_open` sister."""
    listed, condition = ", ".join(f'"{column}"' for column in columns), " AND ".join(where)
    return " UNION ALL ".join(
        sql("SELECT", listed, "FROM", name, "WHERE", condition) for name in (table, f"{table}_open")
    )


class DuckStore:
    """`SeriesStore` in a DuckDB file.

    `budget_bytes` bounds the file: above it the oldest raw samples go first,
    then the oldest minutes; `dropped` counts the rows that went that way.
    DuckDB itself keeps within `memory_limit_mb`, which doubles, up to 16 times, when it fails for
    want of memory.
    """

    hours_a_read = 1
    """The minutes of an hour lie together."""

    def __init__(
        self,
        path: Path | str,
        *,
        memory_limit_mb: int = 128,
        budget_bytes: int = 20 * _GIB,
        threads: int = 1,
    ) -> None:
        self._file = DuckFile(Path(path), memory_limit_mb=memory_limit_mb, threads=threads)
        self._budget_bytes = budget_bytes
        self._writing = threading.Lock()
        self._writes = 0
        self._metrics: tuple[Metric, ...] = ()
        self.dropped = {"raw": 0, "minutes": 0, "masks": 0}

    async def start(self) -> None:
        """Opens or creates the file; raises StoreSetupError when another process has it."""
        self._metrics = CATALOGUE.metrics
        await asyncio.to_thread(self._file.open)

    async def _write(self, work: Callable[[Any], T]) -> T:
        """Runs work on a cursor in one transaction, alone among writers."""

        def locked() -> T:
            with self._writing, self._file.transaction() as cursor:
                return work(cursor)

        return await asyncio.to_thread(locked)

    async def _read(self, statement: str, parameters: Sequence[Any] = ()) -> dc.Columns:
        """The answer's columns as arrays, masked where NULL."""

        def ask() -> dc.Columns:
            with self._file.cursor() as cursor:
                answer: Any = cursor.execute(statement, list(parameters))
                return answer.fetchnumpy()

        return await asyncio.to_thread(ask)

    async def write(self, batch: WriteBatch) -> WriteResult:
        """Returns when all rows are in DuckDB's log on disk; refuses none."""
        stored = await self._write(lambda cursor: self._put(cursor, batch))
        self._writes += 1
        if self._writes % _CHECK_EVERY == 0:
            await self.keep_budget()
        return WriteResult(stored)

    def _put(self, cursor: Any, batch: WriteBatch) -> int:
        stored = 0
        for samples in batched_raw(batch.raw, _ROWS_AN_INSERT):
            # A GPU's samples side by side: reading one then touches a tenth of the blocks.
            ordered = select_raw(samples, np.lexsort((samples.time_us, samples.slot, samples.node)))
            node = self._file.node_ids(cursor, ordered.nodes, ordered.node)
            self._file.append(cursor, "raw", dc.raw_columns(ordered, node))
            stored += len(samples)
        if batch.minutes is not None and len(batch.minutes):
            node = self._file.node_ids(cursor, batch.minutes.nodes, batch.minutes.node)
            columns = dc.part_columns(batch.minutes, node)
            self._file.upsert(cursor, Upsert("minutes", tuple(dc.PART_KEY), columns))
            stored += len(batch.minutes)
        if batch.masks is not None and len(batch.masks):
            node = self._file.node_ids(cursor, batch.masks.nodes, batch.masks.node)
            columns = dc.mask_columns(batch.masks, node)
            self._file.upsert(cursor, Upsert("masks", tuple(dc.MASK_KEY), columns))
            stored += len(batch.masks)
        return stored

    def _chosen(self, names: Sequence[str] | None, kind: Kind | None = None) -> list[Metric]:
        return [
            metric
            for metric in self._metrics
            if (kind is None or metric.kind is kind) and (names is None or metric.name in names)
        ]

    async def minutes(
        self,
        from_minute: int,
        to_minute: int,
        *,
        nodes: Sequence[str] | None = None,
        slots: Sequence[int] | None = None,
        counters: Sequence[str] | None = None,
        gauges: Sequence[str] | None = None,
    ) -> MinuteParts:
        """All parts with from_minute ≤ minute < to_minute, unmerged, in no order."""
        metrics = self._chosen(counters, Kind.COUNTER) + self._chosen(gauges, Kind.GAUGE)
        spans = [name for metric in metrics for name in dc.span_columns(metric)]
        where = self._range(from_minute, to_minute, nodes)
        listed = [*dc.PART_KEY, *dc.PART_REST, *spans]
        columns = await self._read(_halves("minutes", listed, [*where, _listed("slot", slots)]))
        if not len(columns["node"]):
            names = [[m.name for m in metrics if m.kind is kind] for kind in Kind]
            return empty_parts(gauges=names[0], counters=names[1])
        return dc.minute_parts(columns, self._file.node_names(), metrics)

    def _range(
        self, from_minute: int, to_minute: int, nodes: Sequence[str] | None
    ) -> tuple[str, str, str]:
        ids = None if nodes is None else self._file.known_ids(nodes)
        return (
            f"minute >= {int(from_minute)}",
            f"minute < {int(to_minute)}",
            _listed("node", ids),
        )

    async def nearest(
        self, minute: int, *, nodes: Sequence[str], counter: str, before: bool, reach: int
    ) -> Sequence[tuple[str, int, int]]:
        """(node, slot, minute) of the nearest minute that has the counter, per slot."""
        if CATALOGUE.by_name[counter].kind is not Kind.COUNTER:
            raise ValueError(f"{counter} is not a counter")
        span = (minute - reach, minute) if before else (minute, minute + reach + 1)
        where = [*self._range(*span, nodes), f'"{counter}_v0" IS NOT NULL']
        halves = _halves("minutes", ("node", "slot", "minute"), where)
        nearest = "max(minute)" if before else "min(minute)"
        statement = sql("SELECT node, slot,", nearest, "FROM (", halves, ") GROUP BY node, slot")

        def ask() -> list[Any]:
            with self._file.cursor() as cursor:
                return cursor.execute(statement).fetchall()

        names = self._file.node_names()
        rows = await asyncio.to_thread(ask)
        return [(names[int(one)], int(slot), int(at)) for one, slot, at in rows]

    async def masks(
        self, from_minute: int, to_minute: int, *, nodes: Sequence[str] | None = None
    ) -> NodeMasks:
        """All masks of the minutes, unmerged."""
        where = self._range(from_minute, to_minute, nodes)
        columns = await self._read(_halves("masks", [*dc.MASK_KEY, *dc.MASK_REST], where))
        if not len(columns["node"]):
            return empty_masks()
        return dc.node_masks(columns, self._file.node_names())

    async def raw(
        self,
        from_us: int,
        to_us: int,
        *,
        node: str,
        slots: Sequence[int] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> RawSamples:
        """Samples with from_us ≤ time < to_us, in order of (slot, time)."""
        chosen = self._chosen(metrics)
        listed = ", ".join(f'"{name}"' for name in (*dc.RAW_KEY, *(m.name for m in chosen)))
        where = (_listed("node", self._file.known_ids([node])), _listed("slot", slots))
        statement = sql(
            "SELECT",
            listed,
            "FROM raw WHERE time_us >= ? AND time_us < ? AND",
            " AND ".join(where),
            "ORDER BY slot, time_us, origin, rowid",
        )
        columns = await self._read(statement, (from_us, to_us))
        if not len(columns["node"]):
            return empty_raw()
        return _newest(dc.raw_samples(columns, self._file.node_names(), chosen))

    async def latest_us(self, *, nodes: Sequence[str] | None = None) -> int | None:
        """Event time of the newest raw sample, None when there is none."""
        ids = None if nodes is None else self._file.known_ids(nodes)
        where = _listed("node", ids)
        statement = sql("SELECT coalesce(max(time_us), -1) AS newest FROM raw WHERE", where)
        newest = int((await self._read(statement))["newest"][0])
        return None if newest < 0 else newest

    async def delete_minutes(
        self, from_minute: int, to_minute: int, *, node: str, slot: int | None = None
    ) -> None:
        """Removes the parts of a node (or one slot of it) in a range of minutes."""
        slots = None if slot is None else [slot]
        where = (*self._range(from_minute, to_minute, [node]), _listed("slot", slots))
        condition = " AND ".join(where)

        def delete(cursor: Any) -> None:
            for table in ("minutes", "minutes_open"):
                cursor.execute(sql("DELETE FROM", table, "WHERE", condition))

        await self._write(delete)

    async def delete_before(self, raw_us: int, minutes_us: int) -> None:
        """Retention: rows older than this go, and are not counted as dropped."""
        await self._write(lambda cursor: self._file.delete_before(cursor, raw_us, minutes_us))

    async def keep_budget(self) -> None:
        """Drops the oldest rows until the file is within its budget."""

        def keep() -> None:
            with self._writing:
                for table, rows in self._file.shrink(self._budget_bytes).items():
                    self.dropped[table] += rows

        await asyncio.to_thread(keep)

    async def drop(self) -> None:
        """Closes and removes the file."""
        await asyncio.to_thread(self._file.remove)

    async def health(self) -> dict[str, str]:
        """Version, file, size, and what the budget cost."""
        size = await asyncio.to_thread(self._file.size_bytes)
        return {
            "store": "duckdb",
            "version": duckdb.__version__,
            "path": str(self._file.path),
            "size_bytes": str(size),
            **{f"dropped_{table}_rows": str(rows) for table, rows in self.dropped.items()},
        }

    async def close(self) -> None:
        """Closes the file; what was written stays."""
        await asyncio.to_thread(self._file.close)


def _newest(samples: RawSamples) -> RawSamples:
    """The last written of each key; rows come in order of key and of writing."""
    keys = (samples.slot, samples.time_us, samples.origin)
    changed = np.zeros(max(0, len(samples) - 1), np.bool_)
    for key in keys:
        changed |= key[1:] != key[:-1]
    return (
        samples if changed.all() else select_raw(samples, np.append(changed, True)[: len(samples)])
    )
