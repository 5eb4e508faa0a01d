"""An agent with all that its settings ask for around it: who is on it, logs, metrics, supervisor."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from collectors.agent.agent import Agent
from collectors.agent.around import AgentSettings, Around, WindowOf
from collectors.agent.integrals import ActivityRule
from collectors.agent.metrics import Family, MetricsServer, exposition
from collectors.agent.occupants import Occupants, Poll, Seat
from collectors.agent.own_metrics import families
from collectors.agent.settings import NodeSettings
from collectors.agent.systemd import Supervisor
from collectors.agent.threads import Listener, in_thread
from collectors.contract.facts import NodeFacts
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.source import Backend, DeviceEvent, GpuProcess
from collectors.contract.topics import Allocation, Event
from collectors.kit.clock import Clock

_log = logging.getLogger(__name__)
_LOG_WAIT_S = 30.0
"""It ends when something is logged."""
_END_S = 1.0
_WELL_TICKS = 5
Waiting = Callable[[], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Receivers:
    """Where what an agent finds out goes."""

    record: Callable[[NodeRecord], object]
    event: Callable[[Event], object]
    allocation: Callable[[Allocation], object]
    facts: Callable[[NodeFacts], object]


class NodeAgent:
    """Runs an `Agent` and all around it.

    `state` is the folder of what must outlive the process, None for nothing
    (what is only printed).  `more` adds to its metrics; `waiting` says how many
    records wait on disk and how many were dropped.
    """

    def __init__(
        self, backend: Backend, clock: Clock, settings: NodeSettings, receivers: Receivers,
        *, opened: bool, ticks: int | None = None, state: Path | None = None,
        waiting: Waiting = lambda: (0, 0), more: Callable[[], Sequence[Family]] = tuple,
    ) -> None:  # fmt: skip
        self._backend, self._clock, self._settings = backend, clock, settings
        self._state = _made(state)
        self._more = more
        self._supervisor = Supervisor(clock, os.environ)
        self._exporter = _exporter(settings, clock)
        self._around = Around(
            on_facts=receivers.facts,
            on_tick=self._ticked,
            occupants=self._occupants(receivers.allocation),
            window_of=None if self._exporter is None else self._exporter[0],
            spool=waiting,
        )
        self.agent = Agent(
            backend, clock, loop_settings(settings, ticks), receivers.record, receivers.event,
            opened=opened, around=self._around,
        )  # fmt: skip
        self._metrics = MetricsServer(self.page, self.healthy)
        self._ticked_us = clock.monotonic_us()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` or its end.  Raises RestartNeededError."""
        settings = self._settings
        if settings.metrics_port:
            address = await self._metrics.start(settings.metrics_host, settings.metrics_port)
            if address:
                _log.info("metrics_served url=%s", address)
        if self._exporter is not None:
            self._exporter[1]()
        kernel_log = self._kernel_log()
        try:
            await self.agent.run(stop)
        finally:
            self._supervisor.stopping()
            await self._metrics.stop()
            if self._exporter is not None:
                await _shortly(in_thread(self._exporter[2], "exporter stop"))
            if kernel_log is not None:
                await _shortly(kernel_log.stop())

    def _occupants(self, receive: Callable[[Allocation], object]) -> Occupants | None:
        """Nobody real is on simulated GPUs."""
        settings = self._settings
        if not settings.attribution or self._backend.origin is not Origin.MEASURED:
            return None
        return Occupants(_attribution(settings, self._clock, self._state), self._clock, receive)

    def _kernel_log(self) -> Listener | None:
        settings = self._settings
        if not settings.kernel_log or self._backend.origin is not Origin.MEASURED:
            return None
        from collectors.kernel_log.reader import KernelLog  # noqa: PLC0415 -- only where it is read

        state = None if self._state is None else self._state / f"kernel-log-{settings.name}.json"
        reader = KernelLog(settings.kernel_log_path, state=state, clock=self._clock)

        def end(error: Exception) -> None:
            self._around.missing["kernel_log"] = str(error)
            _log.info("kernel_log_missing reason=%s", error)

        def take(events: Sequence[DeviceEvent]) -> None:
            self.agent.take_events(events, "kernel_log")

        listener = Listener("kernel_log", reader.wait, take, end, timeout_s=_LOG_WAIT_S)
        listener.start()
        return listener

    def _ticked(self) -> None:
        self._ticked_us = self._clock.monotonic_us()
        self._supervisor.alive(self._status)

    def _status(self) -> str:
        agent, sick = self.agent, sum(known.state != "ok" for _, known in self.agent.slots)
        waiting, _ = self._around.spool()
        return (
            f"driver {agent.driver.state}, {len(agent.slots)} slots, {sick} of them not well; "
            f"{waiting} records wait on disk"
        )

    def healthy(self) -> bool:
        """Whether ticks happen."""
        longest_us = max(_WELL_TICKS * self._settings.interval_s, 10.0) * 1e6
        return self._clock.monotonic_us() - self._ticked_us < longest_us

    def page(self) -> str:
        """Its metrics."""
        return exposition([*families(self.agent, self._settings), *self._more()])


def loop_settings(settings: NodeSettings, ticks: int | None = None) -> AgentSettings:
    """What of the settings is the loop's."""
    return AgentSettings(
        settings.name, settings.interval_s, settings.rescan_s, settings.processes_s,
        settings.facts_s, settings.retry_s, settings.release_s, ticks=ticks,
        rule=ActivityRule(settings.active_gpu_utilization, settings.active_sm_activity),
        source=settings.backend, listens=settings.events,
    )  # fmt: skip


def _made(state: Path | None) -> Path | None:
    if state is None:
        return None
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        _log.warning("state_not_kept folder=%s reason=%s", state, error.strerror)
        return None
    return state


def _attribution(settings: NodeSettings, clock: Clock, state: Path | None) -> Poll:
    """What it needs is loaded in its own thread, when it is first asked."""
    made: list[Poll] = []

    def poll(seats: Sequence[Seat], processes: Sequence[GpuProcess]) -> object:
        if not made:
            made.append(_attributor(settings, clock, state))
        return made[0](seats, processes)

    return poll  # type: ignore[return-value]


def _attributor(settings: NodeSettings, clock: Clock, state: Path | None) -> Poll:
    from collectors.attribution.attributor import Attributor, Place  # noqa: PLC0415
    from collectors.attribution.settings import AttributionSettings  # noqa: PLC0415

    where = AttributionSettings(
        proc=settings.proc, cgroups=settings.cgroups, pod_logs=settings.pod_logs, pod_resources=settings.pod_resources,
        job_mappings=settings.job_mappings,
        state=None if state is None else state / f"claims-{settings.name}.json",
    )  # fmt: skip
    attributor = Attributor(settings.name, where, clock)
    return lambda seats, found: attributor.poll([Place(*seat) for seat in seats], found)


def _exporter(
    settings: NodeSettings, clock: Clock
) -> tuple[WindowOf, Callable[[], None], Callable[[], None]] | None:
    """Windows of a DCGM exporter on this node, its start and its stop."""
    if settings.dcgm_exporter is None:
        return None
    from collectors.scrape.local import LocalExporter  # noqa: PLC0415 -- only where there is one

    exporter = LocalExporter(settings.dcgm_exporter, clock)
    return exporter.window, exporter.start, exporter.stop


async def _shortly(waiting: object) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_S):
            await waiting  # type: ignore[misc]
