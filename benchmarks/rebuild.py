"""Hours of the ledger rebuilt from minutes: CPU and time for a day of a large site.

    python -m benchmarks.rebuild [--gpus 3672] [--hours 24] [--nodes N] [--store URL] [--json]

Minutes as a site leaves them (25 counters, one run, a job per node and six
hours, a flush a minute) are written for some hours of some nodes, then the
hours are rebuilt as `petawatch rebuild hours` does it, into SQLite.  What is
not measured whole is scaled by the node-hours, and that is said.  `--store`
takes an InfluxDB (token in PETAWATCH_INFLUX_TOKEN); its buckets are removed
in the end.  CPU is this process's own: a server's comes on top.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from benchmarks.records import SITES
from collectors.contract.catalogue import CATALOGUE
from collectors.contract.inventory import Inventory
from collectors.contract.tenants import NO_TENANTS
from collectors.contract.topics import Allocation, Subject
from collectors.kit.clock import SystemClock
from collectors.simulator.sites import make_site
from pipeline.books import journal, progress, schema, versions
from pipeline.books.database import Database
from pipeline.books.rebuild import HoursRebuild, Site
from pipeline.books.rows import HOUR_MINUTES, HOUR_US
from pipeline.series import open_series
from pipeline.series.port import CounterSpan, GaugeSpan, MinuteParts, SeriesStore, WriteBatch

_MINUTE_US = 60_000_000
_ABSENT = {"gflop_estimated", "energy_allocated_mj"}
_GAUGES = ("power_w", "gpu_temperature_c", "gpu_utilization", "sm_clock_mhz")
_RUN = 1_700_000_000 << 20


def minute_parts(inventory: Inventory, minute: int) -> MinuteParts:
    """One part per GPU: what a minute of readings once a second leaves."""
    gpus = [(n, slot) for n, node in enumerate(inventory.nodes) for slot in node.slots]
    count = len(gpus)
    start_us = np.full(count, minute * _MINUTE_US, np.int64)
    pace = 1_000_000 + np.arange(count, dtype=np.uint64) % np.uint64(997)
    counters: dict[str, CounterSpan] = {}
    for place, metric in enumerate(m for m in CATALOGUE.counters if m.name not in _ABSENT):
        rate = pace * np.uint64(3 + place)
        if metric.name in {"observed_us", "active_us"}:
            rate = np.full(count, 1_000_000, np.uint64)
        elif metric.name == "down_us":
            rate = np.zeros(count, np.uint64)
        base = rate * np.uint64(minute % 100_000 * 60)
        counters[metric.name] = CounterSpan(
            start_us + 400_000, base, start_us + 59_400_000, base + rate * np.uint64(59)
        )
    values = np.arange(count, dtype=np.float32) + np.float32(minute % 60)
    gauges = {
        name: GaugeSpan(values, values + 1, values, start_us + 59_400_000) for name in _GAUGES
    }
    return MinuteParts(
        [node.name for node in inventory.nodes],
        np.array([n for n, _ in gpus], np.int32),
        np.array([slot for _, slot in gpus], np.uint64),
        np.full(count, minute, np.int64),
        np.full(count, _RUN, np.uint64),
        np.full(count, minute // 360 + 1, np.uint64),
        np.full(count, 7, np.uint64),
        np.zeros(count, np.int32),
        np.full(count, 3, np.uint8),
        np.full(count, 5, np.uint64),
        counters,
        gauges,
    )


def jobs(inventory: Inventory, hours: range) -> list[tuple[Allocation, int]]:
    """A job per node and six hours, of 330 tenants."""
    made: list[tuple[Allocation, int]] = []
    for n, node in enumerate(inventory.nodes):
        for first in range(hours.start, hours.stop, 6):
            name, tenant = f"{n}-{first}", f"tenant-{(n * 7 + first) % 330}"
            from_us = first * HOUR_US + 1_234_567 * (n % 100)
            one = Allocation(
                "bench", name, tenant, "p", name, (Subject(node.name),), from_us,
                from_us + 5 * HOUR_US, known_us=from_us,
            )  # fmt: skip
            made.append((one, from_us))
    return made


async def fill(series: SeriesStore, database: Database, inventory: Inventory, hours: range) -> None:
    """Minutes and allocations, and node-hours that are there without a figure."""
    for minute in range(hours.start * HOUR_MINUTES, hours.stop * HOUR_MINUTES):
        await series.write(WriteBatch((), minute_parts(inventory, minute)))
    stamps = [
        {
            "hour": hour, "node": node.name, "until_us": (hour + 1) * HOUR_US, "final": False,
            "computed_us": 0, "hall": node.hall, "gflops_per_gpu": 1,
        }
        for hour in hours
        for node in inventory.nodes
    ]  # fmt: skip

    def write(connection: Any) -> None:
        journal.keep_totals(connection, inventory)
        versions.record(connection, jobs(inventory, hours))
        connection.execute(schema.node_hours.insert(), stamps)
        progress.write_meta(connection, "benchmark", "rebuild")

    await database.write(write)


def _store(url: str | None, folder: Path) -> SeriesStore:
    """A store of the benchmark's own."""
    if url is None:
        return open_series(f"duckdb://{folder}/series.duckdb")
    token = os.environ["PETAWATCH_INFLUX_TOKEN"]
    return open_series(url, token=token, prefix=f"bench-{uuid4().hex[:8]}")


async def measure(gpus: int, hours: int, nodes: int | None, url: str | None) -> dict[str, Any]:
    """One row of results."""
    site = make_site(SITES.get(gpus, f"synthetic:{gpus}"))
    some = replace(site, nodes=site.nodes[:nodes])
    clock = SystemClock()
    span = range(clock.wall_us() // HOUR_US - hours - 2, clock.wall_us() // HOUR_US - 2)
    with tempfile.TemporaryDirectory(prefix="petawatch-rebuild-") as folder:
        series = _store(url, Path(folder))
        database = Database(f"sqlite:///{Path(folder)}/books.db")
        await series.start()
        await database.start()
        try:
            await fill(series, database, some, span)
            cpu, began = time.process_time(), time.monotonic()
            work = HoursRebuild(series, database, Site(some, NO_TENANTS), clock)
            done = await work.run(span, lambda _done, _total: None)
            cpu, wall = time.process_time() - cpu, time.monotonic() - began
        finally:
            await series.drop()
            await series.close()
            await database.close()
    scale = 24 * len(site.nodes) / done
    return {
        "gpus": gpus,
        "store": "influxdb" if url else "duckdb",
        "node_hours": done,
        "cpu_s": round(cpu, 2),
        "wall_s": round(wall, 2),
        "scaled_by": round(scale, 2),
        "day_cpu_s": round(cpu * scale, 1),
        "day_wall_s": round(wall * scale, 1),
    }


def main() -> None:
    """Prints a line, or with `--json` one object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=3672)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--store")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = asyncio.run(measure(arguments.gpus, arguments.hours, arguments.nodes, arguments.store))
    if arguments.json:
        print(json.dumps({"benchmark": "rebuild", "results": [result]}))
    else:
        print("  ".join(f"{name}={value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
