"""A simulated site in real time, each record sent at its own moment, as nodes of their own would."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from collectors.contract.bus import Message, Producer
from collectors.contract.source import SourceOptions
from collectors.contract.topics import ALLOC
from collectors.kit.clock import SystemClock
from collectors.simulator.source import create
from pipeline.bus import open_bus

_CLOCK = SystemClock()
_AHEAD_S = 0.8
"""The simulator works so much before its time, and each record is sent when it is due."""
_SLICE_US = 10_000


class AsNodesDo:
    """A producer that sends each message when it is due, as nodes of their own would, and leaves
    claims out.  What it is given must come early enough."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._sending = set[asyncio.Task[None]]()

    async def start(self) -> None:
        await self._producer.start()

    async def send(self, messages: Sequence[Message]) -> None:
        due = dict[int, list[Message]]()
        for one in messages:
            if not one.topic.endswith(ALLOC):
                slice_us = (one.arrival_us or 0) // _SLICE_US * _SLICE_US
                due.setdefault(slice_us, []).append(dataclasses.replace(one, arrival_us=None))
        for due_us, some in due.items():
            task = asyncio.create_task(self._send_at(due_us, some))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send_at(self, due_us: int, messages: Sequence[Message]) -> None:
        await _CLOCK.sleep(max(0.0, (due_us - _CLOCK.wall_us()) / 1e6))
        await self._producer.send(messages)

    async def stop(self) -> None:
        await asyncio.gather(*self._sending)
        await self._producer.stop()


async def simulate(url: str, prefix: str, site: str, start_us: int, scenario: Path) -> None:
    """The site in real time, until it is ended from outside."""
    options = SourceOptions(
        site=site, speed=1.0, start_us=start_us, topic_prefix=prefix,
        extra={"observable": "off", "scenario": str(scenario)},
    )  # fmt: skip
    bus = open_bus(url, _CLOCK)
    producer = AsNodesDo(bus.producer())
    await producer.start()
    source = create(options, _CLOCK)
    early_s = (start_us - _CLOCK.wall_us()) / 1e6
    if early_s < _AHEAD_S:
        raise RuntimeError(
            f"began {_AHEAD_S - early_s:.1f} s too late: this machine has too much to do"
        )
    await _CLOCK.sleep(early_s - _AHEAD_S)
    await source.run(producer, asyncio.Event())
