"""Counters that a device may wrap, reset or garble, as ones that only grow: no I/O here."""

from __future__ import annotations

from collectors.contract.source import UnsupportedError

_WRAP = 1 << 32
_BEGIN_AGAIN = 1 << 52
"""A total stays below what every consumer can hold exactly (NVLink fills it within hours):
there it begins again, as after a reset."""
_WRAPS_AT_MOST = 3


class GrowingCounter:
    """A total of a device's counter, of rates, or of one after the other.

    What cannot have been (more than `most_per_s` allows) is not added: the
    total may miss something after a reset, and never invents anything.
    """

    def __init__(self, most_per_s: float) -> None:
        self._most_per_s = most_per_s
        self._total = 0.0
        self._raw: int | None = None
        self._at_us = 0
        self._falls = 0

    def take(self, raw: int, now_us: int) -> int:
        """The total at a reading of the device's counter.

        Raises UnsupportedError for one that wraps at 32 bits faster than it is
        read: what it says then is any of several values.
        """
        last, self._raw = self._raw, raw
        elapsed_s = (now_us - self._at_us) / 1e6
        self._at_us = now_us
        if last is None:
            return self.add(raw % _BEGIN_AGAIN)
        added = raw - last
        if added < 0:
            added = self._wrapped(last, raw, elapsed_s)
        if 0 < added <= self._most_per_s * elapsed_s:
            self._total = (self._total + added) % _BEGIN_AGAIN
        return int(self._total)

    def _wrapped(self, last: int, raw: int, elapsed_s: float) -> int:
        """What was added if the counter wrapped at 32 bits; -1 for one that was reset."""
        if last >= _WRAP:
            return -1
        if self._most_per_s * elapsed_s < _WRAP:
            return raw - last + _WRAP
        self._falls += 1
        if self._falls >= _WRAPS_AT_MOST:
            raise UnsupportedError("the counter wraps at 32 bits between two readings")
        return -1

    def add(self, amount: float) -> int:
        """The total after an amount that was measured otherwise."""
        self._total = (self._total + max(0.0, amount)) % _BEGIN_AGAIN
        return int(self._total)
