"""The whole ledger of some books as plain rows, and how two of them differ."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, select

from collectors.contract.source import SourceOptions
from collectors.kit.clock import SystemClock
from collectors.simulator.source import create
from pipeline.books import schema
from pipeline.books.database import Database
from pipeline.books.rows import FIGURES
from pipeline.commands.wiring import install
from pipeline.settings import Settings

Rows = dict[str, list[Any]]
"""By the key's columns as text, the figures."""
Ledger = dict[str, Rows]
"""By table."""


def tables() -> list[Table]:
    """All that is made of the hours: those, and every kind of sum of them."""
    return [table for table in schema.metadata.sorted_tables if set(FIGURES) <= set(table.c.keys())]


def _rows(connection: Connection, table: Table) -> Rows:
    key = [column.name for column in table.primary_key]
    rest = sorted(set(table.c.keys()) - set(key))
    return {
        repr([row[name] for name in key]): [row[name] for name in rest]
        for row in connection.execute(select(table)).mappings()
    }


async def read_ledger(database: Database) -> Ledger:
    """Every row of every such table, from one snapshot."""
    return await database.read(lambda one: {table.name: _rows(one, table) for table in tables()})


def differences(expected: Ledger, actual: Ledger) -> dict[str, int]:
    """By table the rows that are not equal, or are in one only."""
    return {
        name: sum(
            expected.get(name, {}).get(key) != actual.get(name, {}).get(key)
            for key in {*expected.get(name, {}), *actual.get(name, {})}
        )
        for name in sorted({*expected, *actual})
    }


def shown(expected: Ledger, actual: Ledger, most: int = 24) -> list[str]:
    """The first rows that differ, with both sides' figures where those are not equal."""
    found: list[str] = []
    for name in sorted({*expected, *actual}):
        table = next(one for one in tables() if one.name == name)
        figures = sorted({one.name for one in table.c} - {one.name for one in table.primary_key})
        left, right = expected.get(name, {}), actual.get(name, {})
        for key in sorted(key for key in {*left, *right} if left.get(key) != right.get(key)):
            pairs = zip(
                figures,
                left.get(key) or [None] * len(figures),
                right.get(key) or [None] * len(figures),
                strict=True,
            )
            apart = [f"{figure}: {a} → {b}" for figure, a, b in pairs if a != b]
            found.append(f"{name} {key}: {', '.join(apart)}")
    return found[:most]


def before(ledger: Ledger, hour: int) -> Ledger:
    """The rows of `hours` before one."""
    rows = {key: row for key, row in ledger["hours"].items() if json.loads(_first(key)) < hour}
    return {"hours": rows}


def _first(key: str) -> str:
    return key[1:].partition(",")[0]


def simulation(
    site: str, seed: int, start_us: int, hours: float, interval_s: float
) -> SourceOptions:
    """The simulation of both runs: whatever its speed, it sends the same bytes."""
    return SourceOptions(
        site=site, seed=seed, start_us=start_us, minutes=hours * 60, speed=None,
        interval_s=interval_s, extra={"faults": "none", "telemetry_faults": "all"},
    )  # fmt: skip


async def undisturbed(folder: Path, options: SourceOptions) -> Ledger:
    """What the same simulation comes to in one process to which nothing happens."""
    clock = SystemClock()
    source = create(options, clock)
    settings = Settings(data=folder, raw_interval_s=60.0)
    installation = install(settings, clock, source.inventory, series=True, books=True)
    await installation.start()
    worker, stop = installation.worker(), asyncio.Event()
    working = asyncio.create_task(worker.run(stop))
    producer = installation.bus.producer()
    await producer.start()
    await source.run(producer, asyncio.Event())
    await producer.stop()
    while not working.done():
        behind = await worker.behind()
        if len(behind) == settings.gpu_partitions and not any(behind.values()):
            break
        await worker.flush()
        await clock.sleep(0.05)
    stop.set()
    await working
    books = installation.books()
    await books.finish()
    await books.close()
    ledger = await read_ledger(installation.opened_database())
    await installation.close()
    return ledger


def write_ledger(path: Path, ledger: Mapping[str, Rows]) -> None:
    """As JSON."""
    path.write_text(json.dumps(ledger), encoding="utf-8")


def read_file(path: Path) -> Ledger:
    """What `write_ledger` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
