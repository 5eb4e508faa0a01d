"""Starts parts together, stops them in the direction in which data flows.

First signal: each stage is asked to stop after the one before it has drained,
all within one deadline.  Second signal: out at once.  A stage that fails stops
the others in the same order and is reported.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from collectors.kit.clock import Clock

_log = logging.getLogger(__name__)
_HEARTBEAT_S = 5.0


class StageFailedError(RuntimeError):
    """A stage ended with an error; it is the cause."""

    def __init__(self, stage: str, error: BaseException) -> None:
        super().__init__(f"{stage} failed: {error or type(error).__name__}")
        self.stage = stage


@dataclass(frozen=True, slots=True)
class Stage:
    """A part that runs until its own stop event is set, drains and returns.

    One that returns earlier has come to its end; the others go on.
    """

    name: str
    run: Callable[[asyncio.Event], Awaitable[None]]


@contextmanager
def stop_signals(stop: asyncio.Event) -> Generator[None]:
    """Within it the first SIGTERM or SIGINT sets `stop`; the second ends the process.

    Where PETAWATCH_HEARTBEAT names a file, it is touched every 5 s for as long as
    the loop runs: a container's health check looks at its age.  Must be entered
    in the running loop of the main thread.
    """
    loop = asyncio.get_running_loop()
    heartbeat = _Heartbeat(loop, os.environ.get("PETAWATCH_HEARTBEAT"))

    def on_signal(number: int) -> None:
        if stop.is_set():
            _log.error("stopped_at_once signal=%d", number)
            # Nothing may hold this up, no thread and no finaliser: that is what it is for.
            os._exit(128 + number)
        _log.info("stopping signal=%d", number)
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, on_signal, int(number))
    heartbeat.beat()
    try:
        yield
    finally:
        heartbeat.end()
        for number in numbers:
            loop.remove_signal_handler(number)


class _Heartbeat:
    """Touches a file from within the loop, so that a loop that hangs is seen."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str | None) -> None:
        self._loop = loop
        self._path = Path(path) if path else None
        self._next: asyncio.TimerHandle | None = None

    def beat(self) -> None:
        if self._path is not None:
            self._path.touch()
            self._next = self._loop.call_later(_HEARTBEAT_S, self.beat)

    def end(self) -> None:
        if self._next is not None:
            self._next.cancel()


async def run_stages(
    stages: Sequence[Stage], stop: asyncio.Event, clock: Clock, *, deadline_s: float = 10.0
) -> None:
    """Runs the stages, given in the order in which data flows, until `stop` or all have ended.

    From then on each is asked to stop once the one before has returned; what
    still runs after `deadline_s` in all is cancelled.  Raises StageFailedError
    with the first failure.
    """
    stops = [asyncio.Event() for _ in stages]
    failures: list[StageFailedError] = []
    tasks = [
        asyncio.create_task(_guarded(stage, event, failures), name=stage.name)
        for stage, event in zip(stages, stops, strict=True)
    ]
    asked: asyncio.Task[bool] = asyncio.create_task(stop.wait(), name="stop")
    try:
        await _first_end(tasks, asked, failures)
        await _drain(tasks, stops, clock.monotonic_us() + int(deadline_s * 1e6), clock)
    finally:
        ends: list[asyncio.Task[None] | asyncio.Task[bool]] = [*tasks, asked]
        for task in ends:
            task.cancel()
        await asyncio.wait(ends)
    if failures:
        raise failures[0]


async def _guarded(stage: Stage, stop: asyncio.Event, failures: list[StageFailedError]) -> None:
    try:
        await stage.run(stop)
    except Exception as error:
        _log.exception("stage_failed stage=%s", stage.name)
        failed = StageFailedError(stage.name, error)
        failed.__cause__ = error
        failures.append(failed)


async def _first_end(
    tasks: Sequence[asyncio.Task[None]],
    asked: asyncio.Task[bool],
    failures: Sequence[StageFailedError],
) -> None:
    """Returns when stop is asked for, a stage has failed, or none is left."""
    running = set(tasks)
    while running and not asked.done() and not failures:
        waiting: set[asyncio.Task[None] | asyncio.Task[bool]] = {*running, asked}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        running = {task for task in running if not task.done()}


async def _drain(
    tasks: Sequence[asyncio.Task[None]],
    stops: Sequence[asyncio.Event],
    deadline_us: int,
    clock: Clock,
) -> None:
    for task, event in zip(tasks, stops, strict=True):
        event.set()
        left_s = max(0.0, (deadline_us - clock.monotonic_us()) / 1e6)
        _, late = await asyncio.wait({task}, timeout=left_s)
        if late:
            _log.error("stage_cancelled stage=%s reason=deadline", task.get_name())
            task.cancel()
