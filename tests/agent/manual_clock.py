"""A clock that tests set."""

from __future__ import annotations


class ManualClock:
    """Wall and monotonic time that move only when told."""

    def __init__(self, wall_us: int = 1_700_000_000_000_000) -> None:
        self.wall, self.monotonic = wall_us, 5_000_000

    def wall_us(self) -> int:
        """As set."""
        return self.wall

    def monotonic_us(self) -> int:
        """As set."""
        return self.monotonic

    async def sleep(self, seconds: float) -> None:
        """Moves instead of waiting."""
        self.move(seconds)

    def move(self, seconds: float) -> None:
        """Both clocks go on."""
        self.wall += round(seconds * 1e6)
        self.monotonic += round(seconds * 1e6)
