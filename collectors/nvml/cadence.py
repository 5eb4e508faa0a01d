"""What is read more seldom than at each tick, spread over ticks: no I/O here."""

from __future__ import annotations

from collections.abc import Mapping

Thing = str | float
"""A call by its metric's name, or all fields with one `every_s`."""


class Cadence:
    """Says what is due: everything at first, then each thing every so many seconds.

    `phase` (0 to 1) sets devices apart, and the things of one device follow
    one another, so that no tick has them all.
    """

    def __init__(self, every_s: Mapping[Thing, float], phase: float = 0.0) -> None:
        self._every_us = {key: int(seconds * 1e6) for key, seconds in every_s.items()}
        self._phase = phase
        self._due_us: dict[Thing, int] = {}
        self._next_us = 0

    def due(self, now_us: int) -> list[Thing]:
        """The things to read now."""
        if self._due_us and now_us < self._next_us:
            return []
        if self._due_us:
            ready = [key for key, due_us in self._due_us.items() if due_us <= now_us]
            for key in ready:
                due_us, every_us = self._due_us[key], self._every_us[key]
                missed = (now_us - due_us) // every_us  # a pause is not made up for
                self._due_us[key] = due_us + (missed + 1) * every_us
        else:
            ready = list(self._every_us)
            for index, (key, every_us) in enumerate(self._every_us.items()):
                part = (index + 1 + self._phase) % len(self._every_us) / len(self._every_us)
                self._due_us[key] = now_us + int(every_us * (part or 1))
        self._next_us = min(self._due_us.values(), default=0)
        return ready

    def again(self) -> None:
        """Everything is due at the next question."""
        self._due_us = {}
