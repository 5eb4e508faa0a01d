"""How far the series store has the GPU records: by what `store` announced, and the bus's ends."""

from __future__ import annotations

from collectors.contract.bus import Bus
from pipeline.books import progress
from pipeline.books.agenda import reached_us
from pipeline.books.database import Database

_EVEN_US = 30_000_000
"""Partitions this close together all announce; only others are asked whether they have an end."""


class Reach:
    """The bus time that all partitions of the GPU records have passed."""

    def __init__(self, bus: Bus, topic: str, database: Database) -> None:
        self._bus, self._topic, self._database = bus, topic, database
        self._partitions: int | None = None

    def forget(self) -> None:
        """How many partitions there are is asked anew."""
        self._partitions = None

    async def reached_us(self) -> int | None:
        """That time, None as long as it cannot be told.  Raises BooksUnavailableError and
        BusUnavailableError."""
        clocks = await self._database.read(progress.read_clocks)
        times = [bus_us for _, bus_us in clocks.values()]
        if self._partitions == len(clocks) and max(times) - min(times) < _EVEN_US:
            return reached_us(clocks, None)
        ends = await self._ends()
        self._partitions = len(ends)
        return reached_us(clocks, ends)

    async def _ends(self) -> dict[int, int]:
        consumer = self._bus.consumer([self._topic], None, latest=True)
        await consumer.start()
        try:
            ends = await consumer.end_offsets()
        finally:
            await consumer.stop()
        return {partition.number: end for partition, end in ends.items()}
