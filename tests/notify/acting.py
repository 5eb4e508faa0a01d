"""What people do while roles die: a silence, an acknowledgement; and whether both hold afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from collectors.contract.alerts import AlertRecord, Control, Incident
from collectors.contract.bus import Bus, Message, Producer
from collectors.contract.topics import CONTROL, dumps
from collectors.kit.clock import SystemClock
from pipeline.api.alert_desk import AlertDesk
from pipeline.health import HealthBoard

SILENT_NODE = "b01n04"
_CLOCK = SystemClock()


class People:
    """They act through the bus, as the API does for them."""

    def __init__(self, producer: Producer, prefix: str) -> None:
        self._producer, self._topic = producer, prefix + CONTROL
        self.taken_on = ""
        """The incident that was acknowledged."""

    async def silence(self, name: str, field: str, value: str) -> None:
        """Silences for a day whatever has a value."""
        now_us = _CLOCK.wall_us()
        until_us = now_us + 86_400_000_000
        await self._say(
            Control("silence", name, "ops", now_us, {field: value}, until_us=until_us)
        )  # fmt: skip

    async def take_on(self, records: Sequence[AlertRecord]) -> None:
        """Acknowledges an incident that is open."""
        self.taken_on = opened(records)[0]
        await self._say(
            Control("acknowledge", self.taken_on, "ops", _CLOCK.wall_us(), incident=self.taken_on)
        )  # fmt: skip

    async def _say(self, control: Control) -> None:
        await self._producer.send([Message(self._topic, control.key, dumps(control))])


def opened(records: Sequence[AlertRecord]) -> list[str]:
    """Incidents that are open and of no silence, in order."""
    last = {one.id: one for one in records if isinstance(one, Incident)}
    return [
        name for name, one in last.items()
        if one.state == "open" and one.notice and not is_silent(one)
    ]  # fmt: skip


def is_silent(incident: Incident) -> bool:
    """Whether a silence is about it."""
    return incident.family == "power" or incident.subject.node == SILENT_NODE


async def desk_of(bus: Bus, prefix: str, until: Callable[[AlertDesk], bool]) -> AlertDesk:
    """The API's desk, begun now, once it knows what it must."""
    desk = AlertDesk(bus, prefix, _CLOCK, HealthBoard("serve", "t", _CLOCK))
    task = asyncio.create_task(desk.run())
    try:
        while not until(desk):
            await _CLOCK.sleep(0.05)
    finally:
        desk.stop()
        await task
    return desk
