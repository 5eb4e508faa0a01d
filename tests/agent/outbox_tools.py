"""An outbox with a bus that a test switches, and a spool whose process can be killed."""

from __future__ import annotations

import asyncio
import shutil
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

from manual_clock import ManualClock

from collectors.agent.outbox import Outbox
from collectors.agent.spool import SPOOL_BYTES, Spool
from collectors.contract.bus import BusUnavailableError, Message, RefusedError, TopicMissingError
from collectors.contract.topics import GPU


class SteppedClock(ManualClock):
    """Who sleeps by it wakes up once a test has moved it so far."""

    async def sleep(self, seconds: float) -> None:
        """Waits for the test."""
        until_us = self.monotonic + seconds * 1e6
        while self.monotonic < until_us:  # noqa: ASYNC110 - the test's own loop moves it
            await asyncio.sleep(0.001)


class SwitchedProducer:
    """A bus that a test turns off and on; refuses what is longer than `longest`."""

    def __init__(self) -> None:
        self.away = False
        self.longest = 100
        self.taken: list[Message] = []
        self.attempts = 0
        self.missing: set[str] = set()
        self.goes_on = asyncio.Event()
        """Unset: it takes nothing and says nothing, as a broker behind a dead switch."""
        self.goes_on.set()

    @property
    def texts(self) -> list[str]:
        """What it took, in order."""
        return [one.value.decode() for one in self.taken]

    async def start(self) -> None:
        """Nothing to do."""

    async def send(self, messages: Sequence[Message]) -> None:
        """As switched."""
        self.attempts += 1
        await asyncio.sleep(0)
        await self.goes_on.wait()
        if self.away:
            raise BusUnavailableError("off")
        for one in messages:
            if one.topic in self.missing:
                raise TopicMissingError(one.topic)
        refused = [one for one in messages if len(one.value) > self.longest]
        self.taken += [one for one in messages if one not in refused]
        if refused:
            raise RefusedError("too long", refused)

    async def stop(self) -> None:
        """Nothing to do."""


def message(text: str, topic: str = GPU, key: bytes = b"n1") -> Message:
    """A record."""
    return Message(topic, key, text.encode())


def falls(numbers: Sequence[int]) -> int:
    """The fewest rising rows that a sequence can be a mixture of: its longest falling one."""
    ends: list[int] = []
    for number in numbers:
        at = bisect_left(ends, -number)
        ends[at : at + 1] = [-number]
    return len(ends)


class CopiedSpool(Spool):
    """A spool of whose file an image can be taken, as a power cut would leave it."""

    async def copy(self, image: Path) -> None:
        """Between two transactions."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._copy, image)

    def _copy(self, image: Path) -> None:
        for ending in ("", "-wal"):
            part = self._path.with_name(self._path.name + ending)
            if part.exists():
                shutil.copy(part, image.with_name(image.name + ending))


class Line:
    """An outbox with its spool, running."""

    def __init__(
        self, path: Path | None, *, most: int = 10_000, most_bytes: int = SPOOL_BYTES,
        spool_rate: float = 1e6, producer: SwitchedProducer | None = None,
    ) -> None:  # fmt: skip
        self.clock = SteppedClock()
        self.path = path or Path()
        self.producer = producer or SwitchedProducer()
        self.disk = None if path is None else CopiedSpool(path, self.clock, most_bytes=most_bytes)
        self.outbox = Outbox(
            self.producer, self.clock, spool=self.disk, most=most, spool_rate=spool_rate,
            patience_s=0.02,
        )  # fmt: skip
        self.stop = asyncio.Event()
        self.killed = False

    @property
    def spool(self) -> CopiedSpool:
        """The spool, where there is one."""
        assert self.disk is not None
        return self.disk

    async def __aenter__(self) -> Line:
        if self.disk is not None:
            await self.disk.open()
            self.found, self.dropped_before = self.disk.left, self.disk.dropped
        self.task = asyncio.create_task(self.outbox.run(self.stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        if not self.killed:
            await asyncio.wait_for(self.task, 30)
        if self.disk is not None:
            await self.disk.close()

    async def until(self, condition: Callable[[], bool], *, step_s: float = 0.0) -> None:
        """Waits for what the test is about, at most 30 s, the clock going on by `step_s` a turn."""
        async with asyncio.timeout(30):
            while not condition():
                self.clock.move(step_s)
                await asyncio.sleep(0.002)

    async def kill(self, image: Path) -> None:
        """Ends as kill -9 would: what the disk holds at this moment stays in `image`, no more."""
        await self.spool.copy(image)
        self.task.cancel()
        await asyncio.wait({self.task})
        self.killed = True

    def balanced(self) -> bool:
        """Nothing is lost without being counted: both sums of OutboxCounts."""
        counts = self.outbox.counts
        out = counts.sent + counts.spooled + counts.refused + counts.dropped + self.outbox.queued
        if counts.put + counts.unspooled != out:
            return False
        if self.disk is None or not self.outbox.is_safe:
            return True
        dropped = self.disk.dropped - self.dropped_before - counts.dropped
        left = self.disk.left - self.outbox.copies
        return self.found + counts.spooled == counts.unspooled + dropped + left
