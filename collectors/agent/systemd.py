"""Tells a supervisor that the agent is ready and alive: sd_notify(3) without its library."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping

from collectors.kit.clock import Clock

_log = logging.getLogger(__name__)


class Supervisor:
    """systemd, where NOTIFY_SOCKET names its socket; else nobody.

    `alive` is called when a tick has really happened, so that an agent whose
    loop hangs is ended and started again.
    """

    def __init__(self, clock: Clock, environ: Mapping[str, str] = os.environ) -> None:
        self._clock = clock
        self._address = environ.get("NOTIFY_SOCKET", "")
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        limit = environ.get("WATCHDOG_USEC", "") if mine else ""
        # Twice as often as systemd advises, since ticks do not fall on our marks.
        self._every_us = int(limit) // 4 if limit.isdigit() else None
        self._ready = False
        self._due_us = 0

    def alive(self, status: Callable[[], str]) -> None:
        """A tick has happened; `status` gives a line for people, where it is wanted."""
        if not self._address:
            return
        now_us = self._clock.monotonic_us()
        if not self._ready:
            self._ready = True
            self._say(f"READY=1\nSTATUS={status()}")
        if self._every_us is not None and now_us >= self._due_us:
            self._due_us = now_us + self._every_us
            self._say(f"WATCHDOG=1\nSTATUS={status()}")

    def stopping(self) -> None:
        """The end has begun."""
        if self._address:
            self._say("STOPPING=1")

    def _say(self, text: str) -> None:
        # A leading @ is an abstract name, which the kernel writes with a zero byte.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(text.encode(), address)
        except OSError as error:
            _log.warning("supervisor_not_told reason=%s", error)
