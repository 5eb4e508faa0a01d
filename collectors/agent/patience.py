"""Waiting that costs a node little: each hop of the loop, once a second, finds its caches cold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar


class Bell:
    """Wakes the one who waits: a ring while nobody does is heard at the next waiting."""

    def __init__(self) -> None:
        self._rung = False
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wakes; in the loop's thread."""
        self._rung = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def quiet(self) -> None:
        """Forgets what has rung."""
        self._rung = False

    async def wait(self, timeout_s: float | None = None) -> None:
        """Returns when it rings, at once where it has rung, or when the time is up.  One waits at
        a time."""
        if self._rung:
            return
        loop = asyncio.get_running_loop()
        waiting = self._waiting = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(timeout_s, _settle, waiting)
        try:
            await waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()


def _settle(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def limit_from(limit: asyncio.Timeout, asked: asyncio.Task[bool], seconds: float) -> None:
    """From the moment at which something is asked for, what is within `limit` has only so long."""
    if not asked.cancelled():
        with suppress(RuntimeError):  # it has come to its end already
            limit.reschedule(asyncio.get_running_loop().time() + seconds)


_T = TypeVar("_T")


async def patiently(
    work: Awaitable[_T], patience_s: float, meanwhile: Callable[[], Coroutine[Any, Any, object]]
) -> _T:
    """What comes of `work`, awaited in the caller's own task; each time that it has taken so
    long, does `meanwhile` beside it.  Raises what either raises, when neither is under way."""
    loop = asyncio.get_running_loop()
    beside: list[asyncio.Task[object]] = []

    def due() -> None:
        nonlocal timer
        if not beside or beside[0].done():
            beside[:] = [loop.create_task(meanwhile())]
        timer = loop.call_later(patience_s, due)

    timer = loop.call_later(patience_s, due)
    try:
        done = await work
    except asyncio.CancelledError:
        for task in beside:
            task.cancel()
        raise
    finally:
        timer.cancel()
        if beside:
            await asyncio.wait(beside)
    for task in beside:
        task.result()
    return done
