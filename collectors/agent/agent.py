"""The loop of a node: each tick reads all devices and hands on one record."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

from collectors.agent.answers import Answer
from collectors.agent.around import AgentSettings, Around
from collectors.agent.assembler import NodeAssembler, Reading
from collectors.agent.beat import Beat, Cancel, Then, through
from collectors.agent.driver import OPEN, Driver
from collectors.agent.events import EventDesk
from collectors.agent.folded import FoldedLog
from collectors.agent.lanes import Lanes
from collectors.agent.memory import give_back
from collectors.agent.node_facts import FactsKeeper
from collectors.agent.occupants import Seat
from collectors.agent.slots import Slots
from collectors.contract.flop import FlopWindow
from collectors.contract.identity import new_run, slot_text
from collectors.contract.record import NodeRecord, SlotLabels
from collectors.contract.source import (
    Backend,
    Device,
    DeviceEvent,
    DriverGoneError,
    RestartNeededError,
    Sample,
)
from collectors.contract.topics import Event
from collectors.contract.xids import advice
from collectors.kit.clock import Clock, EventClock

_log = logging.getLogger(__name__)
_GAP_INTERVALS = 5
_STARTED_UP = 3
"""Records after which everything that is used has been loaded."""
_OPEN_PATIENCE_S = 5.0
_END_S = 2.0


class _Tick(NamedTuple):
    """One that has begun; `inquires` says whether devices are asked for more than readings."""

    time_us: int
    inquires: bool
    then: Then


def _nothing() -> None:
    """There is nothing left to end."""


class Agent:
    """Reads in threads, so that a slow driver never holds up the sending."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        settings: AgentSettings,
        on_record: Callable[[NodeRecord], object],
        on_event: Callable[[Event], object],
        *,
        opened: bool = True,
        around: Around | None = None,
    ) -> None:
        self._backend, self._clock, self._settings = backend, clock, settings
        self._on_record, self._on_event = on_record, on_event
        self._around = around or Around()
        folded = FoldedLog(_log, clock)
        self._lanes = Lanes(clock)
        self._slots = Slots(clock, self.say, folded)
        self.driver = Driver(
            backend, clock, self._lanes, self.say, folded, self.take_driver_events,
            rescan_s=settings.rescan_s, retry_s=settings.retry_s, release_s=settings.release_s, stuck_s=settings.stuck_s,
            opened=opened, listens=settings.listens,
        )  # fmt: skip
        self._desk = EventDesk(settings.node, clock, self.occupant_of)
        self._facts = FactsKeeper(
            settings.node, settings.source, backend.origin, settings.interval_s, clock,
            every_s=settings.facts_s,
        )  # fmt: skip
        self._beat = Beat(clock, settings.interval_s, self._begin_tick, self._ticked)
        self._inquire_us = clock.monotonic_us()
        self._event_clock = EventClock(clock)
        self._assembler: NodeAssembler | None = None
        self.records = 0
        self.late_ticks = 0
        """Ticks whose record lacks a device that had not answered in time."""

    async def run(self, stop: asyncio.Event) -> None:
        """Ticks until `stop` or its end.  Raises RestartNeededError: only a new process can go on."""
        self.say("agent_start")
        stopping = asyncio.create_task(stop.wait())
        try:
            await self.driver.start(_OPEN_PATIENCE_S)
            await self._beat.run(stopping)
        except RestartNeededError as error:
            _log.error("restart_needed reason=%s", error)
            self.say("driver_mismatch", text=str(error))
            raise
        finally:
            stopping.cancel()
            for event in self._desk.rest():
                self._on_event(event)
            self.say("agent_stop")
            if self._around.occupants is not None:
                await self._around.occupants.end(_END_S)
            await self.driver.end(_END_S)

    def _ticked(self) -> bool:
        """After a tick; whether there is another."""
        if self._around.on_tick is not None:
            self._around.on_tick()
        if self.records == _STARTED_UP:
            give_back()
        return self.records != self._settings.ticks

    async def tick(self) -> None:
        """One stamp, one reading of all devices, one record of what came in time.

        Raises RestartNeededError.
        """
        await through(self._begin_tick)

    def _begin_tick(self, then: Then) -> Cancel:
        try:
            self.driver.due()
            tick = _Tick(self._event_time_us(), self._inquire_is_due(), then)
            self._slots.begin()
            if self.driver.state == OPEN:
                return self._read(tick)
        except Exception as error:
            then(error)
        else:
            self._slots.all_are(self.driver.state)
            self._end_tick(tick, {})
        return _nothing

    def _read(self, tick: _Tick) -> Cancel:
        settings, devices = self._settings, self._backend.devices()
        return self._lanes.ask(
            devices, lambda answers: self._end_tick(tick, answers, devices),
            inquire=tick.inquires, share_s=settings.interval_s * settings.share,
            deadline_s=settings.interval_s * settings.budget,
        )  # fmt: skip

    def _end_tick(
        self, tick: _Tick, answers: dict[int, Answer], asked: Sequence[Device] = ()
    ) -> None:
        try:
            if asked or self.driver.state == OPEN:
                self._take(asked, answers)
            late_window = self._lanes.late_window
            readings = self._slots.readings(self.occupant_of, late_window, self._exported)
            if readings:
                self._on_record(self._assemble(tick.time_us, readings))
                self.records += 1
            for event in self._desk.due():
                self._on_event(event)
            if tick.inquires:
                self._inquire(answers)
        except Exception as error:
            tick.then(error)
        else:
            tick.then(None)

    def _inquire_is_due(self) -> bool:
        now_us = self._clock.monotonic_us()
        if now_us < self._inquire_us:
            return False
        self._inquire_us = now_us + int(self._settings.processes_s * 1e6)
        return True

    def _take(self, devices: Sequence[Device], answers: dict[int, Answer]) -> None:
        self.late_ticks += len(answers) < len(devices)
        for device in devices:
            try:
                self._slots.take(device, answers.get(device.slot))
            except DriverGoneError as error:
                self.driver.gone(error)
        if self.driver.state != OPEN:
            self._slots.all_are(self.driver.state)
        else:
            self._slots.unlisted({device.slot for device in devices})

    def _event_time_us(self) -> int:
        """The tick's stamp; a step of the wall clock begins a new run."""
        time_us = self._event_clock.now_us()
        if self._event_clock.stepped:
            _log.warning("clock_stepped run=%d", self._assembler.run if self._assembler else 0)
            self._event_clock, self._assembler = EventClock(self._clock), None
            time_us = self._event_clock.now_us()
        return time_us

    def _assemble(self, time_us: int, readings: list[Reading]) -> NodeRecord:
        if self._assembler is None:
            self._assembler = NodeAssembler(
                self._settings.node,
                self._backend.origin,
                new_run(time_us, secrets.randbits(20)),
                longest_gap_us=int(self._settings.interval_s * _GAP_INTERVALS * 1e6),
                rule=self._settings.rule,
            )
        return self._assembler.assemble(time_us, readings)

    def _exported(self, sample: Sample) -> FlopWindow | None:
        window_of = self._around.window_of
        if window_of is None:
            return None
        return window_of(sample.labels, sample.values, self._clock.monotonic_us())

    def _inquire(self, answers: dict[int, Answer]) -> None:
        """Hands on what was asked for beside readings."""
        for answer in answers.values():
            if answer.facts is not None:
                self._facts.take(answer.facts)
        missing = {**self._backend.missing(), **self._around.missing}
        if self.driver.reason:
            missing["driver"] = self.driver.reason
        if self.driver.deaf:
            missing["events"] = self.driver.deaf
        occupants = self._around.occupants
        if occupants is not None:
            missing.update(occupants.missing)
            if self.driver.state == OPEN:
                processes = {
                    slot: answer.processes
                    for slot, answer in answers.items()
                    if answer.processes is not None
                }
                occupants.ask(self._seats(), processes)
        facts = self._facts.due(self._slots, self._backend.driver, missing, *self._around.spool())
        if facts is not None and self._around.on_facts is not None:
            self._around.on_facts(facts)

    def _seats(self) -> list[Seat]:
        return [
            Seat(
                slot,
                known.labels.uuid,
                self._facts.number(slot),
                known.parent,
                self._facts.profile(slot),
            )
            for slot, known in self._slots
        ]

    def occupant_of(self, slot: int) -> str:
        """The job or pod that runs there, "" where none is known."""
        return "" if self._around.occupants is None else self._around.occupants.of(slot)

    def take_driver_events(self, events: Sequence[DeviceEvent]) -> None:
        """What the driver reported."""
        self.take_events(events, "driver")

    def take_events(self, events: Sequence[DeviceEvent], source: str) -> None:
        """What somebody reported: `driver` or `kernel_log`."""
        labels = self._slots.labels()
        for event in events:
            if event.slot in labels and not event.uuid:
                # The kernel log knows places only.
                event = event._replace(uuid=labels[event.slot].uuid)  # noqa: PLW2901
            if event.kind == "mig_changed":
                self.driver.search_soon()
            for told in self._desk.take(event, source):
                self._on_event(told)

    def say(self, kind: str, slot: int | None = None, uuid: str = "", text: str = "") -> None:
        """Publishes an event of the agent's own."""
        advised = advice(kind)
        self._on_event(
            Event(
                self._clock.wall_us(), self._settings.node, kind,
                "" if slot is None else slot_text(slot), uuid, text=text, source="agent",
                action=advised.action, concerns=advised.concerns,
                occupant="" if slot is None else self.occupant_of(slot),
            )
        )  # fmt: skip

    def labels(self) -> dict[int, SlotLabels]:
        """Who sits in the known slots."""
        return self._slots.labels()

    @property
    def slots(self) -> Slots:
        """The known slots and their states."""
        return self._slots

    @property
    def lanes(self) -> Lanes:
        """The reading threads."""
        return self._lanes
