"""The simulator as a source of records: in real time, N times faster, or as fast as it goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential
from tenacity import RetryCallState as Attempt

from collectors.contract.bus import BusUnavailableError, Message, Producer, RefusedError
from collectors.contract.inventory import Inventory
from collectors.contract.record import Origin
from collectors.contract.source import SourceOptions
from collectors.contract.topics import ALLOC, EVENTS, FACILITY, FACTS, GPU, Allocation, dumps
from collectors.kit.clock import Clock
from collectors.simulator.claims import OpenClaims, ended
from collectors.simulator.fleet import Fleet, Tick
from collectors.simulator.meter import PhysicalMeter
from collectors.simulator.oracle import Oracle
from collectors.simulator.schedule import OPTIONS, make_schedule
from collectors.simulator.sites import make_site
from collectors.simulator.telemetry import ARRIVAL_DELAY_US, Outgoing, Telemetry
from collectors.simulator.told import simulated_facts
from collectors.simulator.truth import write_observable, write_physical

DEFAULT_SITE = "aisc-phase1"
FACTS_US = 600_000_000
"""How often each node says anew how it measures."""
_log = logging.getLogger(__name__)


class SimulatorSource:
    """A simulated site that publishes node records and allocations.

    With `speed` 1 and no `start_us` it lives now.  Else its messages carry
    their arrival time.  With `truth` both truths are written there at the end;
    with `observable` off only the physical one, for who computes the other itself.
    `refused` counts messages that the bus would never take.
    """

    def __init__(self, options: SourceOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._inventory = make_site(options.site or DEFAULT_SITE)
        self._facts = options.topic_prefix + FACTS
        self._facts_due_us = 0
        self._gpu, self._alloc = options.topic_prefix + GPU, options.topic_prefix + ALLOC
        self._claims = OpenClaims(options.path)
        self._lives_now = options.speed == 1.0 and options.start_us is None
        self._facility = options.extra.get("facility", "on") != "off"
        self.refused = 0
        self.sent = 0

    @property
    def origin(self) -> Origin:
        """Simulated."""
        return Origin.SIMULATED

    @property
    def inventory(self) -> Inventory:
        """The simulated site."""
        return self._inventory

    async def run(self, producer: Producer, stop: asyncio.Event) -> None:
        """Publishes until `stop` is set or `minutes` are over, then ends the open claims."""
        options = self._options
        start_us = self._clock.wall_us() if options.start_us is None else options.start_us
        length_us = None if options.minutes is None else round(options.minutes * 60e6)
        entries = self._inventory.at(start_us)
        faults = make_schedule(options.extra, entries, options.seed, length_us)
        fleet = Fleet(self._inventory, options.seed, start_us, options.interval_s, faults)
        telemetry = Telemetry(faults, entries, options.seed, start_us)
        recorder = _TruthRecorder(fleet, options) if options.truth is not None else None
        over = [ended(claim, start_us) for claim in self._claims.left_over()]
        await self._publish(producer, stop, self._allocation_messages(over, start_us))
        began_us = self._clock.monotonic_us()
        ticks = (
            None if options.minutes is None else round(options.minutes * 60 / options.interval_s)
        )
        while not stop.is_set() and (ticks is None or fleet.tick_number < ticks):
            await self._wait_for(fleet, began_us, stop)
            if stop.is_set():
                break
            await self._send_tick(producer, stop, fleet, telemetry, recorder)
        await self._send_records(producer, stop, telemetry.rest(), recorder)
        end_us = start_us + fleet.tick_number * fleet.interval_us
        closed = self._claims.closed(end_us)
        self._claims.note(closed)
        if recorder is not None:
            recorder.write(closed)
        await self._publish(producer, stop, self._allocation_messages(closed, end_us))

    async def _wait_for(self, fleet: Fleet, began_us: int, stop: asyncio.Event) -> None:
        """Until the last event time of the next tick has come; gives way to others in any case."""
        speed = self._options.speed
        if speed is None:
            await asyncio.sleep(0)
            return
        due_us = (fleet.tick_number * fleet.interval_us + fleet.spread_us) / speed
        wait_s = (began_us + due_us - self._clock.monotonic_us()) / 1e6
        await self._pause(wait_s, stop)

    async def _pause(self, seconds: float, stop: asyncio.Event) -> None:
        waits = [
            asyncio.ensure_future(self._clock.sleep(max(0.0, seconds))),
            asyncio.ensure_future(stop.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _send_tick(
        self,
        producer: Producer,
        stop: asyncio.Event,
        fleet: Fleet,
        telemetry: Telemetry,
        recorder: _TruthRecorder | None,
    ) -> None:
        tick = fleet.step()
        due_us = fleet.start_us + tick.number * fleet.interval_us
        self._claims.note(list(tick.allocations))
        if recorder is not None:
            recorder.note(tick)
        if due_us >= self._facts_due_us:
            self._facts_due_us = due_us + FACTS_US
            await self._publish(producer, stop, self._facts_messages(fleet, due_us))
        # A claim must be known before the first record of its job is.
        first = self._allocation_messages(tick.allocations, due_us)
        await self._publish(producer, stop, first + self._other_messages(tick, due_us))
        arrived = telemetry.through(tick, due_us + fleet.interval_us)
        await self._send_records(producer, stop, arrived, recorder)

    def _facts_messages(self, fleet: Fleet, time_us: int) -> list[Message]:
        told = simulated_facts(fleet, self._options.seed, time_us)
        arrival_us = self._at(time_us + ARRIVAL_DELAY_US)
        return [Message(self._facts, each.key, dumps(each), arrival_us) for each in told]

    async def _send_records(
        self,
        producer: Producer,
        stop: asyncio.Event,
        arrived: Sequence[Outgoing],
        recorder: _TruthRecorder | None,
    ) -> None:
        if recorder is not None:
            recorder.sent(arrived)
        messages = [
            Message(self._gpu, one.node.encode(), one.record, self._at(one.arrival_us))
            for one in arrived
        ]
        await self._publish(producer, stop, messages)

    def _other_messages(self, tick: Tick, due_us: int) -> list[Message]:
        arrival_us = self._at(due_us + ARRIVAL_DELAY_US)
        prefix = self._options.topic_prefix
        events = [
            Message(prefix + EVENTS, event.node.encode(), dumps(event), arrival_us)
            for event in tick.events
        ]
        facility = [
            Message(prefix + FACILITY, one.place.encode(), dumps(one), arrival_us)
            for one in (tick.facility if self._facility else ())
        ]
        return events + facility

    def _allocation_messages(
        self, allocations: Sequence[Allocation], time_us: int
    ) -> list[Message]:
        arrival_us = self._at(time_us + ARRIVAL_DELAY_US)
        return [Message(self._alloc, each.key, dumps(each), arrival_us) for each in allocations]

    def _at(self, arrival_us: int) -> int | None:
        return None if self._lives_now else arrival_us

    async def _publish(
        self, producer: Producer, stop: asyncio.Event, messages: list[Message]
    ) -> None:
        """Sends until it is acknowledged, however long the bus is away; gives up when stopping."""
        if not messages:
            return

        def give_up(_: Attempt) -> bool:
            return stop.is_set()

        async def pause(seconds: float) -> None:
            await self._pause(seconds, stop)

        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(BusUnavailableError),
                wait=wait_random_exponential(multiplier=0.2, max=5),
                stop=give_up,
                sleep=pause,
                before_sleep=_say_away,
                reraise=True,
            ):
                with attempt:
                    await producer.send(messages)
            self.sent += len(messages)
        except RefusedError as error:
            self.refused += 1
            _log.error("record_refused %s", error)
        except BusUnavailableError as error:
            _log.error("records_lost count=%d bus is away at the end: %s", len(messages), error)


def _say_away(attempt: Attempt) -> None:
    if attempt.attempt_number == 1 and attempt.outcome is not None:
        _log.warning("bus_away %s", attempt.outcome.exception())


class _TruthRecorder:
    """Feeds both truths while the site is simulated."""

    def __init__(self, fleet: Fleet, options: SourceOptions) -> None:
        self._options = options
        self._meter = PhysicalMeter(fleet, options.seed)
        observable = options.extra.get("observable", "on") != "off"
        self._oracle = Oracle(fleet.inventory) if observable else None

    def note(self, tick: Tick) -> None:
        """Takes a tick as it was made."""
        self._meter.note(tick)
        self._allocated(tick.allocations)

    def _allocated(self, allocations: Sequence[Allocation]) -> None:
        if self._oracle is not None:
            for allocation in allocations:
                self._oracle.add_allocation(dumps(allocation))

    def sent(self, arrived: Sequence[Outgoing]) -> None:
        """Takes records as they arrive."""
        if self._oracle is not None:
            for one in arrived:
                self._oracle.add_record(one.record, one.arrival_us)

    def write(self, closed: Sequence[Allocation]) -> None:
        """Writes the truths."""
        self._allocated(closed)
        if self._options.truth is not None:
            write_physical(self._options.truth, self._meter.finish())
            if self._oracle is not None:
                write_observable(self._options.truth, self._oracle.finish())


def create(options: SourceOptions, clock: Clock) -> SimulatorSource:
    """The entry point; raises ValueError for options that a simulation has no use for.

    `path` is a file that remembers open claims, so that a start after a crash
    ends what the earlier life left open.
    """
    if options.node is not None:
        raise ValueError("a simulation has all nodes of its site: leave out node, or use the agent")
    unknown = sorted(set(options.extra) - {*OPTIONS, "facility", "observable"})
    if options.keep_time or unknown:
        raise ValueError(f"a simulation has no option {', '.join(unknown) or 'keep_time'}")
    if options.speed is not None and options.speed <= 0:
        raise ValueError(
            f"speed {options.speed}: write a number above 0, or leave it out for the fastest"
        )
    if options.interval_s < 0.05:
        raise ValueError(f"interval {options.interval_s} s: write 0.05 or more")
    source = SimulatorSource(options, clock)
    start_us = clock.wall_us() if options.start_us is None else options.start_us
    # A slip in what is to go wrong is told before anything starts.
    make_schedule(options.extra, source.inventory.at(start_us), options.seed, 1)
    return source
