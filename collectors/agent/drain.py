"""How fast a spool is emptied, and how far it is."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import ceil

from collectors.kit.clock import Clock

_log = logging.getLogger(__name__)
_SAY_EVERY_US = 10_000_000
_MOST_AT_ONCE = 500
_TURNS_A_SECOND = 4
_REST_US = 5_000_000
"""Until it is looked again whether what could not leave can: each look reads the disk."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How a spool stands; `dropped` since its file was made, in memory or on disk."""

    left: int
    bytes: int
    dropped: int
    is_away: bool
    """The bus does not answer."""
    rate: float
    """Records a second that leave the spool, 0 while it is not being emptied."""
    eta_s: float | None
    """Seconds until it is empty at that rate; None while it is not being emptied."""
    reason: str
    """Why the disk cannot be used, "" where it can."""


class DrainPace:
    """`rate` records a second at most, in small steps, between which fresh ones pass."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock, self._most_rate = clock, rate
        self.batch = max(1, min(_MOST_AT_ONCE, int(rate / _TURNS_A_SECOND)))
        """Records to send in one step."""
        self._due_us = 0
        self._began_us: int | None = None
        self._said_us = 0
        self._sent = self._sent_in_all = 0
        self.rate = 0.0
        """Records a second, as found over the last seconds; 0 while nothing leaves."""

    def due_us(self) -> int:
        """When the next step may be made, on the monotonic clock."""
        return self._due_us

    def rest(self) -> None:
        """Nothing can leave for now."""
        self._due_us = self._clock.monotonic_us() + _REST_US

    def sent(self, count: int, left: int) -> None:
        """A step of `count` records is made and `left` are left; says how it goes."""
        now_us = self._clock.monotonic_us()
        self._due_us = now_us + ceil(count / self._most_rate * 1e6)
        if self._began_us is None or now_us - self._said_us > 2 * _SAY_EVERY_US:
            self._began_us = self._said_us = now_us
            self._sent = self._sent_in_all = 0
            self.rate = self._most_rate
            _log.info("spool_drain left=%d most_rate=%.0f", left, self._most_rate)
        self._sent_in_all += count
        if not left:
            seconds = (now_us - self._began_us) / 1e6
            _log.info("spool_drained records=%d seconds=%.1f", self._sent_in_all, seconds)
            self._began_us, self.rate = None, 0.0
        elif now_us - self._said_us >= _SAY_EVERY_US:
            # A step's time is the one after it, so that this step belongs to what comes.
            self.rate = self._sent * 1e6 / (now_us - self._said_us)
            self._sent, self._said_us = 0, now_us
            _log.info("spool_drain left=%d rate=%.1f eta_s=%.0f", left, self.rate, left / self.rate)
        self._sent += count
