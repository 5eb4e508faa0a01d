"""A metric is one row of the catalogue: a new one is found everywhere without another line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from collectors.contract.bus import Bus
from collectors.contract.catalogue import CATALOGUE, FieldRead, Kind, Metric
from collectors.contract.identity import slot_text
from collectors.contract.schema import proto_text
from collectors.contract.source import SourceOptions
from collectors.contract.topics import GPU
from collectors.contract.wire import parse
from collectors.kit.clock import SystemClock
from collectors.simulator.source import create
from pipeline.api.app import internal_client
from pipeline.commands import stages
from pipeline.commands.wiring import Installation, install
from pipeline.settings import Settings

ROW = Metric(
    "coolant_flow_lpm", 120, "l/min", "Coolant flow.", (0, 50), Kind.GAUGE, FieldRead(999), 2
)


async def test_on_the_wire_in_the_store_in_metrics_and_in_the_api(tmp_path: Path) -> None:
    with CATALOGUE.extended(ROW):
        assert "repeated float coolant_flow_lpm = 120" in proto_text()
        clock = SystemClock()
        source = create(SourceOptions(site="demo", speed=None, minutes=0.2), clock)
        settings = Settings(data=tmp_path, flush_s=0.2)
        installation = install(settings, clock, source.inventory, series=True, books=True)
        await installation.start()
        producer = installation.bus.producer()
        await producer.start()
        await source.run(producer, asyncio.Event())
        await producer.stop()
        node, slot, value = await on_the_wire(installation.bus)
        worker, stop = installation.worker(), asyncio.Event()
        working = asyncio.create_task(worker.run(stop))
        while not working.done():
            behind = await worker.behind()
            if len(behind) == settings.gpu_partitions and not any(behind.values()):
                break
            await asyncio.sleep(0)
        stop.set()
        await working
        await in_the_api(installation, node, slot, value)
        await installation.close()


async def on_the_wire(bus: Bus) -> tuple[str, int, float]:
    """A node, a slot and the value that its first record has."""
    consumer = bus.consumer([GPU], None)
    await consumer.start()
    (chunk, *_) = await consumer.fetch(5.0)
    await consumer.stop()
    record = parse(chunk.values[0])
    return record.node, record.slots[0], record.values[ROW.name][0]


async def in_the_api(installation: Installation, node: str, slot: int, value: float) -> None:
    """Asks the application itself; its live hub is not needed for stored values."""
    app = stages.make_app(installation, installation.board("serve"), installation.usage())
    async with internal_client(app) as client:
        catalogue = (await client.get("/api/v1/metrics/catalogue")).json()
        assert ROW.name in str(catalogue)
        query = {"node": node, "slot": slot_text(slot), "metric": ROW.name, "resolution": "raw"}
        answer = (await client.get("/api/v1/series", params=query)).raise_for_status().json()
        (series,) = answer["series"]
        assert series["unit"] == ROW.unit
        assert series["value"][0] == pytest.approx(value, abs=0.005)
        detail = (await client.get(f"/api/v1/nodes/{node}")).raise_for_status().json()
        assert ROW.name in str(detail["gpus"][0])
        metrics = (await client.get("/metrics")).raise_for_status().text
        assert f"petawatch_{ROW.name}{{" in metrics
