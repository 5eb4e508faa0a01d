"""A broker that is killed and comes back, under a producer and a member that live through it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from bus_reading import until, values

from collectors.contract.bus import BusUnavailableError, Message, Partition, TopicSpec
from collectors.kit.clock import SystemClock
from pipeline.bus.kafka import KafkaBus

pytestmark = pytest.mark.stack

_SERVICES = Path(__file__).parents[2] / "deploy" / "services" / "services.py"


class Broker:
    """A Kafka of this test's own that can be killed and started again with its data and port."""

    def __init__(self, cache: Path, url: str) -> None:
        self.address = url.removeprefix("kafka://")
        state = json.loads((cache / "services.json").read_text(encoding="utf-8"))["kafka"]
        self._command = Path(f"/proc/{state['pid']}/cmdline").read_bytes().split(b"\0")[:-1]
        self._pid: int = state["pid"]
        self._again: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """As a power cut would."""
        os.kill(self._pid, signal.SIGKILL)

    def start(self) -> None:
        """Starts it again; it answers some seconds later."""
        self._again = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._pid = self._again.pid

    def end(self) -> None:
        """Ends what `start` started."""
        if self._again is not None:
            self._again.kill()
            self._again.wait()


@pytest.fixture
def broker(tmp_path: Path, kafka_url: str) -> Generator[Broker]:
    """A broker beside the shared one, from the same jars."""
    shared = Path(os.environ.get("PETAWATCH_CACHE") or Path.home() / ".cache" / "petawatch")
    cache = tmp_path / "cache"
    cache.mkdir()
    for jars in shared.glob("kafka-*"):
        (cache / jars.name).symlink_to(jars)
    if not list(cache.iterdir()):
        pytest.skip("the shared Kafka does not run from jars")
    env = {**os.environ, "PETAWATCH_CACHE": str(cache), "PETAWATCH_BUS": ""}
    command = [sys.executable, str(_SERVICES), "start", "--kafka"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    running = Broker(cache, done.stdout.strip().partition("=")[2])
    yield running
    running.end()
    subprocess.run([sys.executable, str(_SERVICES), "stop"], env=env, check=True)


async def test_a_killed_broker_costs_time_and_nothing_else(broker: Broker) -> None:
    bus = KafkaBus(broker.address, clock=SystemClock(), session_timeout_s=3.0, timeout_s=2.0)
    await bus.create_topics([TopicSpec("t", 1, 3600, 2**28)])
    producer = bus.producer()
    await producer.start()
    consumer = bus.consumer(["t"], "group")
    await consumer.start()
    await producer.send([Message("t", b"k", b"before")])
    got = values(await consumer.fetch(10.0))
    await consumer.commit({Partition("t", 0): 1})

    broker.kill()
    for _ in range(2):
        begun_s = time.monotonic()
        with pytest.raises(BusUnavailableError, match=broker.address):
            await producer.send([Message("t", b"k", b"never acknowledged")])
        assert time.monotonic() - begun_s < 6.0
    with pytest.raises(BusUnavailableError):
        await consumer.commit({Partition("t", 0): 1})
    assert await consumer.fetch(0.5) == []

    broker.start()

    async def sent() -> bool:
        with contextlib.suppress(BusUnavailableError):
            await producer.send([Message("t", b"k", b"after")])
            return True
        return False

    await until(sent, 60.0)
    async with asyncio.timeout(60.0):
        while b"after" not in got:
            got += values(await consumer.fetch(1.0))
    # Batches that were given up are not delivered later, behind the sender's back.
    assert got == [b"before", b"after"]

    async def committed() -> bool:
        with contextlib.suppress(BusUnavailableError):
            await consumer.commit({Partition("t", 0): 2})
            return True
        return False

    await until(committed, 60.0)
    assert await consumer.committed(Partition("t", 0)) == 2

    broker.kill()
    begun_s = time.monotonic()
    await consumer.stop()
    await producer.stop()
    assert time.monotonic() - begun_s < 6.0
