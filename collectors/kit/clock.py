"""The only place that asks the operating system for the time."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Wall and monotonic time, passed in so that tests and simulation can set it."""

    def wall_us(self) -> int:
        """µs since 1970 UTC."""
        ...

    def monotonic_us(self) -> int:
        """µs of a clock that never steps."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_us(self) -> int:
        """µs since 1970 UTC."""
        return time.time_ns() // 1000

    def monotonic_us(self) -> int:
        """µs of a clock that never steps."""
        return time.monotonic_ns() // 1000

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(max(0.0, seconds))


class EventClock:
    """Event time of a run: the wall clock at its start plus the monotonic clock, slewed.

    The wall clock's offset is followed by at most `slew` seconds per second,
    so time never runs back.  A step above `step_us` makes `stepped` true: the
    caller then begins a new run with a new EventClock.
    """

    def __init__(self, clock: Clock, *, slew: float = 500e-6, step_us: int = 1_000_000) -> None:
        self._clock = clock
        self._slew = slew
        self._step_us = step_us
        self._monotonic_us = clock.monotonic_us()
        self._time_us = clock.wall_us()
        self.stepped = False

    def now_us(self) -> int:
        """Event time in µs since 1970; strictly increasing from call to call."""
        monotonic_us = self._clock.monotonic_us()
        elapsed_us = monotonic_us - self._monotonic_us
        reached_us = self._time_us + elapsed_us
        error_us = self._clock.wall_us() - reached_us
        self.stepped = self.stepped or abs(error_us) > self._step_us
        most_us = int(elapsed_us * self._slew)
        if not self.stepped:
            reached_us += max(-most_us, min(most_us, error_us))
        self._monotonic_us = monotonic_us
        self._time_us = max(reached_us, self._time_us + 1)
        return self._time_us
