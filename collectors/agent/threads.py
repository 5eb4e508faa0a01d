"""Blocking calls beside the loop, in daemon threads of their own.

A call into a broken driver may hang for half a minute or for ever.  A pool of
the standard library would wait for it at the end; these threads do not.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from collectors.contract.source import (
    DeviceEvent,
    DriverGoneError,
    RestartNeededError,
    UnsupportedError,
)

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_PAUSE_S = 1.0


def tell(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Calls in the loop, from another thread; nothing where the loop has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


async def in_thread(call: Callable[[], _T], name: str) -> _T:
    """The call's result; cancelling does not end the call, only the waiting."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type] -- a result where no error is

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            caught = error
            tell(loop, lambda: settle(None, caught))
        else:
            tell(loop, lambda: settle(result, None))

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future


class Listener:
    """Waits for reports in a thread of its own and hands them on in the loop.

    `wait` blocks for the seconds it is given at most: `timeout_s`, and twice as
    many each time that nothing came, up to `longest_s`, since each waking costs
    as much as a tenth of a GPU's readings.  What ends it goes to `on_end`
    (UnsupportedError, DriverGoneError, RestartNeededError or what nobody foresaw);
    any other RuntimeError costs a second.
    """

    def __init__(
        self,
        name: str,
        wait: Callable[[float], Sequence[DeviceEvent]],
        on_events: Callable[[Sequence[DeviceEvent]], object],
        on_end: Callable[[Exception], object],
        *,
        timeout_s: float = 1.0,
        longest_s: float = 1.0,
    ) -> None:
        self._name, self._wait = name, wait
        self._on_events, self._on_end = on_events, on_end
        self._timeout_s, self._longest_s = timeout_s, max(timeout_s, longest_s)
        self._stop = threading.Event()
        self._ended: asyncio.Event | None = None

    def start(self) -> None:
        """Begins, in the running loop; nothing where it runs already."""
        if self._ended is not None and not self._ended.is_set():
            return
        self._stop, self._ended = threading.Event(), asyncio.Event()
        threading.Thread(
            target=self._run, name=self._name, daemon=True,
            args=(asyncio.get_running_loop(), self._stop, self._ended),
        ).start()  # fmt: skip

    async def stop(self) -> None:
        """Returns when the thread is out of its call, which may be never: bound the waiting."""
        self._stop.set()
        if self._ended is not None:
            await self._ended.wait()

    def _run(
        self, loop: asyncio.AbstractEventLoop, stop: threading.Event, ended: asyncio.Event
    ) -> None:
        timeout_s = self._timeout_s
        while not stop.is_set():
            try:
                events = self._wait(timeout_s)
            except (UnsupportedError, DriverGoneError, RestartNeededError) as error:
                self._end(loop, error)
                break
            except RuntimeError as error:
                _log.info("%s_failed reason=%s", self._name, error)
                stop.wait(_PAUSE_S)
                continue
            except Exception as error:
                _log.exception("%s_broken", self._name)
                self._end(loop, error)
                break
            timeout_s = min(2 * timeout_s, self._longest_s)
            if events:
                timeout_s = self._timeout_s
                tell(loop, lambda found=events: self._on_events(found))
        tell(loop, ended.set)

    def _end(self, loop: asyncio.AbstractEventLoop, error: Exception) -> None:
        tell(loop, lambda: self._on_end(error))
