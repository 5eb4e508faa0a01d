"""The loop of a node: each tick reads all devices and hands on one record."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from collectors.agent.assembler import NodeAssembler, Reading
from collectors.agent.integrals import ActivityRule
from collectors.agent.memory import give_back
from collectors.contract.identity import new_run, slot_text
from collectors.contract.record import NodeRecord, SlotLabels
from collectors.contract.source import (
    Backend,
    BackendUnavailableError,
    DeviceLostError,
    DriverGoneError,
    RestartNeededError,
    TransientError,
)
from collectors.contract.topics import Event
from collectors.kit.clock import Clock, EventClock

_log = logging.getLogger(__name__)
_GAP_INTERVALS = 5
_STARTED_UP = 3
"""Records after which everything that is used has been loaded."""
_LONGEST_BACKOFF_S = 60.0


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How a node is read; times in seconds."""

    node: str
    interval_s: float = 1.0
    rescan_s: float = 60.0
    budget: float = 0.9
    """Share of the interval after which a tick is left out rather than stamped wrongly."""
    ticks: int | None = None
    """Records after which it ends by itself; None for no end."""
    rule: ActivityRule = field(default_factory=ActivityRule)


@dataclass(slots=True)
class _Known:
    """A slot once seen: it stays known while its device, or the whole driver, is away."""

    labels: SlotLabels
    energy_epoch: int
    down: bool = False


class Agent:
    """Reads in one thread of its own, so that a slow driver never holds up the sending."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        settings: AgentSettings,
        on_record: Callable[[NodeRecord], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self._backend, self._clock, self._settings = backend, clock, settings
        self._on_record, self._on_event = on_record, on_event
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="devices")
        self._pending: asyncio.Future[list[Reading]] | None = None
        self._known: dict[int, _Known] = {}
        self._open = True
        self._reopen_us = 0
        self._backoff_s = 1.0
        self._rescan_us = clock.monotonic_us() + int(settings.rescan_s * 1e6)
        self._event_clock = EventClock(clock)
        self._assembler: NodeAssembler | None = None
        self.records = 0
        self.late_ticks = 0
        """Ticks left out because the devices had not answered in time."""

    async def run(self, stop: asyncio.Event) -> None:
        """Ticks until `stop` or its end.  Raises RestartNeededError: only a new process can go on."""
        interval_us = int(self._settings.interval_s * 1e6)
        due_us = self._clock.monotonic_us()
        self._say("agent_start")
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await self.tick()
                if self.records == self._settings.ticks:
                    break
                if self.records == _STARTED_UP:
                    give_back()
                now_us = self._clock.monotonic_us()
                due_us += interval_us * max(1, -(-(now_us - due_us) // interval_us))
                await asyncio.wait({stopping}, timeout=(due_us - now_us) / 1e6)
        finally:
            stopping.cancel()
            self._say("agent_stop")
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def tick(self) -> None:
        """One stamp, one reading of all devices, one record."""
        time_us = self._event_time_us()
        if self._pending is None:
            loop = asyncio.get_running_loop()
            self._pending = loop.run_in_executor(self._executor, self._read_all)
        budget_s = self._settings.interval_s * self._settings.budget
        done, _ = await asyncio.wait({self._pending}, timeout=budget_s)
        if not done:
            self.late_ticks += 1
            _log.warning("tick_late total=%d", self.late_ticks)
            return
        pending, self._pending = self._pending, None
        readings = pending.result()
        if readings:
            self._on_record(self._assemble(time_us, readings))
            self.records += 1

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

    def labels(self) -> dict[int, SlotLabels]:
        """Who sits in the known slots."""
        return {slot: known.labels for slot, known in self._known.items()}

    def _read_all(self) -> list[Reading]:
        """All known slots; runs in the devices' thread."""
        try:
            self._reopen_or_rescan()
            values = self._read_devices() if self._open else {}
        except DriverGoneError as error:
            self._driver_gone(error)
            values = {}
        return [
            Reading(known.labels, known.energy_epoch, values.get(slot))
            for slot, known in sorted(self._known.items())
        ]

    def _read_devices(self) -> dict[int, dict[str, float]]:
        values: dict[int, dict[str, float]] = {}
        for device in self._backend.devices():
            slot = device.slot
            known = self._known.setdefault(slot, _Known(device.labels, device.energy_epoch))
            known.labels, known.energy_epoch = device.labels, device.energy_epoch
            try:
                values[slot] = dict(device.read()[0].values)
                self._mark(slot, known, down=False)
            except TransientError as error:
                _log.info("gpu_silent slot=%s reason=%s", slot_text(slot), error)
            except DeviceLostError as error:
                self._mark(slot, known, down=True, text=str(error))
        return values

    def _mark(self, slot: int, known: _Known, *, down: bool, text: str = "") -> None:
        if known.down == down:
            return
        known.down = down
        kind = "gpu_lost" if down else "gpu_recovered"
        _log.warning("%s slot=%s reason=%s", kind, slot_text(slot), text)
        self._say(kind, slot, known.labels.uuid, text)

    def _say(self, kind: str, slot: int | None = None, uuid: str = "", text: str = "") -> None:
        place = "" if slot is None else slot_text(slot)
        time_us = self._clock.wall_us()
        self._on_event(Event(time_us, self._settings.node, kind, place, uuid, text=text))

    def _reopen_or_rescan(self) -> None:
        now_us = self._clock.monotonic_us()
        if self._open and now_us >= self._rescan_us:
            self._rescan_us = now_us + int(self._settings.rescan_s * 1e6)
            try:
                self._backend.rescan()
            except (TransientError, DeviceLostError) as error:
                _log.warning("rescan_failed reason=%s", error)
        elif not self._open and now_us >= self._reopen_us:
            try:
                self._backend.open()
            except RestartNeededError:
                raise
            except BackendUnavailableError as error:
                self._wait_to_reopen(str(error))
                return
            self._open, self._backoff_s = True, 1.0
            _log.info("driver_back")

    def _driver_gone(self, error: DriverGoneError) -> None:
        for slot, known in self._known.items():
            self._mark(slot, known, down=True, text=str(error))
        self._backend.close()
        self._open = False
        self._wait_to_reopen(str(error))

    def _wait_to_reopen(self, reason: str) -> None:
        self._reopen_us = self._clock.monotonic_us() + int(self._backoff_s * 1e6)
        _log.warning("driver_away retry_s=%.0f reason=%s", self._backoff_s, reason)
        self._backoff_s = min(self._backoff_s * 2, _LONGEST_BACKOFF_S)
