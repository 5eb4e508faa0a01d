"""How many lines a request may have: fewer while the server is too slow for more."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

_QUICK = 4
"""A request answered within this part of the patience may be twice as large the next time."""


class Pace:
    """Halves the size of requests after a timeout, down to `least` lines, and doubles it again
    after quick answers, up to `most`.  Safe to use from several threads."""

    def __init__(self, timeout_s: float, *, least: int = 10, most: int = 5_000) -> None:
        self._quick_us = int(timeout_s * 1e6) // _QUICK
        self._least, self._most = least, most
        self._lock = Lock()
        self.lines = most
        """Lines of a request at most, now."""

    def pieces(self, body: bytes) -> Iterator[tuple[bytes, int]]:
        """The lines of `body` as requests and their numbers of lines; each of the size that
        holds when it is asked for."""
        count = body.count(b"\n") + (not body.endswith(b"\n"))
        if count <= self.lines:
            yield body, count
            return
        lines = body.splitlines()
        while lines:
            size = self.lines
            piece, lines = lines[:size], lines[size:]
            yield b"\n".join(piece), len(piece)

    def too_slow(self, lines: int) -> None:
        """A request of so many lines was not answered in time."""
        with self._lock:
            self.lines = max(self._least, min(self.lines, lines // 2))

    def answered(self, lines: int, after_us: int) -> None:
        """A request of so many lines was answered after so long; a small one says nothing of
        what a larger one would take."""
        with self._lock:
            if after_us < self._quick_us and lines >= self.lines:
                self.lines = min(self._most, 2 * self.lines)
