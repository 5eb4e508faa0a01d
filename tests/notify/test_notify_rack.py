"""A rack loses its cooling: one message within ten seconds of the first sign, one when it is over,
through the whole chain from the simulator to a real HTTP receiver."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from notify_tools import Receiver, receiver

from collectors.contract.source import SourceOptions
from collectors.kit.clock import SystemClock
from collectors.simulator.source import SimulatorSource, create
from pipeline.commands.wiring import Installation, install, topics
from pipeline.settings import Settings
from pipeline.watch.alerts.buffer import LATE_US

SITE, SEED = "synthetic:256", 3
LEARNT_MIN, COLD_MIN, AFTER_MIN = 20, 2, 6
RACK = "s00001"
START_US = 1_790_000_040_000_000
WITHIN_US = 10_000_000
FAULT = f"""
[[event]]
fault = "rack_pump_failure"
at = "{LEARNT_MIN}m"
for = "{COLD_MIN}m"
rack = "{RACK}"
"""
TARGET = '[[targets]]\nname = "t"\nkind = "webhook"\nurl = "{}"\nfamilies = ["thermal"]\n'
Roles = Callable[[Installation], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def in_this_process(made: Installation) -> AsyncGenerator[None]:
    """`watch`'s alerts and `notify` as tasks."""
    stop = asyncio.Event()
    watch, notify = made.alerts(), made.notifier()
    tasks = [asyncio.create_task(one.run(stop)) for one in (watch, notify)]
    board = next(one for one in made.boards if one.role == "alerts")
    while board.value("alerts_lives") is None:
        assert not any(task.done() for task in tasks)
        await asyncio.sleep(0.02)
    yield
    stop.set()
    await asyncio.gather(*tasks)


@asynccontextmanager
async def as_processes(made: Installation) -> AsyncGenerator[None]:
    """Both as `petawatch pipeline` runs them."""
    settings = made.settings
    environ = {
        "PETAWATCH_BUS": settings.bus, "PETAWATCH_SITE": SITE,
        "PETAWATCH_DATA": str(settings.data), "PETAWATCH_NOTIFY": str(settings.notify),
        "PETAWATCH_TOPIC_PREFIX": settings.topic_prefix,
    }  # fmt: skip
    code, log = "from collectors.cli import main; main()", settings.data / "roles.log"
    processes: list[asyncio.subprocess.Process] = []
    with log.open("ab") as out:
        for role in ("watch", "notify"):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, "pipeline", "--role", role, stdout=out, stderr=out,
                env={**os.environ, **environ},
            )  # fmt: skip
            processes.append(process)
    try:
        while "alerts_begin" not in log.read_text():
            assert all(one.returncode is None for one in processes), log.read_text()[-3_000:]
            await asyncio.sleep(0.05)
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


def first_sign_us(truth: Path) -> int:
    """When the fault could first be seen, from the simulator's own account."""
    rows = [json.loads(line) for line in (truth / "physical.jsonl").read_text().splitlines()]
    faults = [row["fault"] for row in rows if "fault" in row]
    (ours,) = [one for one in faults if one["kind"] == "rack_pump_failure"]
    return int(ours["first_sign_us"])


def simulator(settings: Settings, truth: Path, scenario: Path) -> SimulatorSource:
    """The site with its fault, as fast as it goes."""
    scenario.write_text(FAULT)
    options = SourceOptions(
        site=SITE, seed=SEED, speed=None, minutes=LEARNT_MIN + COLD_MIN + AFTER_MIN, truth=truth, start_us=START_US,
        topic_prefix=settings.topic_prefix,
        extra={"observable": "off", "scenario": str(scenario)},
    )  # fmt: skip
    return create(options, SystemClock())


async def told(settings: Settings, tmp: Path, got: Receiver, roles: Roles) -> list[dict[str, Any]]:
    """The messages that came of it, and the first sign."""
    assert settings.notify is not None
    settings.notify.write_text(TARGET.format(got.url))
    source = simulator(settings, tmp / "truth", tmp / "fault.toml")
    made = install(settings, SystemClock(), source.inventory, series=False, books=False)
    await made.start()
    try:
        async with roles(made):
            producer = made.bus.producer()
            await producer.start()
            await source.run(producer, asyncio.Event())
            await producer.stop()
            await got.wait(2, 120)
        return got.bodies()
    finally:
        await made.bus.delete_topics([spec.name for spec in topics(settings)])
        await made.close()


def check(messages: list[dict[str, Any]], sign_us: int) -> None:
    assert [one["kind"] for one in messages] == ["opened", "resolved"]
    opened, resolved = (one["incident"] for one in messages)
    assert opened["id"] == resolved["id"]
    assert sign_us <= opened["changed_us"] + LATE_US <= sign_us + WITHIN_US
    assert messages[0]["title"] == f"[Critical] Rack {RACK} (Hall S): rack cooling fault, 64 GPUs"
    assert (opened["subject"]["rack"], opened["gpus"]) == (RACK, 64)
    assert opened["cause"] == "rack_cooling"
    assert opened["tenants"]
    assert opened["runbook"] == "rack_cooling"
    assert resolved["state"] == "resolved"


def settings_of(tmp: Path, **more: object) -> Settings:
    """Of an installation in a folder."""
    wanted = {"data": tmp, "site": SITE, "gpu_partitions": 2, "notify": tmp / "notify.toml"}
    return msgspec.convert({**wanted, **more}, Settings)


@pytest.mark.timeout(400)
async def test_embedded(tmp_path: Path) -> None:
    with receiver() as got:
        messages = await told(settings_of(tmp_path), tmp_path, got, in_this_process)
    check(messages, first_sign_us(tmp_path / "truth"))


@pytest.mark.stack
@pytest.mark.timeout(400)
async def test_on_kafka(kafka_url: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, bus=kafka_url, topic_prefix=f"rack-{secrets.token_hex(4)}-")
    with receiver() as got:
        messages = await told(settings, tmp_path, got, as_processes)
    check(messages, first_sign_us(tmp_path / "truth"))
