"""A recording through the real Kafka into the real InfluxDB: Flux gives every row as recorded."""

from __future__ import annotations

import asyncio
import csv
import gzip
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from influxdb_client.client.influxdb_client import InfluxDBClient
from stack_fixtures import Influx

from collectors.contract.identity import parse_slot
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.kit.clock import SystemClock
from pipeline.commands.wiring import Installation, install, topics
from pipeline.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]
HERE = Path(__file__).parents[1]
SHARED = Path(os.environ.get("PETAWATCH_RECORDINGS", HERE.parents[1] / "shared" / "data"))
CAPTURES = [
    HERE / "captures" / "nanogpt_8gpu.csv",
    *sorted((SHARED / "nanogpt-8gpu-node").glob("*.csv.gz")),
]
SLOTS = [f"0000:{index + 1:02x}:00.0" for index in range(8)]
PETAWATCH = Path(sys.executable).with_name("petawatch")

Row = tuple[int, str, str, str, str]
"""Time in µs before the last, slot, and temperature, utilisation and power as text."""


def recorded(path: Path) -> list[Row]:
    """The rows of a recording, in order of time and slot."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    times = [int(datetime.fromisoformat(row["timestamp"]).timestamp() * 1e6 + 0.5) for row in rows]
    return sorted(
        (max(times) - time_us, SLOTS[int(row["gpu_index"])], f"{float(row['temperature_C']):.2f}",
         f"{float(row['utilization_gpu_percent']):.2f}", f"{float(row['power_W']):.2f}")
        for time_us, row in zip(times, rows, strict=True)
    )  # fmt: skip


def stored(influx: Influx, bucket: str) -> list[Row]:
    """The same of what Flux finds in the bucket."""
    flux = (
        f'from(bucket: "{bucket}") |> range(start: -1d, stop: 1h)'
        ' |> filter(fn: (r) => r._measurement == "gpu" and r.origin == "replayed" and '
        '(r._field == "power_w" or r._field == "gpu_temperature_c" or r._field == "gpu_utilization"))'
        ' |> pivot(rowKey: ["_time", "slot"], columnKey: ["_field"], valueColumn: "_value")'
        ' |> group() |> keep(columns: ["_time", "slot", "power_w", "gpu_temperature_c", "gpu_utilization"])'
    )
    with InfluxDBClient(influx.url, influx.token, org=influx.org, timeout=120_000) as client:
        answer: Any = client.query_api()  # untyped there
        lines = answer.query_raw(flux).data.decode().splitlines()
    found = [row for row in csv.DictReader(line for line in lines if not line.startswith("#"))
             if row.get("slot") not in {None, "", "slot"}]  # fmt: skip
    times = [int(datetime.fromisoformat(row["_time"]).timestamp() * 1e6 + 0.5) for row in found]
    return sorted(
        (max(times) - time_us, row["slot"], f"{float(row['gpu_temperature_c']):.2f}",
         f"{float(row['gpu_utilization']) * 100:.2f}", f"{float(row['power_w']):.2f}")
        for time_us, row in zip(times, found, strict=True)
    )  # fmt: skip


@pytest.fixture
async def installation(
    kafka_url: str, influx: Influx, tmp_path: Path
) -> AsyncIterator[Installation]:
    settings = Settings(
        bus=kafka_url, store=influx.store, influx_token=influx.token, data=tmp_path,
        topic_prefix=f"flux-{secrets.token_hex(4)}-", flush_s=0.5,
    )  # fmt: skip
    slots = tuple(parse_slot(slot) for slot in SLOTS)
    node = InstalledNode("g150", "hall", "rack", "H100-SXM", slots, 0.9894)
    inventory = Inventory("s", "s", "UTC", "fp16", "dense", "boost", (node,))
    made = install(settings, SystemClock(), inventory, series=True, books=False)
    await made.start()
    yield made
    await made.bus.delete_topics([spec.name for spec in topics(settings)])
    await made.opened_series().drop()
    await made.close()


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
async def test_flux_gives_every_row_as_recorded(
    installation: Installation, influx: Influx, path: Path
) -> None:
    settings = installation.settings
    worker, stop = installation.worker(), asyncio.Event()
    working = asyncio.create_task(worker.run(stop))
    replay = [
        PETAWATCH, "replay", path, "--speed", "max", "--node", "g150",
        "--bus", settings.bus, "--topic-prefix", settings.topic_prefix,
    ]  # fmt: skip
    done = await asyncio.to_thread(
        subprocess.run, [str(x) for x in replay], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    while not working.done():
        await worker.flush()
        behind = await worker.behind()
        if len(behind) == settings.gpu_partitions and not any(behind.values()):
            break
        await installation.clock.sleep(0.05)
    stop.set()
    await working
    bucket = f"petawatch_{settings.topic_prefix}_raw"
    found = await asyncio.to_thread(stored, influx, bucket)
    want = recorded(path)
    assert len(found) == len(want)
    assert found == want
