"""The outbox: fresh first, then the spool in order, and every message accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from manual_clock import ManualClock

from collectors.agent.outbox import Outbox
from collectors.agent.spool import Spool
from collectors.contract.bus import BusUnavailableError, Message, RefusedError
from collectors.contract.topics import EVENTS, GPU
from collectors.kit.clock import SystemClock


class SwitchedProducer:
    """A bus that a test turns off and on; refuses what is longer than `longest`."""

    def __init__(self) -> None:
        self.away = False
        self.longest = 100
        self.taken: list[bytes] = []
        self.attempts = 0

    async def start(self) -> None:
        """Nothing to do."""

    async def send(self, messages: Sequence[Message]) -> None:
        """As switched."""
        self.attempts += 1
        await asyncio.sleep(0)
        if self.away:
            raise BusUnavailableError("off")
        refused = [one for one in messages if len(one.value) > self.longest]
        self.taken += [one.value for one in messages if one not in refused]
        if refused:
            raise RefusedError("too long", refused)

    async def stop(self) -> None:
        """Nothing to do."""


def message(text: str) -> Message:
    return Message(EVENTS if text.startswith("event") else GPU, b"n1", text.encode())


class Line:
    """An outbox with its spool, running."""

    def __init__(self, path: Path | None, *, most: int = 10_000) -> None:
        self.clock = ManualClock()
        self.producer = SwitchedProducer()
        self.spool = None if path is None else Spool(path, SystemClock())
        self.outbox = Outbox(self.producer, self.clock, spool=self.spool, most=most)
        self.stop = asyncio.Event()

    async def __aenter__(self) -> Line:
        if self.spool is not None:
            await self.spool.open()
        self.task = asyncio.create_task(self.outbox.run(self.stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 10)
        if self.spool is not None:
            await self.spool.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for what the test is about, at most 10 s."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - a test may wait for anything
                await asyncio.sleep(0.005)

    def balanced(self) -> bool:
        """Nothing is lost without being counted."""
        counts = self.outbox.counts
        out = counts.sent + counts.spooled + counts.refused + counts.dropped + self.outbox.queued
        return counts.put + counts.unspooled == out


async def test_passes_on_in_order(tmp_path: Path) -> None:
    async with Line(tmp_path / "spool") as line:
        for number in range(50):
            line.outbox.put(message(f"{number}"))
        await line.until(lambda: len(line.producer.taken) == 50)
    assert line.producer.taken == [f"{number}".encode() for number in range(50)]
    assert line.balanced()


async def test_bus_away_and_back(tmp_path: Path) -> None:
    """What was spooled comes after the fresh, in its order, from both topics."""
    async with Line(tmp_path / "spool") as line:
        line.producer.away = True
        for number in range(20):
            line.outbox.put(message(f"old {number}"))
        await line.until(lambda: line.outbox.counts.spooled == 20)
        attempts = line.producer.attempts
        line.outbox.put(message("event while away"))
        await line.until(lambda: line.outbox.counts.spooled == 21)
        assert line.producer.attempts == attempts  # the bus is left alone for a while
        line.producer.away = False
        line.clock.move(60)
        line.outbox.put(message("fresh"))
        await line.until(lambda: len(line.producer.taken) == 22)
        assert line.producer.taken[0] == b"fresh"
        records = [text for text in line.producer.taken if text.startswith(b"old")]
        assert records == [f"old {number}".encode() for number in range(20)]
        assert b"event while away" in line.producer.taken
        await line.until(lambda: line.outbox.counts.unspooled == 21)
        assert line.spool is not None
        assert await line.spool.left() == 0
        assert line.balanced()


async def test_what_an_earlier_process_spooled_is_sent(tmp_path: Path) -> None:
    async with Line(tmp_path / "spool") as line:
        line.producer.away = True
        line.outbox.put(message("from before"))
        await line.until(lambda: line.outbox.counts.spooled == 1)
    async with Line(tmp_path / "spool") as line:
        await line.until(lambda: line.producer.taken == [b"from before"])


async def test_stop_with_the_bus_away_keeps_everything(tmp_path: Path) -> None:
    async with Line(tmp_path / "spool") as line:
        line.producer.away = True
        for number in range(5):
            line.outbox.put(message(f"{number}"))
    assert line.outbox.counts.spooled == 5
    assert line.outbox.counts.dropped == 0
    assert line.balanced()


async def test_refused_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with Line(tmp_path / "spool") as line:
        for text in ("a", "b" * 200, "c"):
            line.outbox.put(message(text))
        await line.until(lambda: line.producer.taken == [b"a", b"c"])
        assert line.outbox.counts.refused == 1
        assert line.balanced()


async def test_without_a_spool_the_queue_is_bounded() -> None:
    async with Line(None, most=10) as line:
        line.producer.away = True
        line.outbox.put(message("first"))
        await line.until(lambda: line.producer.attempts == 1)
        for number in range(30):
            line.outbox.put(message(f"{number}"))
        await asyncio.sleep(0)
        assert line.outbox.queued <= 10
        assert line.outbox.counts.dropped == 21
        assert line.balanced()
        line.producer.away = False
        line.clock.move(60)
    assert line.producer.taken == [f"{number}".encode() for number in range(20, 30)]
