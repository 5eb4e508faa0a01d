"""One tick after the other by timers and callbacks: a task's steps would cost the loop turns, each
as dear as a third of a GPU's readings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from collectors.kit.clock import Clock

Then = Callable[[Exception | None], object]
"""Called at a tick's end, with what it has raised."""
Cancel = Callable[[], object]
"""Ends a tick before that; nothing after it."""


async def through(begin: Callable[[Then], Cancel]) -> None:
    """One tick, awaited.  Raises what it raises."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancel = begin(lambda error: _settle(over, error))
    try:
        await asyncio.sleep(0)  # as between two ticks of a beat, others have a turn
        await over
    finally:
        cancel()


def _settle(over: asyncio.Future[None], error: Exception | None) -> None:
    if over.done():
        return
    if error is None:
        over.set_result(None)
    else:
        over.set_exception(error)


class Beat:
    """Begins a tick at each interval of the monotonic clock; the marks that a long one runs over
    are left out.  `ticked` says after each whether there is another."""

    def __init__(
        self, clock: Clock, interval_s: float, begin: Callable[[Then], Cancel],
        ticked: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._clock, self._interval_us = clock, int(interval_s * 1e6)
        self._begin, self._ticked = begin, ticked
        self._due_us = 0

    async def run(self, stopping: asyncio.Task[bool]) -> None:
        """Until `stopping` is done (a tick that is under way comes to its end) or there is no
        other tick.  Raises what a tick raises."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        under_way: list[Cancel] = []
        timer: list[asyncio.TimerHandle] = []

        def begin() -> None:
            under_way[:] = [lambda: None]
            cancel = self._begin(ended)
            if under_way:
                under_way[:] = [cancel]

        def ended(error: Exception | None) -> None:
            under_way.clear()
            if over.done():
                return
            try:
                goes_on = error is None and self._ticked()
            except Exception as caught:
                error, goes_on = caught, False
            if goes_on and not stopping.done():
                timer[:] = [loop.call_later(self._left_s(), begin)]
            else:
                _settle(over, error)

        def asked(_: object) -> None:
            if not under_way:
                _settle(over, None)

        self._due_us = self._clock.monotonic_us()
        stopping.add_done_callback(asked)
        begin()
        try:
            await over
        finally:
            stopping.remove_done_callback(asked)
            for cancel in (*under_way, *(one.cancel for one in timer)):
                cancel()

    def _left_s(self) -> float:
        """Seconds until the next mark."""
        now_us, interval_us = self._clock.monotonic_us(), self._interval_us
        self._due_us += interval_us * max(1, -(-(now_us - self._due_us) // interval_us))
        return (self._due_us - now_us) / 1e6
