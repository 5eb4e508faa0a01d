"""kill -9, and stops past the session timeout, of `store` workers on the real stack, under load."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from kill_tools import await_line, differences, end, runs_for, settings_of, start
from stack_fixtures import Influx

from collectors.contract.source import SourceOptions
from collectors.kit.clock import SystemClock
from collectors.simulator.source import SimulatorSource, create
from pipeline.commands.wiring import install, topics
from pipeline.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]
ROUNDS = 10
ASSIGNED = "assigned partitions="


@pytest.fixture
def settings(kafka_url: str, influx: Influx, tmp_path: Path) -> Settings:
    return settings_of(
        bus=kafka_url, store=influx.store, influx_token=influx.token, data=tmp_path,
        topic_prefix=f"kill-{secrets.token_hex(4)}-", kafka_session_timeout_s=1.0,
        gpu_partitions=4, flush_s=0.5, site="demo",
    )  # fmt: skip


@pytest.fixture
async def source(settings: Settings) -> AsyncIterator[SimulatorSource]:
    """A simulated site, sending eight times as fast as life until the test is over."""
    clock = SystemClock()
    options = SourceOptions(site="demo", speed=8.0, topic_prefix=settings.topic_prefix)
    source = create(options, clock)
    installation = install(settings, clock, source.inventory, series=True, books=True)
    await installation.start()
    producer = installation.bus.producer()
    await producer.start()
    stop = asyncio.Event()
    sending = asyncio.create_task(source.run(producer, stop))
    source_stop[id(source)] = (stop, sending)
    yield source
    stop.set()
    await sending
    await producer.stop()
    await installation.bus.delete_topics([spec.name for spec in topics(settings)])
    await installation.opened_series().drop()
    await installation.close()


source_stop: dict[int, tuple[asyncio.Event, asyncio.Task[None]]] = {}


async def stop_sending(source: SimulatorSource) -> None:
    stop, sending = source_stop.pop(id(source))
    stop.set()
    await sending


class Workers:
    """Two `store` processes of one group."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._settings = settings
        self._log = log
        self.processes = [self._start(0), self._start(1)]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        s = self._settings
        environ = {
            "PETAWATCH_BUS": s.bus, "PETAWATCH_STORE": s.store, "PETAWATCH_SITE": "demo",
            "PETAWATCH_INFLUX_TOKEN": s.influx_token or "", "PETAWATCH_DATA": str(s.data),
            "PETAWATCH_TOPIC_PREFIX": s.topic_prefix, "PETAWATCH_FLUSH_S": "0.5",
            "PETAWATCH_KAFKA_SESSION_TIMEOUT_S": "1", "PETAWATCH_GPU_PARTITIONS": "4",
        }  # fmt: skip
        process = start(["pipeline", "--role", "store"], self.log(number), environ)
        await_line(process, self.log(number), ASSIGNED, self.assigned(number) + 1)
        return process

    def log(self, number: int) -> Path:
        path = self._log / f"worker{number}.log"
        path.touch()
        return path

    def assigned(self, number: int) -> int:
        return self.log(number).read_text().count(ASSIGNED)

    def kill_and_restart(self, number: int) -> None:
        process = self.processes[number]
        assert process.poll() is None, self.log(number).read_text()[-2_000:]
        process.kill()
        process.wait()
        self.processes[number] = self._start(number)

    def pause(self, number: int, seconds: float) -> None:
        """SIGSTOP for longer than the session, so that the group goes on without it; then SIGCONT."""
        process, before = self.processes[number], self.assigned(number)
        process.send_signal(signal.SIGSTOP)
        runs_for(process, seconds)
        process.send_signal(signal.SIGCONT)
        await_line(process, self.log(number), ASSIGNED, before + 1)

    def end(self) -> None:
        for process in self.processes:
            end(process)


@pytest.fixture
def workers(settings: Settings, source: SimulatorSource, tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(settings, tmp_path)
    yield workers
    for process in workers.processes:
        process.kill()
        process.wait()


async def test_killed_workers(
    workers: Workers, settings: Settings, source: SimulatorSource
) -> None:
    rng = random.Random(30)
    for _ in range(ROUNDS):
        await asyncio.to_thread(runs_for, workers.processes[0], rng.uniform(0.1, 1.2))
        await asyncio.to_thread(workers.kill_and_restart, rng.randrange(2))
    await stop_sending(source)
    await asyncio.to_thread(workers.end)
    records, wrong = await differences(settings, source.inventory)
    assert wrong == []
    assert records > 500


async def test_stopped_workers(
    workers: Workers, settings: Settings, source: SimulatorSource
) -> None:
    rng = random.Random(40)
    for _ in range(ROUNDS):
        await asyncio.to_thread(runs_for, workers.processes[0], rng.uniform(0.1, 0.8))
        await asyncio.to_thread(workers.pause, rng.randrange(2), rng.uniform(1.3, 2.0))
    await stop_sending(source)
    await asyncio.to_thread(workers.end)
    records, wrong = await differences(settings, source.inventory)
    assert wrong == []
    assert records > 500
