"""Which of several `watch` publishes: the member of a group that has a topic's only partition.

The group's broker says who leads, and gives the lead away once a member has been
silent for its session's time.  Nothing is read through the group.  On an
embedded bus the members are those of one process, as only one may have it open.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from collectors.contract.bus import Bus, BusUnavailableError, Consumer, FencedError, Partition
from collectors.kit.clock import Clock
from pipeline.health import HealthBoard

_log = logging.getLogger(__name__)
_POLL_S = 0.25
_UNSETTLED_US = 5_000_000
"""How long a term outlives the loss of the partition: a rebalance often brings it back at once."""
_SURE_US = 2_000_000
"""An answer that took longer to be read says nothing of now: this process may have been frozen since."""


class Lead:
    """Membership in the group `group`; `topic` has one partition."""

    def __init__(self, bus: Bus, topic: str, group: str, clock: Clock, board: HealthBoard) -> None:
        self._bus, self._topic, self._group = bus, topic, group
        self._clock, self._board = clock, board
        self._member: Consumer | None = None
        self._generation: int | None = None
        self._term = 0
        self._lost_us = 0
        self._publishing = asyncio.Lock()
        self.holds = False
        """Whether this process may publish now."""

    @property
    def term(self) -> int:
        """The number of the term in which this process leads, 0 while another one does.

        It stays the same as long as nobody else can have led in between.
        """
        lost = self._generation is None or (
            not self.holds and self._clock.monotonic_us() - self._lost_us > _UNSETTLED_US
        )
        return 0 if lost else self._term

    async def run(self) -> None:
        """Stays in the group until it is cancelled."""
        while True:
            member = self._member = self._bus.consumer([self._topic], self._group)
            member.pause()
            try:
                await member.start(self._revoked, self._assigned)
                _log.info("group=%s joined", self._group)
                while True:
                    await member.fetch(_POLL_S)
                    self._board.set("leads", int(self.holds))
            except BusUnavailableError as error:
                self._board.add("bus_unavailable")
                _log.warning("lead_unknown group=%s reason=%s", self._group, error)
                await self._clock.sleep(1.0)
            finally:
                self.holds, self._generation = False, None
                with suppress(BusUnavailableError):
                    await member.stop()

    async def _assigned(self, partitions: frozenset[Partition]) -> None:
        generation = self._member.generation if self._member is not None and partitions else 0
        if self._generation is None or generation != self._generation + 1:
            self._term += 1
        self._generation, self.holds = generation, True
        _log.info("leads group=%s term=%d", self._group, self._term)

    async def _revoked(self, _: frozenset[Partition]) -> None:
        # Who leads next reads what stands on the bus, so what is being sent must be there by then.
        async with self._publishing:
            self.holds, self._lost_us = False, self._clock.monotonic_us()

    @asynccontextmanager
    async def publishing(self) -> AsyncGenerator[bool]:
        """Whether this process leads, asked now; the lead is not handed over within.  Raises
        BusUnavailableError."""
        async with self._publishing:
            yield await self._confirmed()

    async def _confirmed(self) -> bool:
        """Whether the bus knows this process as the one that leads, asked now: a process that was
        stopped for long finds out before it says anything.  Raises BusUnavailableError."""
        if self._member is None or not self.holds:
            return False
        asked_us = self._clock.monotonic_us()
        try:
            ends = await self._member.end_offsets()
            for partition, offset in ends.items():
                await self._member.seek(partition, offset)
            await self._member.commit(ends)
        except (FencedError, KeyError):
            return False
        return self.holds and self._clock.monotonic_us() - asked_us <= _SURE_US
