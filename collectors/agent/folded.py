"""A log that a person can read on a bad day: what repeats is said once, then counted."""

from __future__ import annotations

import logging

from collectors.kit.clock import Clock

_EVERY_US = 600_000_000
_KEYS = 256


class FoldedLog:
    """Says the first of a kind at once and its repeats every ten minutes as a number."""

    def __init__(self, log: logging.Logger, clock: Clock) -> None:
        self._log, self._clock = log, clock
        self._said: dict[str, tuple[int, int]] = {}
        """Key → when it was last said (µs, monotonic), repeats since."""

    def __len__(self) -> int:
        """Kinds that are remembered, 256 at most."""
        return len(self._said)

    def warning(self, key: str, text: str, *values: object) -> None:
        """A warning of the kind `key`."""
        self._say(logging.WARNING, key, text, *values)

    def error(self, key: str, text: str, *values: object) -> None:
        """An error of the kind `key`: something is lost."""
        self._say(logging.ERROR, key, text, *values)

    def _say(self, level: int, key: str, text: str, *values: object) -> None:
        now_us = self._clock.monotonic_us()
        said = self._said.get(key)
        if said is None:
            self._make_room()
            self._log.log(level, text, *values)
        elif now_us - said[0] < _EVERY_US:
            self._said[key] = (said[0], said[1] + 1)
            return
        else:
            self._log.log(level, text + " repeated=%d", *values, said[1] + 1)
        self._said[key] = (now_us, 0)

    def over(self, key: str) -> None:
        """What the key stands for has ended: the next one is said at once again."""
        self._said.pop(key, None)

    def _make_room(self) -> None:
        if len(self._said) >= _KEYS:
            del self._said[min(self._said, key=lambda key: self._said[key][0])]
