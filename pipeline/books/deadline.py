"""Says on the health page how long a month that nobody has frozen can still be computed anew."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from pipeline.books import months
from pipeline.books.database import Database
from pipeline.health import HealthBoard

_LEFT = "unfrozen_left_days"


class Deadline:
    """`unfrozen_left_days`: until the first minutes of a month that is over and not frozen are no
    longer kept; all the days that minutes are kept where no month waits."""

    def __init__(self, database: Database, board: HealthBoard, minutes_days: float) -> None:
        self._database, self._board, self._minutes_days = database, board, minutes_days

    async def tell(self, time_zone: str, as_of_us: int) -> None:
        """Looks and says it.  Raises BooksUnavailableError."""
        zone = ZoneInfo(time_zone)
        left = await self._database.read(
            lambda one: months.days_left(one, zone, as_of_us, self._minutes_days)
        )
        self._board.set(_LEFT, round(left, 3))

    def forget(self) -> None:
        """Says nothing more: another process leads."""
        self._board.remove(_LEFT)
