"""The working day, the week and the service window of a site, as functions of time."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BUSIEST_H = 15.0
_WEEKEND = 0.55
"""Of a weekday's activity."""
_SERVICE_DAY, _SERVICE_FROM_H, _SERVICE_TO_H = 1, 1.0, 5.0
"""Tuesday before dawn, as centres do."""


class SiteCalendar:
    """Local time of a site."""

    def __init__(self, time_zone: str) -> None:
        self._zone = ZoneInfo(time_zone)

    def local(self, time_us: int) -> datetime:
        """The wall clock at the site."""
        return (_EPOCH + timedelta(microseconds=time_us)).astimezone(self._zone)

    def activity(self, time_us: int) -> float:
        """People's activity relative to its weekly mean, about 0.4 to 1.6."""
        now = self.local(time_us)
        hour = now.hour + now.minute / 60
        day = 1.0 + 0.5 * math.cos(2 * math.pi * (hour - _BUSIEST_H) / 24)
        week = _WEEKEND if now.weekday() >= 5 else 1.0 + (1.0 - _WEEKEND) * 2 / 5
        return day * week

    def in_service_window(self, time_us: int) -> bool:
        """Whether planned maintenance goes on now."""
        now = self.local(time_us)
        hour = now.hour + now.minute / 60
        return now.weekday() == _SERVICE_DAY and _SERVICE_FROM_H <= hour < _SERVICE_TO_H
