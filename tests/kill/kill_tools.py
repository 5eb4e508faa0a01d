"""What the kill tests share: processes that end badly, and the comparison afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from collectors.contract.bus import Bus
from collectors.contract.inventory import Inventory
from collectors.contract.topics import ALLOC, GPU
from collectors.kit.clock import SystemClock
from collectors.simulator.oracle import Oracle
from pipeline.commands.wiring import Installation, install
from pipeline.selftest import compare
from pipeline.selftest.compare import Check
from pipeline.settings import Settings


def start(
    arguments: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A `petawatch` process whose output goes to a file."""
    command = [sys.executable, "-c", "from collectors.cli import main; main()", *arguments]
    with log.open("ab") as out:
        return subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **(environ or {})}
        )


def runs_for(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Lets it run; True when it still does afterwards."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def await_line(process: subprocess.Popen[bytes], log: Path, text: str, times: int) -> None:
    """Until the log has a line with the text for the nth time; the process must live."""
    while log.read_text(errors="replace").count(text) < times:
        assert runs_for(process, 0.05), log.read_text(errors="replace")[-2_000:]


def kill_at_random(
    process: subprocess.Popen[bytes], rng: random.Random, least_s: float, most_s: float
) -> None:
    """kill -9 at a random moment; the process must have lived until then."""
    lived = runs_for(process, rng.uniform(least_s, most_s))
    assert lived, f"ended by itself with {process.returncode}"
    process.kill()
    process.wait()


def end(process: subprocess.Popen[bytes], timeout_s: float = 30.0) -> None:
    """SIGTERM; it must end by itself and well."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout_s) == 0


async def oracle_of(bus: Bus, prefix: str, inventory: Inventory) -> tuple[Oracle, range]:
    """The oracle over all that the bus holds, and the minutes of its records."""
    oracle = Oracle(inventory)
    times: list[int] = []
    for topic in (ALLOC, GPU):
        consumer = bus.consumer([prefix + topic], None)
        await consumer.start()
        ends = await consumer.end_offsets()
        reached = dict.fromkeys(ends, 0)
        while any(reached[p] < ends[p] for p in ends):
            for chunk in await consumer.fetch(1.0):
                reached[chunk.partition] = chunk.next_offset
                for value, bus_us in zip(chunk.values, chunk.bus_us, strict=True):
                    if topic == ALLOC:
                        oracle.add_allocation(value)
                    else:
                        oracle.add_record(value, bus_us)
                        times.append(bus_us)
        await consumer.stop()
    return oracle, compare.minute_range(min(times) - 120_000_000, max(times) + 120_000_000)


async def drain(installation: Installation) -> None:
    """One more worker takes in whatever no other has committed."""
    worker = installation.worker()
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    partitions = installation.settings.gpu_partitions
    while not task.done():
        behind = await worker.behind()
        if len(behind) == partitions and not any(behind.values()):
            break
        await worker.flush()
        await installation.clock.sleep(0.05)
    stop.set()
    await task


async def differences(settings: Settings, inventory: Inventory) -> tuple[int, list[Check]]:
    """Records on the bus, and the checks that are not equal once everything is taken in."""
    installation = install(settings, SystemClock(), inventory, series=True, books=True)
    await installation.start()
    try:
        await drain(installation)
        oracle, minutes = await oracle_of(installation.bus, settings.topic_prefix, inventory)
        books = installation.books()
        await books.finish()
        await books.close()
        series = installation.opened_series()
        nodes = [node.name for node in inventory.nodes]
        stored = await compare.stored_minutes(series, nodes, minutes)
        checks = compare.minute_checks(oracle, stored)
        truth = oracle.finish()
        checks += await compare.sample_checks(series, truth.samples, minutes)
        hours = sorted({key.hour for key in truth.rows})
        ledger = await installation.usage().rows(range(hours[0], hours[-1] + 1))
        checks += compare.ledger_checks(truth.rows, ledger)
        return oracle.records, [check for check in checks if not check.ok]
    finally:
        await installation.close()


def settings_of(**values: object) -> Settings:
    """Settings as a process gets them."""
    return msgspec.convert(values, Settings)
