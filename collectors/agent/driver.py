"""The life of a backend apart from readings: opened, searched again, lost, let go, taken back.

None of it is on the way of a tick: each step is an errand in a thread, one at
a time, and the library is never closed while a call into it is under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from collectors.agent.folded import FoldedLog
from collectors.agent.lanes import Lanes
from collectors.agent.slots import AWAY, RELEASED, Say
from collectors.agent.threads import Listener, in_thread
from collectors.contract.source import (
    Backend,
    BackendUnavailableError,
    DeviceEvent,
    DriverGoneError,
    RestartNeededError,
    UnsupportedError,
)
from collectors.kit.clock import Clock

_log = logging.getLogger(__name__)
OPEN = "open"
_LISTENS_S = 5.0
"""A call that waits for the driver's events cannot be woken: it keeps a driver that is to be let
go for so long."""


class Driver:
    """`state` is `open`, `away` or `released`; `reason` says why it is not open."""

    def __init__(
        self, backend: Backend, clock: Clock, lanes: Lanes, say: Say, folded: FoldedLog,
        on_events: Callable[[Sequence[DeviceEvent]], object],
        *, rescan_s: float, retry_s: float, release_s: float, stuck_s: float, opened: bool,
        listens: bool,
    ) -> None:  # fmt: skip
        self._backend, self._clock, self._lanes = backend, clock, lanes
        self._say, self._folded = say, folded
        self._rescan_s, self._retry_s, self._release_s = rescan_s, retry_s, release_s
        self._stuck_s, self._listens = stuck_s, listens
        self._listener = Listener(
            "driver_events", backend.wait_events, on_events, self._deaf, longest_s=_LISTENS_S
        )
        self._errand: asyncio.Task[None] | None = None
        self._fatal: RestartNeededError | None = None
        self.state = OPEN if opened else AWAY
        self.reason = "" if opened else "not opened yet"
        self.deaf = "" if listens else "switched off by the setting events"
        """Why the driver's events are not heard."""
        self._was_open = opened
        self._holds = opened
        """Whether the library is open, whatever the state says meanwhile."""
        self._releases = 0
        self._backoff_s = 1.0
        self._due_us = 0
        self._search_us = clock.monotonic_us() + int(rescan_s * 1e6)

    async def start(self, patience_s: float) -> None:
        """Begins to listen; opens where that has not been done, and waits a while for it."""
        if self.state == OPEN:
            self._listen()
            return
        errand = self._begin(self._open)
        await asyncio.wait({errand}, timeout=patience_s)

    def _listen(self) -> None:
        if self._listens:
            self.deaf = ""
            self._listener.start()

    def due(self) -> None:
        """Begins what is due; never waits.  Raises RestartNeededError: only a new process can
        go on."""
        if self._fatal is not None:
            raise self._fatal
        if self._errand is not None and not self._errand.done():
            return
        now_us = self._clock.monotonic_us()
        if self.state == OPEN:
            if now_us >= self._search_us:
                self._search_us = now_us + int(self._rescan_s * 1e6)
                self._begin(self._rescan)
        elif now_us >= self._due_us:
            self._begin(self._open)

    def _begin(self, step: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """After what is under way; nothing that a step raises is lost."""
        before = self._errand

        async def run() -> None:
            if before is not None:
                await asyncio.wait({before})
            try:
                await step()
            except RestartNeededError as error:
                self._fatal = error
            except DriverGoneError as error:
                self.gone(error)
            except Exception:
                _log.exception("driver_errand_failed state=%s", self.state)

        self._errand = asyncio.create_task(run(), name="driver errand")
        return self._errand

    async def _open(self) -> None:
        releases = self._releases
        try:
            await in_thread(self._backend.open, "driver open")
        except RestartNeededError:
            raise
        except Exception as error:
            if self._releases == releases:
                self._wait(error)
            return
        self._holds = True
        if self._releases != releases:
            # Asked to let go meanwhile: the step that does so comes next.
            return
        was_released = self.state == RELEASED
        self.state, self.reason, self._backoff_s = OPEN, "", 1.0
        self._search_us = self._clock.monotonic_us() + int(self._rescan_s * 1e6)
        self._folded.over("driver")
        self._listen()
        if self._was_open or was_released:
            _log.warning("driver_back version=%s", self._backend.driver)
            self._say("driver_back", text=f"driver {self._backend.driver}")
        self._was_open = True

    def _wait(self, error: Exception) -> None:
        if not isinstance(error, BackendUnavailableError):
            _log.error("driver_not_opened error=%r", error)
        self.state, self.reason = AWAY, str(error)
        self._due_us = self._clock.monotonic_us() + int(self._backoff_s * 1e6)
        self._folded.warning(
            "driver", "driver_away retry_s=%.0f at_most_s=%.0f reason=%s",
            self._backoff_s, self._retry_s, error,
        )  # fmt: skip
        self._backoff_s = min(self._backoff_s * 2, self._retry_s)

    async def _rescan(self) -> None:
        try:
            await in_thread(self._backend.rescan, "driver rescan")
        except (DriverGoneError, RestartNeededError):
            raise
        except RuntimeError as error:
            self._folded.warning("rescan", "rescan_failed reason=%s", error)
        else:
            self._folded.over("rescan")

    def search_soon(self) -> None:
        """Something has changed: the next rescan is due at once."""
        self._search_us = self._clock.monotonic_us()

    def gone(self, error: DriverGoneError) -> None:
        """No device can be read: closes, and opens again with patience."""
        if self.state != OPEN:
            return
        self.state, self.reason = AWAY, str(error)
        self._due_us = self._clock.monotonic_us() + int(self._backoff_s * 1e6)
        _log.error("driver_gone reason=%s: opened again with patience", error)
        self._say("driver_gone", text=str(error))
        self._begin(self._let_go)

    def _deaf(self, error: Exception) -> None:
        """The listening thread has ended."""
        if isinstance(error, RestartNeededError):
            self._fatal = error
        elif isinstance(error, DriverGoneError):
            self.gone(error)
        else:
            self.deaf = str(error) if isinstance(error, UnsupportedError) else repr(error)
            _log.info("driver_events_missing reason=%s", self.deaf)

    async def _let_go(self) -> None:
        try:
            async with asyncio.timeout(self._stuck_s):
                await self._close()
        except TimeoutError as error:
            # As long as it hangs the library cannot be closed, and all GPUs would stay dark.
            raise RestartNeededError(
                f"a call into the driver has not come back for {self._stuck_s:.0f} s: only a new "
                "process can let the driver go"
            ) from error

    async def _close(self) -> None:
        await self._listener.stop()
        await self._lanes.idle()
        await in_thread(self._backend.close, "driver close")
        self._holds = False

    def release(self) -> None:
        """Lets the driver go so that operators can unload it; asked again, takes it back."""
        now_us = self._clock.monotonic_us()
        if self.state == RELEASED:
            _log.warning("driver_taken_back")
            self._due_us, self._backoff_s = now_us, 1.0
            return
        self._releases += 1
        self.state, self.reason = RELEASED, "let go at an operator's request"
        self._due_us = now_us + int(self._release_s * 1e6)
        self._begin(self._released)

    async def _released(self) -> None:
        if self._holds:
            await self._let_go()
        text = f"taken back after {self._release_s:.0f} s, or at the next SIGUSR1"
        _log.warning("driver_released %s", text)
        self._say("driver_released", text=text)

    async def end(self, timeout_s: float) -> None:
        """Closes; where a call hangs the process goes without."""
        if self._errand is not None:
            await asyncio.wait({self._errand}, timeout=timeout_s)
            self._errand.cancel()
        if self.state != OPEN:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._close()
        except TimeoutError:
            hung = len(self._lanes.stuck())
            level = logging.WARNING if hung else logging.INFO  # else it waits for events
            _log.log(level, "driver_not_closed calls_under_way=%d: they end with the process", hung)
        except Exception:
            _log.exception("driver_not_closed")
        self._lanes.end()
