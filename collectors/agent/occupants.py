"""Who is on the GPUs: asks the attributor off the ticks' path and keeps its last word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from collectors.agent.folded import FoldedLog
from collectors.agent.threads import in_thread
from collectors.contract.source import GpuProcess
from collectors.contract.topics import Allocation
from collectors.kit.clock import Clock

_log = logging.getLogger(__name__)
_STALE_US = 60_000_000


class Seat(NamedTuple):
    """A slot that somebody may hold; the fields are those of an attributor's `Place`."""

    slot: int
    uuid: str
    number: int | None
    parent: int | None
    profile: str = ""


class Found(Protocol):
    """What an attributor found out."""

    @property
    def occupants(self) -> Mapping[int, str]:
        """Slot → short text of who is there."""
        ...

    @property
    def allocations(self) -> Sequence[Allocation]:
        """Those that are new or changed."""
        ...

    @property
    def missing(self) -> Mapping[str, str]:
        """What cannot be found out → why."""
        ...


Poll = Callable[[Sequence[Seat], Sequence[GpuProcess]], Found]
"""Finds out who is where; blocking, with bounds of its own."""


class Occupants:
    """`of` a slot; "" where nobody is known to be there."""

    def __init__(
        self, poll: Poll, clock: Clock, on_allocation: Callable[[Allocation], object]
    ) -> None:
        self._poll, self._clock = poll, clock
        self._on_allocation = on_allocation
        self._folded = FoldedLog(_log, clock)
        self._asking: asyncio.Task[None] | None = None
        self._occupants: Mapping[int, str] = {}
        self._processes: dict[int, Sequence[GpuProcess]] = {}
        self._asked_us = 0
        self.missing: Mapping[str, str] = {}
        """What of attribution cannot be had → why."""

    def of(self, slot: int) -> str:
        """The job or pod on it, as last seen; nothing older than a minute counts."""
        if self._clock.monotonic_us() - self._asked_us > _STALE_US:
            return ""
        return self._occupants.get(slot, "")

    @property
    def asking(self) -> bool:
        """Whether a question is under way."""
        return self._asking is not None and not self._asking.done()

    def ask(self, seats: Sequence[Seat], processes: Mapping[int, Sequence[GpuProcess]]) -> None:
        """Begins to find out; nothing where that is still under way.

        `processes` are by device.  A device that is not among them keeps those it
        had: what hangs has not lost its jobs.
        """
        self._processes.update(processes)
        if not self.asking:
            known = [one for some in self._processes.values() for one in some]
            self._asking = asyncio.create_task(self._ask(seats, known), name="occupants")

    async def _ask(self, seats: Sequence[Seat], processes: Sequence[GpuProcess]) -> None:
        try:
            found = await in_thread(lambda: self._poll(seats, processes), "occupants")
        except Exception as error:
            # Whatever is wrong with a scheduler's files must not end the readings.
            self._folded.warning("poll", "occupants_unknown error=%r", error)
            self.missing = {**self.missing, "attribution": repr(error)}
            return
        self._folded.over("poll")
        self._occupants, self.missing = found.occupants, found.missing
        self._asked_us = self._clock.monotonic_us()
        for allocation in found.allocations:
            self._on_allocation(allocation)

    async def end(self, timeout_s: float) -> None:
        """Waits for a question that is under way, for a while."""
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=timeout_s)
            self._asking.cancel()
