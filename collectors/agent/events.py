"""What befell GPUs, as records: each once though two sources tell it, storms summed up.

A storm is a program in a fault loop: hundreds of XIDs a minute, none of which
says more than the first.  The first is told at once, the others as their
number, once a minute for as long as it lasts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from collectors.contract.identity import Slot, pack_slot, slot_text, unpack_slot
from collectors.contract.source import DeviceEvent
from collectors.contract.topics import Event
from collectors.contract.xids import advice
from collectors.kit.clock import Clock

SAME_US = 10_000_000
"""Two sources that tell of the same within this tell of one happening."""
FOLD_US = 60_000_000
MAX_STORMS = 1_024
"""Remembered at most, the oldest is summed up early: eight GPUs with over a hundred codes each."""
_ONCE = frozenset({("xid", 79)})
"""The driver says it in two lines; a GPU falls off the bus once."""
_MAX_TEXT = 500
_Key = tuple[str, int, int]
"""Kind, slot of the whole GPU, code; -1 where there is none."""


@dataclass(slots=True)
class _Storm:
    """What is alike within one fold: the first was told, `more` were not."""

    first: Event
    began_us: int
    last_us: int
    actions: set[str]
    """What to do, as far as it was told: a report that says something else is told at once."""
    more: int = 0
    last_text: str = ""
    alone: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Source → how many of its reports no other has told of yet, and when the last came."""

    def is_repeat(self, source: str, at_us: int) -> bool:
        """Whether another source has told of it; else notes that this one has."""
        for other, (count, last_us) in self.alone.items():
            if other != source and count > 0 and abs(at_us - last_us) <= SAME_US:
                self.alone[other] = (count - 1, last_us)
                return True
        count, last_us = self.alone.get(source, (0, at_us))
        kept = count if at_us - last_us <= SAME_US else 0
        self.alone[source] = (kept + 1, at_us)
        return False


class EventDesk:
    """Makes records of what the driver and the kernel log report.

    `occupant_of` gives the job or pod on a packed slot, "" for none.  At most
    1,024 storms are remembered.  One thread at a time.
    """

    def __init__(self, node: str, clock: Clock, occupant_of: Callable[[int], str]) -> None:
        self._node = node
        self._clock = clock
        self._occupant_of = occupant_of
        self._storms: OrderedDict[_Key, _Storm] = OrderedDict()
        self.repeated = 0
        """Reports of what another source had told."""
        self.folded = 0
        """Reports that are in the number of a summary."""

    def take(self, event: DeviceEvent, source: str) -> list[Event]:
        """The records to publish for a report of `driver`, `kernel_log` or `agent`."""
        at_us = self._clock.wall_us() if event.time_us is None else event.time_us
        key = _key(event)
        storm = self._storms.get(key)
        out: list[Event] = []
        if storm is not None and at_us - storm.began_us >= FOLD_US:
            out += self._sum_up(key, storm)
            storm = self._storms.get(key)
        if storm is not None:
            return out + self._fold(storm, key, event, source, at_us)
        first = self._record(event, source, at_us)
        alone = {source: (1, at_us)}
        self._storms[key] = _Storm(first, at_us, at_us, {first.action}, alone=alone)
        out.append(first)
        while len(self._storms) > MAX_STORMS:
            _, oldest = self._storms.popitem(last=False)
            out += self._summary(oldest)
        return out

    def _fold(
        self, storm: _Storm, key: _Key, event: DeviceEvent, source: str, at_us: int
    ) -> list[Event]:
        repeat = storm.is_repeat(source, at_us)
        action = advice(event.kind, event.code, event.text).action
        if action not in storm.actions and action != advice(event.kind, event.code).action:
            # One link fails for good amid many that recover: that must not wait in a sum.
            storm.actions.add(action)
            return [self._record(event, source, at_us)]
        if repeat or ((key[0], key[2]) in _ONCE and at_us - storm.last_us <= SAME_US):
            self.repeated += 1
            return []
        storm.more += 1
        storm.last_us, storm.last_text = max(at_us, storm.last_us), event.text
        self.folded += 1
        return []

    def due(self) -> list[Event]:
        """Summaries of storms whose minute is over; call it at each tick."""
        now_us = self._clock.wall_us()
        out: list[Event] = []
        for key, storm in list(self._storms.items()):
            if now_us - storm.began_us >= FOLD_US:
                out += self._sum_up(key, storm)
        return out

    def rest(self) -> list[Event]:
        """Summaries of all that is still folded; for the agent's end."""
        out = [event for storm in self._storms.values() for event in self._summary(storm)]
        self._storms.clear()
        return out

    def _sum_up(self, key: _Key, storm: _Storm) -> list[Event]:
        """Ends a minute.  A storm that goes on is not told anew: its next minute begins."""
        out = self._summary(storm)
        del self._storms[key]
        if out:
            began_us = max(storm.began_us + FOLD_US, storm.last_us)
            again = _Storm(storm.first, began_us, storm.last_us, storm.actions, alone=storm.alone)
            self._storms[key] = again
        return out

    def _summary(self, storm: _Storm) -> list[Event]:
        if not storm.more:
            return []
        seconds = max(1, round((storm.last_us - storm.first.time_us) / 1e6))
        text = f"{storm.more:,} more, the last after {seconds:,} s: {storm.last_text}"
        return [_changed(storm.first, storm.last_us, text.rstrip(": "), storm.more)]

    def _record(self, event: DeviceEvent, source: str, at_us: int) -> Event:
        told = advice(event.kind, event.code, event.text)
        return Event(
            at_us,
            self._node,
            event.kind,
            "" if event.slot is None else slot_text(event.slot),
            event.uuid,
            event.code,
            event.text[:_MAX_TEXT],
            source,
            told.action,
            told.concerns,
            "" if event.slot is None else self._occupant_of(event.slot),
        )


def _changed(first: Event, time_us: int, text: str, count: int) -> Event:
    return msgspec.structs.replace(first, time_us=time_us, text=text[:_MAX_TEXT], count=count)


def _key(event: DeviceEvent) -> _Key:
    """By the whole GPU: one source may know the MIG instance, and the other not."""
    slot = -1 if event.slot is None else pack_slot(Slot(*unpack_slot(event.slot)[:4]))
    return event.kind, slot, -1 if event.code is None else event.code
