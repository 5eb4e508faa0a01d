"""What is wrong now, in memory: open incidents, firing alerts and what people said of them.

Follows `petawatch.alerts` and `petawatch.control`, so that what is open is
known within a second and while the books are away; what is over is theirs.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from collectors.contract.alerts import Alert, Control, Incident, parse_alert_record
from collectors.contract.bus import Bus, Chunk, Consumer
from collectors.contract.topics import ALERTS, CONTROL
from collectors.kit.clock import Clock
from pipeline.api.follow import TopicFollower
from pipeline.health import HealthBoard

MAX_OPEN, MAX_ALERTS, MAX_CONTROLS = 20_000, 100_000, 20_000
_AT_ONCE = 5_000
_log = logging.getLogger(__name__)


class AlertDesk:
    """Counts on `board` `alert_desk_broken`, `alert_desk_full` and `alerts_bus_errors`."""

    def __init__(self, bus: Bus, prefix: str, clock: Clock, board: HealthBoard) -> None:
        self._control = prefix + CONTROL
        topics = [prefix + ALERTS, self._control]
        self._follower = TopicFollower(bus, topics, clock, board, name="alerts", at_once=_AT_ONCE)
        self._board = board
        self.open: dict[str, Incident] = {}
        """Open incidents by id."""
        self.firing: dict[str, Alert] = {}
        """Alerts that fire, by fingerprint."""
        self.controls: OrderedDict[tuple[str, str], Control] = OrderedDict()
        """Silences, acknowledgements and comments that hold; the oldest goes first."""
        self._over: OrderedDict[str, int] = OrderedDict()
        """What ended lately: the revision of an incident, the time of an alert."""
        self.changes = 0
        """Grows with every record taken in."""

    def stop(self) -> None:
        """Ends `run` after what it is at."""
        self._follower.stop()

    async def run(self) -> None:
        """Follows until `stop`; an absent bus is tried again each second."""
        await self._follower.run(self._begin, self.take)

    async def _begin(self, consumer: Consumer) -> None:
        """From the beginning: the topics are compacted, and a later record replaces an earlier."""
        for partition in consumer.assigned:
            await consumer.seek(partition, 0)

    def take(self, chunks: Sequence[Chunk]) -> None:
        """Takes in fetched records; one that cannot be read is counted and passed over."""
        for chunk in chunks:
            for key, value in zip(chunk.keys, chunk.values, strict=True):
                try:
                    if chunk.partition.topic == self._control:
                        self._take_control(msgspec.json.decode(value, type=Control))
                    else:
                        self._take(parse_alert_record(bytes(key), bytes(value)))
                    self.changes += 1
                except ValueError as error:
                    self._board.add("alert_desk_broken")
                    _log.warning("record_refused topic=%s %s", chunk.partition.topic, error)

    def _take(self, record: object) -> None:
        if isinstance(record, Incident):
            known = self.open.get(record.id)
            if known is not None and known.revision > record.revision:
                return
            if self._is_old(record.id, record.revision, over=record.state == "resolved"):
                return
            if record.state == "resolved":
                self.open.pop(record.id, None)
            elif known is not None or len(self.open) < MAX_OPEN:
                self.open[record.id] = record
            else:
                self._board.add("alert_desk_full")
        elif isinstance(record, Alert):
            over = record.state == "resolved"
            if self._is_old(record.fingerprint, record.at_us, over=over):
                return
            if record.state != "firing":
                self.firing.pop(record.fingerprint, None)
            elif record.fingerprint in self.firing or len(self.firing) < MAX_ALERTS:
                self.firing[record.fingerprint] = record
            else:
                self._board.add("alert_desk_full")

    def _is_old(self, name: str, number: int, *, over: bool) -> bool:
        """Whether what is said is older than its end: a `watch` that was frozen may say it late."""
        if number < self._over.get(name, 0):
            return True
        if over:
            self._over[name] = number
            if len(self._over) > MAX_ALERTS:
                self._over.popitem(last=False)
        return False

    def _take_control(self, control: Control) -> None:
        key = (control.kind, control.id)
        self.controls.pop(key, None)
        if not control.deleted and control.kind != "notify_test":
            self.controls[key] = control
        while len(self.controls) > MAX_CONTROLS:
            self.controls.popitem(last=False)

    def acknowledged(self, incident: str) -> Control | None:
        """Who has taken an incident on."""
        return self.controls.get(("acknowledge", incident))

    def silences(self, now_us: int) -> list[Control]:
        """The silences that hold now or later."""
        return [
            one
            for (kind, _), one in self.controls.items()
            if kind == "silence" and (one.until_us is None or one.until_us > now_us)
        ]
