"""Lets many threads into the driver at once, and one restart the library when none is in it."""

from __future__ import annotations

import threading
from types import TracebackType

from collectors.contract.source import TransientError


class Gate:
    """Entered by each call to the driver.  While it is shut, entering raises TransientError at
    once: a tick without values is better than one that waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._lock:
            if self._shut:
                raise TransientError("the library is being started again")
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._shut:
                self._changed.notify_all()

    def shut(self, timeout_s: float) -> bool:
        """Keeps others out and waits until nobody is inside; False where somebody stays (a call
        that hangs).  `reopen` must follow either way."""
        with self._changed:
            self._shut = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._inside == 0, timeout_s)

    def reopen(self) -> None:
        """Lets others in again."""
        with self._changed:
            self._shut = False
            self._changed.notify_all()

    def wait_open(self, timeout_s: float) -> bool:
        """Waits while it is shut; whether it is open."""
        if not self._shut:
            return True
        with self._changed:
            return self._changed.wait_for(lambda: not self._shut, timeout_s)

    def wait_shut(self, timeout_s: float) -> None:
        """Waits so long, or until it is shut: for what should not be tried again at once."""
        with self._changed:
            self._changed.wait_for(lambda: self._shut, timeout_s)
