"""Waiting by bells, and work that something else is done beside."""

from __future__ import annotations

import asyncio

import pytest

from collectors.agent.patience import Bell, patiently


async def test_a_ring_is_heard_before_and_while_one_waits() -> None:
    bell = Bell()
    bell.ring()
    await asyncio.wait_for(bell.wait(), 30)
    bell.quiet()
    waiting = asyncio.create_task(bell.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    bell.ring()
    bell.ring()
    await asyncio.wait_for(waiting, 30)


async def test_one_who_gives_up_leaves_the_bell_as_it_was() -> None:
    bell = Bell()
    waiting = asyncio.create_task(bell.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    bell.ring()
    await asyncio.wait_for(bell.wait(), 30)


class Beside:
    """Counts how often it is done, and holds out until it is let go."""

    def __init__(self) -> None:
        self.times = self.over = 0
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        self.times += 1
        self.begun.set()
        await self.go.wait()
        self.over += 1


async def test_quick_work_has_nothing_beside_it() -> None:
    beside = Beside()
    assert await patiently(asyncio.sleep(0, "done"), 60.0, beside) == "done"
    assert beside.times == 0


async def test_what_is_done_beside_ends_first_and_is_never_done_twice_at_once() -> None:
    beside = Beside()
    slow = asyncio.get_running_loop().create_future()
    whole = asyncio.create_task(patiently(slow, 0.001, beside))
    await beside.begun.wait()
    slow.set_result("late")
    await asyncio.sleep(0.01)
    assert not whole.done()
    assert beside.times == 1
    beside.go.set()
    assert await whole == "late"
    assert beside.over == 1


async def test_a_cancellation_reaches_both() -> None:
    beside = Beside()
    slow = asyncio.get_running_loop().create_future()
    whole = asyncio.create_task(patiently(slow, 0.001, beside))
    await beside.begun.wait()
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    assert slow.cancelled()
    assert beside.over == 0


async def test_the_failure_of_either_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await patiently(fail(), 60.0, Beside())
    with pytest.raises(ValueError, match="no"):
        await patiently(asyncio.sleep(0.05), 0.001, fail)
