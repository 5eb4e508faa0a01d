"""Whether the bus can be reached, as far as the last attempts have shown."""

from __future__ import annotations

import random

from collectors.agent.folded import FoldedLog
from collectors.contract.bus import BusUnavailableError, TopicMissingError
from collectors.kit.clock import Clock

_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 30.0
_TOPIC_RETRY_S = 30.0


class Reach:
    """`is_away` from a failed attempt to one that succeeds; topics can be missing one by one.

    Many nodes lose a bus at the same moment; that they don't come back at the
    same one, waits are drawn at random about their mean.
    """

    def __init__(self, clock: Clock, folded: FoldedLog) -> None:
        self._clock, self._folded = clock, folded
        self._random = random.Random()  # noqa: S311 - it spreads retries and hides nothing
        self._retry_s = _FIRST_RETRY_S
        self._missing: dict[str, int] = {}
        self.is_away = False
        self.retry_us = 0
        """When the next attempt is due, on the monotonic clock."""

    @property
    def resting(self) -> bool:
        """It is away, and no attempt is due."""
        return self.is_away and self._clock.monotonic_us() < self.retry_us

    def missing(self) -> tuple[str, ...]:
        """Topics that are not there, and not to be tried again yet."""
        if self._missing:
            now_us = self._clock.monotonic_us()
            self._missing = {name: until for name, until in self._missing.items() if until > now_us}
        return tuple(self._missing)

    def answered(self) -> bool:
        """An attempt has succeeded; whether the bus was away before it."""
        was_away, self.is_away = self.is_away, False
        self._retry_s = _FIRST_RETRY_S
        self._folded.over("away")
        return was_away

    def failed(self, error: BaseException) -> None:
        """An attempt has failed."""
        now_us = self._clock.monotonic_us()
        jitter = self._random.uniform(0.5, 1.5)
        if isinstance(error, TopicMissingError):
            self._missing[error.topic] = now_us + int(_TOPIC_RETRY_S * jitter * 1e6)
            self._folded.warning(error.topic, "topic_missing reason=%s", error)
            return
        self.is_away = True
        self.retry_us = now_us + int(self._retry_s * jitter * 1e6)
        # A client that fails in a way of its own is taken for a bus that is away.
        reason = str(error) if isinstance(error, BusUnavailableError) else repr(error)
        self._folded.warning("away", "bus_away retry_s=%.0f reason=%s", self._retry_s, reason)
        self._retry_s = min(self._retry_s * 2, _LONGEST_RETRY_S)
