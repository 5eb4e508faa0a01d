"""When an exporter renews what it shows: from page to page, what is new and what is overdue."""

from __future__ import annotations

from collectors.scrape.page import Page
from collectors.scrape.refresh import RefreshClock

DEFAULT_INTERVAL_US = 30_000_000
"""Of dcgm-exporter, taken for what is overdue until it is learnt."""
_OVERDUE_INTERVALS = 3
_FROZEN_US = 300_000_000
_MOVES_ALWAYS = "energy_mj"


class Renewals:
    """Of one exporter; times in µs of any clock that does not step."""

    def __init__(self, refresh_us: int | None = None) -> None:
        self.refresh = RefreshClock(refresh_us)
        self._activities: list[tuple[float, ...]] = []
        self._values: list[dict[str, float]] = []
        self._renewed_us = self._moved_us = self._now_us = 0
        self.renewed = False
        """Whether the last page was another than the one before it."""

    def take(self, page: Page, time_us: int) -> int:
        """µs of time that the page's values stand for, as `RefreshClock.see`."""
        self._now_us = time_us
        self.renewed = self._is_new(page, time_us)
        return self.refresh.see(time_us, changed=self.renewed)

    def _is_new(self, page: Page, time_us: int) -> bool:
        """Activities tell, since other fields may be renewed at another pace; while all GPUs are
        idle they cannot, and then the others tell."""
        activities = [gpu.activities() for gpu in page.gpus]
        values = [gpu.values for gpu in page.gpus]
        moved = values != self._values
        idle = not any(any(several) for several in activities)
        renewed = activities != self._activities or (idle and moved)
        self._activities, self._values = activities, values
        if moved:
            self._moved_us = time_us
        if renewed:
            self._renewed_us = time_us
        return renewed

    def differs(self, page: Page) -> bool:
        """Whether a page that is not to be taken shows other activities than the last one taken,
        or, while all are idle, other values."""
        activities = [gpu.activities() for gpu in page.gpus]
        if any(any(several) for several in activities):
            return activities != self._activities
        return [gpu.values for gpu in page.gpus] != self._values

    def overdue(self, time_us: int) -> bool:
        """Whether activities should have been renewed long since."""
        return time_us - self._renewed_us > _OVERDUE_INTERVALS * self._interval_us

    def frozen(self, page: Page, period_us: int) -> bool:
        """Whether nothing at all has changed for longer than anything living keeps still.

        An energy counter never stands still; power may, for a while.
        """
        since_us = self._now_us - self._moved_us
        if any(_MOVES_ALWAYS in gpu.values for gpu in page.gpus):
            return since_us > _OVERDUE_INTERVALS * max(self._interval_us, period_us)
        power = any("power_w" in gpu.values or "power_draw_w" in gpu.values for gpu in page.gpus)
        return power and since_us > _FROZEN_US

    @property
    def _interval_us(self) -> int:
        return self.refresh.interval_us or DEFAULT_INTERVAL_US
