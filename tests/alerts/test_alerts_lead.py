"""Who was frozen while it asked whether it leads does not take the answer for one of now."""

from __future__ import annotations

import asyncio
from pathlib import Path

from collectors.contract.topics import ALERTS, topic_specs
from collectors.kit.clock import SystemClock
from pipeline.bus import open_bus
from pipeline.health import HealthBoard
from pipeline.watch.lead import Lead


class Freezing(SystemClock):
    """A clock of a process that is frozen for a while whenever it has looked at it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen_us, self._lost_us = 0, 0

    def monotonic_us(self) -> int:
        self._lost_us += self.frozen_us
        return super().monotonic_us() + self._lost_us


async def test_an_answer_from_before_a_freeze_is_asked_for_again(tmp_path: Path) -> None:
    clock = Freezing()
    bus = open_bus(f"sqlite:///{tmp_path / 'bus'}", clock)
    await bus.create_topics(topic_specs(""))
    lead = Lead(bus, ALERTS, "group", clock, HealthBoard("alerts", "t", clock))
    leading = asyncio.create_task(lead.run())
    while not lead.holds:
        await clock.sleep(0.01)
    found: list[bool] = []
    for clock.frozen_us in (0, 10_000_000, 0):
        async with lead.publishing() as leads:
            found.append(leads)
    leading.cancel()
    await asyncio.gather(leading, return_exceptions=True)
    await bus.close()
    assert found == [True, False, True]
