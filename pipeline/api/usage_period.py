"""Which time a question about usage means, and what is said of it in every answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field

from pipeline.api.problems import ProblemError
from pipeline.api.ranges import parse_time, time_text
from pipeline.books.frozen import Frozen
from pipeline.books.periods import Period, Standing, between, day_period, month_period

MOST_DAYS: Mapping[str, int] = {"total": 1_100, "month": 1_100, "day": 1_100, "hour": 31}
"""How long a time may be asked for in one answer, by resolution."""


class PeriodQuery(BaseModel):
    """A month, a day, or from and to."""

    model_config = ConfigDict(extra="forbid")

    month: str | None = Field(None, description="A month of the site's time zone, as 2026-10.")
    day: str | None = Field(None, description="A day of the site's time zone, as 2026-10-03.")
    from_: str | None = Field(None, alias="from", description="ISO-8601 or seconds since 1970.")
    to: str | None = Field(None, description="ISO-8601 or seconds since 1970; hours count whole.")

    def period(self, time_zone: str, most_days: int) -> Period:
        """The hours that are meant.  Raises ProblemError (422)."""
        zone = ZoneInfo(time_zone)
        try:
            found = self._period(zone)
        except ValueError as error:
            raise ProblemError(422, f"{error}.") from error
        if not 0 < len(found.hours) <= most_days * 24 + 1:
            raise ProblemError(
                422, f"from must lie before to, at this resolution by at most {most_days} days."
            )
        return found

    def _period(self, zone: ZoneInfo) -> Period:
        given = [self.month is not None, self.day is not None, (self.from_ or self.to) is not None]
        if sum(given) != 1:
            raise ValueError("write month=2026-10, or day=2026-10-03, or from and to")
        if self.month is not None:
            return month_period(self.month, zone)
        if self.day is not None:
            return day_period(self.day, zone)
        if self.from_ is None or self.to is None:
            raise ValueError("write both from and to")
        from_us, to_us = parse_time(self.from_, "from"), parse_time(self.to, "to")
        if not 0 <= from_us < to_us < 2**62:
            raise ValueError("from must lie before to, and both after 1970")
        return between(from_us, to_us, zone)


def head(period: Period, stands: Standing) -> dict[str, Any]:
    """What every answer says of its time."""
    return {
        "period": period.name,
        "from": time_text(period.from_us),
        "to": time_text(period.to_us),
        "time_zone": period.zone.key,
        "ledger_from": None if stands.from_us is None else time_text(stands.from_us),
        "as_of": None if stands.as_of_us is None else time_text(stands.as_of_us),
        "final": stands.final,
        "frozen": (
            None
            if stands.frozen is None
            else {**frozen_row(stands.frozen), "adjustments": stands.adjustments}
        ),
    }


def frozen_row(frozen: Frozen) -> dict[str, Any]:
    """Who froze a month, when, and the sum by which any later difference shows."""
    return {
        "time": time_text(frozen.frozen_us),
        "by": frozen.actor,
        "note": frozen.note,
        "sha256": frozen.sha256,
    }
