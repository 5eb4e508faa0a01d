"""An agent's loop, outbox and spool on a clock that runs fast, in a process to be killed.

`agent_child.py BROKER PREFIX SPOOL JOURNAL` reads two GPUs whose energy counters
outlive it.  Before a record is handed to the outbox, `put RUN SEQUENCE` is in
the journal; `safe` stands there whenever nothing was in memory alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from scripted_node import ScriptedBackend, ScriptedDevice

from collectors.agent.agent import Agent, AgentSettings
from collectors.agent.outbox import Outbox
from collectors.agent.spool import Spool
from collectors.contract.bus import Message
from collectors.contract.record import NodeRecord
from collectors.contract.topics import EVENTS, GPU, Event, dumps
from collectors.contract.wire import encode
from collectors.kit.kafka_producer import KafkaProducer
from collectors.kit.lifecycle import stop_signals

NODE, SLOTS, POWER_W = "n1", (1 << 16, 2 << 16), (300, 450)
SPEED, INTERVAL_S, SPOOL_RATE = 60, 2.0, 2.0
LONGEST_GAP_US = int(5 * INTERVAL_S * 1e6)
"""As the agent's loop has it."""


class FastClock:
    """SPEED times as fast as life since 2023; every process finds the same wall time."""

    def wall_us(self) -> int:
        """µs since 1970 of the fast world."""
        return 1_700_000_000_000_000 + (time.time_ns() // 1000 % (7 * 86_400_000_000)) * SPEED

    def monotonic_us(self) -> int:
        """µs, as fast."""
        return time.monotonic_ns() // 1000 * SPEED

    async def sleep(self, seconds: float) -> None:
        """Waits for so long in the fast world."""
        await asyncio.sleep(max(0.0, seconds) / SPEED)


def energy_mj(clock: FastClock, index: int) -> int:
    """What the driver's counter of a GPU says: it goes on while no agent runs."""
    return (clock.wall_us() - 1_700_000_000_000_000) * POWER_W[index] // 1000


def backend(clock: FastClock) -> ScriptedBackend:
    """Two busy GPUs."""

    def reader(device: ScriptedDevice, index: int) -> Callable[[], None]:
        def read() -> None:
            device.values = {
                "gpu_utilization": 0.9, "power_w": POWER_W[index],
                "energy_mj": energy_mj(clock, index),
            }  # fmt: skip

        return read

    devices = [ScriptedDevice(slot, {}, "NVIDIA H800") for slot in SLOTS]
    for index, device in enumerate(devices):
        device.before_read = reader(device, index)
    return ScriptedBackend(devices)


class Journal:
    """Lines that are on disk before the next thing happens."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def note(self, text: str) -> None:
        """Writes a line."""
        self._file.write(text + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


async def run(broker: str, prefix: str, spool_path: Path, journal: Journal) -> None:
    """Until SIGTERM."""
    clock = FastClock()
    producer = KafkaProducer(broker, timeout_s=2.0)
    spool = Spool(spool_path, clock, topic_prefix=prefix)
    await spool.open()
    outbox = Outbox(producer, clock, spool=spool, spool_rate=SPOOL_RATE)

    def on_record(record: NodeRecord) -> None:
        journal.note(f"put {record.run} {record.sequence}")
        outbox.put(
            Message(prefix + GPU, record.node.encode(), encode(record), record.time_us + 20_000)
        )

    def on_event(event: Event) -> None:
        outbox.put(Message(prefix + EVENTS, event.node.encode(), dumps(event)))

    agent = Agent(backend(clock), clock, AgentSettings(NODE, INTERVAL_S), on_record, on_event)
    stop, stop_outbox = asyncio.Event(), asyncio.Event()
    delivering = asyncio.create_task(outbox.run(stop_outbox))
    with stop_signals(stop):
        while not stop.is_set():
            await agent.tick()
            await clock.sleep(INTERVAL_S)
            if outbox.is_safe:
                journal.note("safe")
    stop_outbox.set()
    await delivering
    await spool.close()
    await producer.stop()
    journal.note(f"end queued={outbox.queued} left={spool.left} dropped={spool.dropped}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    _, to, before, spooled, noted = sys.argv
    with Path(noted).open("a", encoding="utf-8") as out:
        asyncio.run(run(to, before, Path(spooled), Journal(out)))
