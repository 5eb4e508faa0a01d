"""Ticks by callbacks: at their marks, ended by a stop, and nothing of theirs lost."""

from __future__ import annotations

import asyncio

import pytest
from manual_clock import ManualClock

from collectors.agent.beat import Beat, Cancel, Then, through
from collectors.kit.clock import SystemClock


class Ticks:
    """Counts what a beat asks for; a tick ends at once, or when the test says so."""

    def __init__(self, most: int = 3) -> None:
        self.began = self.ended = self.cancelled = 0
        self.most = most
        self.error: Exception | None = None
        self.open: Then | None = None
        self.stays_open = False

    def begin(self, then: Then) -> Cancel:
        """A tick."""
        self.began += 1
        if self.stays_open:
            self.open = then
        else:
            then(self.error)
        return self.cancel

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.cancelled += 1

    def ticked(self) -> bool:
        """There are `most` of them."""
        self.ended += 1
        return self.ended < self.most


def beat(ticks: Ticks, interval_s: float = 0.001) -> Beat:
    """Of a system's clock."""
    return Beat(SystemClock(), interval_s, ticks.begin, ticks.ticked)


async def never() -> bool:
    """A stop that is not asked for."""
    return await asyncio.Event().wait()


async def test_ticks_until_there_is_no_other() -> None:
    ticks, stopping = Ticks(), asyncio.create_task(never())
    await beat(ticks).run(stopping)
    assert (ticks.began, ticks.ended, ticks.cancelled) == (3, 3, 0)
    stopping.cancel()


async def test_a_stop_between_ticks_is_heard_at_once_and_one_within_waits_for_its_end() -> None:
    for stays_open in (False, True):
        ticks, stop = Ticks(), asyncio.Event()
        ticks.stays_open = stays_open
        running = asyncio.create_task(beat(ticks, 3600.0).run(asyncio.create_task(stop.wait())))
        await asyncio.sleep(0)
        stop.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert running.done() is not stays_open
        if ticks.open is not None:
            ticks.open(None)
        await running
        assert (ticks.began, ticks.ended, ticks.cancelled) == (1, 1, 0)


async def test_what_a_tick_or_what_follows_it_raises_ends_the_beat() -> None:
    ticks, stopping = Ticks(), asyncio.create_task(never())
    ticks.error = ValueError("a tick's")
    with pytest.raises(ValueError, match="a tick's"):
        await beat(ticks).run(stopping)
    with pytest.raises(ValueError, match="a tick's"):
        await through(ticks.begin)

    def ticked() -> bool:
        raise ValueError("what follows it")

    with pytest.raises(ValueError, match="what follows"):
        await Beat(SystemClock(), 1.0, Ticks().begin, ticked).run(stopping)
    stopping.cancel()


async def test_who_is_cancelled_ends_the_tick_that_is_under_way() -> None:
    ticks, stopping = Ticks(), asyncio.create_task(never())
    ticks.stays_open = True
    running = asyncio.create_task(beat(ticks).run(stopping))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (ticks.began, ticks.cancelled) == (1, 1)
    assert ticks.open is not None
    ticks.open(None)  # too late, and nothing comes of it
    assert (ticks.began, ticks.ended) == (1, 0)
    stopping.cancel()


async def test_marks_that_a_long_tick_runs_over_are_left_out() -> None:
    clock, ticks = ManualClock(), Ticks(most=1)
    stopping = asyncio.create_task(never())
    one = Beat(clock, 1.0, ticks.begin, ticks.ticked)
    await one.run(stopping)
    clock.move(2.25)
    assert one._left_s() == pytest.approx(0.75)  # pyright: ignore[reportPrivateUsage]
    assert one._left_s() == pytest.approx(1.75)  # pyright: ignore[reportPrivateUsage]
    stopping.cancel()
