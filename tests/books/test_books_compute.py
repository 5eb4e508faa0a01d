"""Computation bit by bit, in any order and with restarts, against the whole at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from books_reference import HOUR, Sample, parts_of, rows
from books_strategies import BASE, TEXT, H, held, sample_lists, sharing, sites
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.topics import Allocation
from collectors.kit.clock import SystemClock
from pipeline.books import agenda, progress, schema, versions
from pipeline.books.compute import Computer
from pipeline.books.database import Database
from pipeline.books.queries import read_rows
from pipeline.books.remember import Memory
from pipeline.health import HealthBoard
from pipeline.series.columns import concat_parts, select_parts
from pipeline.series.port import MinuteParts


class Store:
    """The part of a series store that books read, in memory: hypothesis asks for very many."""

    def __init__(self) -> None:
        self.parts: list[MinuteParts] = []

    async def minutes(
        self, from_minute: int, to_minute: int, *, nodes: Sequence[str], gauges: Sequence[str]
    ) -> MinuteParts:
        assert not gauges, "no gauge is in the ledger"
        parts = concat_parts(self.parts)
        named = np.isin(np.array(parts.nodes or [""]), list(nodes))[parts.node]
        return select_parts(
            parts, named & (parts.minute >= from_minute) & (parts.minute < to_minute)
        )

    async def nearest(
        self, minute: int, *, nodes: Sequence[str], counter: str, before: bool, reach: int
    ) -> Sequence[tuple[str, int, int]]:
        low, high = (minute - reach, minute) if before else (minute, minute + reach + 1)
        parts = await self.minutes(low, high, nodes=nodes, gauges=())
        found: dict[tuple[str, int], int] = {}
        for row in np.flatnonzero(parts.counters[counter].first != COUNTER_ABSENT).tolist():
            place = (parts.nodes[int(parts.node[row])], int(parts.slot[row]))
            at, best = int(parts.minute[row]), found.get(place)
            if best is None or (at > best) == before:
                found[place] = at
        return [(node, slot, at) for (node, slot), at in found.items()]


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compute") / "books.db"


def _empty(connection: Connection) -> None:
    for table in reversed(schema.metadata.sorted_tables):
        connection.execute(delete(table))


async def _bit_by_bit(
    path: Path,
    deliveries: Sequence[tuple[Sequence[Sample], Allocation | None, bool]],
    site: Inventory,
    hours: range,
) -> dict[Any, dict[str, int]]:
    database, store, memory = Database(f"sqlite:///{path}"), Store(), Memory()
    await database.start()
    await database.write(_empty)
    clock = SystemClock()
    board = HealthBoard("books", "t", clock)
    for samples, allocation, restart in deliveries:
        if restart:
            memory = Memory(await database.read(progress.read_spans))
        if samples:
            store.parts.append(parts_of(samples))

        def told(
            connection: Connection,
            samples: Sequence[Sample] = samples,
            allocation: Allocation | None = allocation,
        ) -> None:
            progress.add_pending(
                connection,
                sorted({(one.time_us // HOUR, one.node) for one in samples}),
                progress.Cause.RECORDS,
            )
            if allocation is not None:
                changes = versions.record(connection, [(allocation, 0)])
                versions.mark_changes(connection, changes, progress.Cause.ALLOCATIONS)

        await database.write(told)
        computer = Computer(store, database, memory, clock, board, chunk_minutes=60)  # pyright: ignore[reportArgumentType]
        await computer.compute(site, hours.stop * HOUR, (hours.stop - 2) * HOUR)
    result = await database.read(lambda one: read_rows(one, hours))
    await database.close()
    return {key: {n: v for n, v in one.items() if n != "origin"} for key, one in result.items()}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sample_lists(), st.lists(held | sharing, max_size=4), sites, st.data())
def test_any_deliveries_and_restarts_give_what_all_at_once_gives(
    books: Path,
    samples: list[Sample],
    allocations: list[Allocation],
    site: Inventory,
    data: st.DataObject,
):
    count = data.draw(st.integers(1, 4))
    shares: list[list[Sample]] = [[] for _ in range(count)]
    for index, one in enumerate(samples):
        where = data.draw(st.integers(0, count - 1))
        shares[where].append(replace(one, writer=10 * where + one.writer + index))
    told: list[Allocation | None] = [*allocations, *[None] * count]
    deliveries = [
        (share, told[place], data.draw(st.booleans())) for place, share in enumerate(shares)
    ]
    deliveries += [([], late, False) for late in told[count:] if late is not None]
    hours = range(H - 2, H + 4)
    found = asyncio.run(_bit_by_bit(books, deliveries, site, hours))
    touched = [one.time_us // HOUR for one in samples]
    expected = rows(samples, allocations, site, hours, TEXT)
    first = min(touched, default=hours.stop)
    assert found == {key: one for key, one in expected.items() if int(str(key[0])) >= first}


def test_a_segment_from_before_a_node_was_installed_ends_in_time_that_counts(books: Path):
    node = InstalledNode("n1", "h", "r", "H800-SXM", (6912,), 1.0, from_us=H * HOUR + 5)
    site = Inventory("t", "T", "UTC", "fp16", "dense", "boost", (node,))
    later = Sample("n1", 6912, H * HOUR + 6, 1, 10, 1, {"throttle_power_cap_us": 1})
    before = Sample("n1", 6912, H * HOUR - 1, 1, 10, 1, {"throttle_power_cap_us": 0}, writer=2)
    hours = range(H - 2, H + 2)
    deliveries = [([later], None, False), ([before], None, False)]
    found = asyncio.run(_bit_by_bit(books, deliveries, site, hours))
    assert found == rows([later, before], [], site, hours, TEXT)
    assert [row["throttle_power_cap_us"] for row in found.values()] == [1, 0]


def test_time_reached_is_the_slowest_of_the_partitions_that_have_something_to_write():
    clocks = {0: (5, 100), 1: (7, 40)}
    assert agenda.reached_us(clocks, None) == 40
    assert agenda.reached_us(clocks, {0: 5, 1: 9, 2: 0}) == 40
    assert agenda.reached_us(clocks, {0: 5, 1: 7, 2: 0}) == 100
    assert agenda.reached_us(clocks, {0: 5, 1: 7, 2: 3}) is None
    assert agenda.reached_us({}, None) is None


def test_what_lies_ahead_is_not_computed_and_a_stranger_s_points_are_learnt():
    site = Inventory("t", "T", "UTC", "", "", "", ())
    until_us = BASE + HOUR // 2
    made = agenda.plan(site, [(H, "zz"), (H + 1, "zz")], {}, range(H, H + 1), until_us)
    assert made.changed == {H: {"zz"}}
    assert made.extended == {}
