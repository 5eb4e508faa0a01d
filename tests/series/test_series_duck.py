"""What only the embedded store can do wrong: one process, kill -9, the disk budget."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pytest
from series_data import (
    FIRST_MINUTE,
    MINUTE_US,
    part_rows,
    random_masks,
    random_raw,
    raw_rows,
    slot_at,
    unique_parts,
)

from pipeline.series.columns import concat_parts
from pipeline.series.duck import DuckStore
from pipeline.series.port import StoreSetupError, StoreUnavailableError, WriteBatch

WRITER = """
import asyncio, sys
sys.path.insert(0, {here!r})
from pipeline.series.duck import DuckStore
from pipeline.series.port import WriteBatch
from series_data import FIRST_MINUTE, MINUTE_US, random_raw, unique_parts

async def main():
    store = DuckStore({path!r})
    await store.start()
    print("open", flush=True)
    for number in range({writes}):
        raw = random_raw(number, 20, first_us=FIRST_MINUTE * MINUTE_US + number * 20_000_000)
        parts = unique_parts(number, 40, first_minute=FIRST_MINUTE + number * 3, slots=4)
        await store.write(WriteBatch(raw=[raw], minutes=parts))
        print(number, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def opened(path: Path, **options: int) -> AsyncGenerator[DuckStore]:
    store = DuckStore(path, **options)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


def writer(path: Path, writes: int) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    code = WRITER.format(here=here, path=str(path), writes=writes)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("until", ["3", "11"])
async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, until: str) -> None:
    path = tmp_path / "series.duckdb"
    process = writer(path, 1_000)
    acknowledged = -1
    while (line := line_of(process)) != until:
        acknowledged = int(line) if line != "open" else -1
    os.kill(process.pid, signal.SIGKILL)
    # What was acknowledged between the line awaited and the kill counts too.
    assert process.stdout is not None
    rest = [int(line) for line in process.stdout.read().split("\n") if line.isdigit()]
    acknowledged = max([int(until), acknowledged, *rest])
    process.wait()
    process.stdout.close()
    async with opened(path) as store:
        written = [
            unique_parts(number, 40, first_minute=FIRST_MINUTE + number * 3, slots=4)
            for number in range(acknowledged + 1)
        ]
        found = part_rows(await store.minutes(0, FIRST_MINUTE + acknowledged * 3 + 3))
        assert found == part_rows(concat_parts(written))
        for number in range(acknowledged + 1):
            raw = random_raw(number, 20, first_us=FIRST_MINUTE * MINUTE_US + number * 20_000_000)
            first_us = int(raw.time_us[0])
            rows = raw_rows(await store.raw(first_us, first_us + 20_000_000, node="node-a"))
            assert rows == {key: row for key, row in raw_rows(raw).items() if key[0] == "node-a"}


async def test_a_second_process_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "series.duckdb"
    process = writer(path, 0)
    assert line_of(process) == "open"
    with pytest.raises(StoreSetupError, match="open in another process"):
        await DuckStore(path).start()
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    async with opened(path):
        pass


async def test_a_file_of_another_kind_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "series.duckdb"
    path.write_text("not a database " * 1_000)
    with pytest.raises(StoreSetupError, match=r"series\.duckdb"):
        await DuckStore(path).start()


async def test_minutes_written_in_flushes_stay_one_and_move(tmp_path: Path) -> None:
    """Minutes in open and closed tables, each rewritten while open."""
    async with opened(tmp_path / "series.duckdb") as store:
        minutes = [
            unique_parts(number, 12, first_minute=FIRST_MINUTE + number, minutes=1)
            for number in range(24)
        ]
        for number in range(24):
            for again in range(max(0, number - 1), number + 1):
                await store.write(WriteBatch(minutes=minutes[again]))
        found = await store.minutes(FIRST_MINUTE, FIRST_MINUTE + 24)
        assert part_rows(found) == part_rows(concat_parts(minutes))
    async with opened(tmp_path / "series.duckdb") as store:
        await store.write(WriteBatch(minutes=minutes[1]))
        found = await store.minutes(FIRST_MINUTE, FIRST_MINUTE + 24)
        assert part_rows(found) == part_rows(concat_parts(minutes))


async def test_retention_removes_what_is_older(tmp_path: Path) -> None:
    async with opened(tmp_path / "series.duckdb") as store:
        raw = random_raw(1, 60)
        parts = unique_parts(1, 60, minutes=10)
        masks = random_masks(1, 40)
        await store.write(WriteBatch(raw=[raw], minutes=parts, masks=masks))
        cut_us = FIRST_MINUTE * MINUTE_US + 30_000_000
        await store.delete_before(cut_us, (FIRST_MINUTE + 4) * MINUTE_US)
        left = await store.raw(0, 2**62, node="node-a")
        assert left.time_us.min() == cut_us
        assert (await store.minutes(0, 2**40)).minute.min() == FIRST_MINUTE + 4
        assert (await store.masks(0, 2**40)).minute.min() == FIRST_MINUTE + 4
        assert store.dropped == {"raw": 0, "minutes": 0, "masks": 0}


async def test_the_disk_budget_drops_the_oldest_raw_and_counts(tmp_path: Path) -> None:
    async with opened(tmp_path / "series.duckdb") as store:
        parts = unique_parts(1, 60)
        await store.write(WriteBatch(minutes=parts))
        nodes = [f"node-{index}" for index in range(120)]
        for number in range(8):
            first_us = (FIRST_MINUTE + number) * MINUTE_US
            raw = random_raw(
                number,
                60,
                nodes=nodes,
                slots=8,
                first_us=first_us,
                absent=0.0,
                only=("power_w",),
            )
            await store.write(WriteBatch(raw=[raw]))
        await store.keep_budget()
        assert store.dropped["raw"] == 0
    async with opened(tmp_path / "series.duckdb") as store:
        before = int((await store.health())["size_bytes"])
    budget_bytes = before * 3 // 4
    async with opened(tmp_path / "series.duckdb", budget_bytes=budget_bytes) as store:
        await store.keep_budget()
        assert int((await store.health())["size_bytes"]) <= budget_bytes
        assert 0 < store.dropped["raw"] < 8 * 60 * 960 * 2 // 3
        left = await store.raw(0, 2**62, node="node-7", slots=[slot_at(3)])
        first_us = FIRST_MINUTE * MINUTE_US
        ticks = sorted((left.time_us - first_us) // 1_000_000)
        assert ticks == list(range(480 - len(ticks), 480))
        assert part_rows(await store.minutes(0, 2**40)) == part_rows(parts)
        assert (await store.health())["dropped_raw_rows"] == str(store.dropped["raw"])


async def test_reads_go_on_while_writing(tmp_path: Path) -> None:
    """A reader sees whole flushes only."""
    written = [
        unique_parts(number, 30, first_minute=FIRST_MINUTE + number, minutes=1)
        for number in range(15)
    ]
    raw = random_raw(1, 30)
    async with opened(tmp_path / "series.duckdb") as store:
        await store.write(WriteBatch(minutes=written[0]))

        async def write_all() -> None:
            for parts in written[1:]:
                await store.write(WriteBatch(raw=[raw], minutes=parts))

        writing = asyncio.create_task(write_all())
        reads = 0
        while not writing.done():
            found = await store.minutes(FIRST_MINUTE, FIRST_MINUTE + 30, counters=[], gauges=[])
            per_minute = np.bincount(found.minute - FIRST_MINUTE)
            assert per_minute.tolist() == [len(parts) for parts in written[: len(per_minute)]]
            reads += 1
        await writing
        assert reads > 3


def test_too_little_memory_becomes_more_instead_of_failing_for_ever(tmp_path: Path) -> None:
    async def run() -> int:
        refusals = stored = 0
        async with opened(tmp_path / "series.duckdb", memory_limit_mb=8) as store:
            for number in range(6):
                parts = unique_parts(
                    number, 20_000, first_minute=FIRST_MINUTE + number * 20, slots=8
                )
                stored += len(parts)
                for _ in range(6):
                    try:
                        await store.write(WriteBatch(minutes=parts))
                        break
                    except StoreUnavailableError:
                        refusals += 1
            found = await store.minutes(FIRST_MINUTE, FIRST_MINUTE + 1_000)
        assert len(found) == stored
        return refusals

    # Each refusal doubles what it may take, up to 16 times.
    assert 0 < asyncio.run(run()) <= 4
