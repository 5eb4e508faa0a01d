"""How long questions about a month's usage take, through the API, from books that are there.

    petawatch past --site aisc-phase2 --books URL      # fills empty books, once
    python -m benchmarks.books --books URL [--site aisc-phase2] [--json]

`wall_s` is the best of three answers, `cpu_s` this process's own CPU for it;
PostgreSQL's is in its server.  `goal_s` stands where there is a goal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
from sqlalchemy import func, select

from collectors.contract.inventory import Inventory
from collectors.contract.source import SourceOptions
from collectors.contract.topics import topic_specs
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from pipeline.api.app import create_app, internal_client
from pipeline.api.deps import ApiDeps
from pipeline.api.settings import ApiSettings
from pipeline.books import schema
from pipeline.books.database import Database
from pipeline.books.periods import day_period
from pipeline.books.progress import ledger_hours
from pipeline.books.queries import BooksReader
from pipeline.books.rows import HOUR_US
from pipeline.books.totals import day_of
from pipeline.commands.wiring import make_source
from pipeline.health import HealthBoard
from pipeline.series.duck import DuckStore

_DAYS = 31
_TIMES = 3
QUESTIONS: tuple[tuple[str, str, dict[str, str], float | None], ...] = (
    ("tenants of the month", "usage/tenants", {}, 0.3),
    ("the month as CSV", "usage/monthly.csv", {}, None),
    ("sums by tenant", "usage", {"by": "tenant"}, None),
    ("sums by tenant and day", "usage", {"by": "tenant", "resolution": "day"}, None),
    ("waterfall", "usage/waterfall", {}, None),
    ("waterfall by tenant", "usage/waterfall", {"by": "tenant"}, None),
    ("waterfall by hall and day", "usage/waterfall", {"by": "hall", "resolution": "day"}, None),
    ("waterfall by hour", "usage/waterfall", {"resolution": "hour"}, None),
    ("200 largest jobs", "usage/efficiency", {}, None),
    ("200 worst idle jobs", "usage/efficiency", {"waste": "true", "sort": "idle_gpu_hours"}, None),
)  # fmt: skip


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--books", required=True, help="sqlite:///FILE or postgresql://USER@HOST/NAME"
    )
    parser.add_argument("--site", default="aisc-phase2", help="the simulated site of the books")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse_args()
    for row in asyncio.run(measure(given.books, given.site)):
        print(json.dumps(row) if given.json else _line(row))


def _line(row: dict[str, Any]) -> str:
    if "question" not in row:
        return ", ".join(f"{name} {value}" for name, value in row.items())
    goal = f"  goal {row['goal_s']} s" if row["goal_s"] else ""
    return (
        f"{row['question']:<28} {row['wall_s']:>7.3f} s  {row['cpu_s']:>7.3f} s CPU"
        f"  {row['rows']:>6} rows{goal}"
    )


async def measure(url: str, site: str) -> list[dict[str, Any]]:
    """What is in the books, then a row per question."""
    clock, database = SystemClock(), Database(url)
    inventory = make_source("sim", SourceOptions(site=site), clock).inventory
    await database.start()
    with tempfile.TemporaryDirectory() as folder:
        bus = SqliteBus(Path(folder) / "bus.db", clock=clock)
        series = DuckStore(Path(folder) / "series.duckdb")
        await bus.create_topics(topic_specs())
        await series.start()
        try:
            return await _ask_all(bus, series, database, inventory)
        finally:
            await series.close()
            await bus.close()
            await database.close()


async def _ask_all(
    bus: SqliteBus, series: DuckStore, database: Database, inventory: Inventory
) -> list[dict[str, Any]]:
    clock = SystemClock()
    reader = BooksReader(database, lambda: inventory)
    board = HealthBoard("serve", "benchmark", clock)
    app = create_app(ApiDeps(bus, series, lambda: inventory, clock, board, reader), ApiSettings())
    last = (await database.read(ledger_hours)).stop - 1
    zone = ZoneInfo(inventory.time_zone)
    # Whole days, as a month has them; the first may lie partly before the ledger.
    stop = day_period(day_of(last, zone), zone).hours.stop
    start = stop - _DAYS * 24
    times = {"from": str(start * HOUR_US // 10**6), "to": str(stop * HOUR_US // 10**6)}
    rows: list[dict[str, Any]] = [await database.read(_contents)]
    async with internal_client(app) as client:
        for name, path, query, goal_s in QUESTIONS:
            best = await _best(client, path, {**times, **query})
            rows.append({"question": name, **best, "goal_s": goal_s})
    return rows


def _contents(connection: Any) -> dict[str, int]:
    hours = ledger_hours(connection)
    counts = {
        table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in (schema.hours, schema.day_totals, schema.day_places, schema.day_jobs)
    }
    return {"ledger_hours": len(hours), **counts}


async def _best(client: httpx.AsyncClient, path: str, query: dict[str, str]) -> dict[str, Any]:
    walls: list[float] = []
    cpus: list[float] = []
    count = 0
    for _ in range(_TIMES):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        answer = await client.get(f"/api/v1/{path}", params=query, timeout=600)
        walls.append(time.perf_counter() - wall_s)
        cpus.append(time.process_time() - cpu_s)
        answer.raise_for_status()
        is_json = answer.headers["content-type"] == "application/json"
        count = len(answer.json()["rows"]) if is_json else answer.text.count("\n")
    return {"wall_s": round(min(walls), 3), "cpu_s": round(min(cpus), 3), "rows": count}


if __name__ == "__main__":
    main()
