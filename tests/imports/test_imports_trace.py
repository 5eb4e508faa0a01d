"""A month of a real cluster imported as allocations: the check figure of whoever published it.

The trace is for testing alone (its licence), so the test runs where the data is:
PETAWATCH_DATA names its folder, else it is looked for beside the project.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import heapq
import os
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from collectors.cli import main
from collectors.contract.identity import Slot, pack_slot, slot_text
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.topics import topic_specs
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from pipeline.books.claims import ownership
from pipeline.books.database import Database
from pipeline.books.role import Books, BooksSettings
from pipeline.books.versions import claims_between
from pipeline.health import HealthBoard
from pipeline.series.duck import DuckStore

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("PETAWATCH_DATA", ROOT.parent / "shared/data"))
TRACE = DATA / "alibaba-dlrm-2025/disaggregated_DLRM_trace.csv.gz"
START_S = 1_767_196_800
"""2026-01-01 in Hong Kong: the trace's times are from its own beginning."""
MONTH_S = 31 * 86_400
PER_NODE = 8
SLOTS = [pack_slot(Slot(0, 0x10 + number, 0, 0)) for number in range(PER_NODE)]
HOUR_US = 3_600_000_000


def instances() -> list[tuple[float, float, str, str]]:
    """(scheduled, deleted, application, instance) of all with a GPU, clipped to the month."""
    found: list[tuple[float, float, str, str]] = []
    with gzip.open(TRACE, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["role"] != "HN":
                continue
            assert float(row["gpu_request"]) == 1
            begin = min(float(row["scheduled_time"] or 0), MONTH_S)
            end = min(float(row["deletion_time"] or MONTH_S), MONTH_S)
            if begin < end:
                found.append((begin, end, row["app_name"], row["instance_sn"]))
    return sorted(found)


def write_table(path: Path) -> int:
    """The trace as a table: each instance on the first GPU that is free; returns how many it takes."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    used = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["tenant", "job", "node", "slots", "from", "to"])
        for begin, end, app, name in instances():
            while busy and busy[0][0] <= begin:
                heapq.heappush(free, heapq.heappop(busy)[1])
            if not free:
                heapq.heappush(free, used)
                used += 1
            gpu = heapq.heappop(free)
            heapq.heappush(busy, (end, gpu))
            slot = slot_text(SLOTS[gpu % PER_NODE])
            times = [f"{START_S + time:.6f}" for time in (begin, end)]
            table.writerow([app, name, f"n{gpu // PER_NODE:03d}", slot, *times])
    return used


async def imported(folder: Path, gpus: int) -> Database:
    """The books, after the command has sent the table and the role has read it."""
    clock = SystemClock()
    bus = SqliteBus(folder / "bus.db", clock=clock)
    await bus.create_topics(topic_specs())
    await bus.close()
    sent = await asyncio.to_thread(
        CliRunner().invoke,
        main,
        ["import-allocations", str(folder / "t.csv"), "--bus", f"sqlite:///{folder}/bus.db"],
    )
    assert sent.exit_code == 0, sent.output
    names = {f"n{gpu // PER_NODE:03d}" for gpu in range(gpus)}
    nodes = tuple(InstalledNode(one, "h", "r", "A10", tuple(SLOTS), 0.125) for one in sorted(names))
    site = Inventory("t", "T", "Asia/Hong_Kong", "fp16", "dense", "boost", nodes)
    bus = SqliteBus(folder / "bus.db", clock=clock)
    series = DuckStore(folder / "series.duckdb", memory_limit_mb=64)
    database = Database(f"sqlite:///{folder}/books.db")
    await series.start()
    await database.start()
    board = HealthBoard("books", "test", clock)
    books = Books(bus, series, lambda: site, database, BooksSettings(), clock, board)
    await books.finish()
    await books.close()
    await series.close()
    await bus.close()
    return database


@pytest.mark.skipif(not TRACE.is_file(), reason=f"{TRACE} is not there: set PETAWATCH_DATA")
async def test_a_month_has_the_published_gpu_hours(tmp_path: Path) -> None:
    gpus = write_table(tmp_path / "t.csv")
    database = await imported(tmp_path, gpus)
    from_us, to_us = START_S * 1_000_000, (START_S + MONTH_S) * 1_000_000
    claims = await database.read(lambda one: claims_between(one, from_us, to_us))
    await database.close()
    held: Counter[str] = Counter()
    for mine in claims.values():
        for slot in SLOTS:
            for piece in ownership(mine, slot, from_us, to_us):
                owner = piece.owner
                assert not hasattr(owner, "shares")
                held[getattr(owner, "tenant", "")] += piece.to_us - piece.from_us
    assert sum(held.values()) == len(claims) * PER_NODE * (to_us - from_us)
    del held[""]
    hours = sum(held.values()) / HOUR_US
    assert round(hours) == 2_376_668
    assert round(held["app_0"] / HOUR_US / hours, 3) == 0.118
    assert len(held) == len({app for _, _, app, _ in instances()})
