"""A simulated site, tick by tick: jobs change, faults strike, physics goes on, records come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.identity import slot_text
from collectors.contract.inventory import Inventory
from collectors.contract.record import SlotLabels
from collectors.contract.topics import Allocation, Event, FacilityReading
from collectors.contract.wire import encode_labels
from collectors.simulator.calendar_time import SiteCalendar
from collectors.simulator.claims import claims_of
from collectors.simulator.effects import Effects, Happening
from collectors.simulator.hardware import I64, Bool, Hardware, make_hardware
from collectors.simulator.identities import make_identities
from collectors.simulator.jobs import Change, Job
from collectors.simulator.load import Load
from collectors.simulator.physics import Physics
from collectors.simulator.presence import Presence
from collectors.simulator.report import Report
from collectors.simulator.scenario import FaultEvent, gpus_of
from collectors.simulator.senders import Senders
from collectors.simulator.sensors import Sensors
from collectors.simulator.sites import GPUS_PER_NODE, entries_from
from collectors.simulator.state import Throttled, Truth
from collectors.simulator.wander import Wander
from collectors.simulator.workload import Workload

PHASE_SHARE = 0.4
"""Nodes tick within this first part of an interval, each at a phase of its own."""
FACILITY_S = 10.0
_JITTER_US = 2_000
_COUNTER_FAULTS = frozenset(("counter_reset", "counter_wrap"))
_WRAP_AT_MJ = 2**32
_NOT_SIMULATED = (
    "fp32_activity", "fp16_activity", "tensor_fp64_activity", "tensor_int8_activity",
    "sm_occupancy", "processes", "power_allocated_w", "retired_page_pending", "power_module_w",
    "energy_allocated_mj", "gflop_fp64", "giop_int8",
)  # fmt: skip
NEVER = frozenset(("fan_speed", *_NOT_SIMULATED))
"""Boards in these servers are passive: no fan, no entry; the rest is not simulated."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What a site sends in one tick: records in order of event time, and what else there is.

    `nodes`, `times_us` and `records` run parallel.
    """

    number: int
    nodes: Sequence[str]
    times_us: Sequence[int]
    records: Sequence[bytes]
    allocations: Sequence[Allocation]
    events: Sequence[Event] = field(default=())
    facility: Sequence[FacilityReading] = field(default=())


@dataclass(frozen=True, slots=True)
class Moment:
    """What really happened in a tick, and which jobs started and ended before it."""

    time_us: int
    truth: Truth
    changes: Sequence[Change]
    throttled: Throttled
    warmer_k: NDArray[np.float64] | None
    """Core temperature over that of the same power without faults; None while there are none."""
    until_us: I64
    """Per node the end of the time that `truth` is of, `dt_us` long."""
    dt_us: I64


class Fleet:
    """All nodes of a site from `start_us` on; the same arguments give the same bytes.

    Raises ScenarioError for a fault at a place that the site has not.
    """

    def __init__(
        self,
        inventory: Inventory,
        seed: int,
        start_us: int,
        interval_s: float = 1.0,
        faults: Sequence[FaultEvent] = (),
    ) -> None:
        self.inventory = inventory
        self.entries = entries_from(inventory, start_us)
        self.start_us = start_us
        self.interval_us = round(interval_s * 1e6)
        self.faults = faults
        self.workload = Workload(inventory, seed, start_us)
        self.hardware: Hardware = make_hardware(self.entries, seed)
        self.effects = Effects(faults, self.entries)
        self._calendar = SiteCalendar(inventory.time_zone)
        self._sensors = Sensors(faults, self.entries, seed)
        self._counter_faults = _counter_faults(faults)
        nodes, gpus = len(self.entries), len(self.entries) * GPUS_PER_NODE
        self._rng = np.random.default_rng([seed, 6])
        self._load = Load(gpus, seed)
        self._phase_us = self._rng.integers(0, round(self.interval_us * PHASE_SHARE), nodes)
        self._jitter_us = min(_JITTER_US, self.interval_us // 20)
        self._before_us = np.zeros(nodes, np.int64)
        self._presence = Presence(self.entries, self.interval_us)
        self._labels = make_identities(self.entries, self.hardware.figures, seed)
        self._pending = self.workload.changes(start_us)
        for change in self._pending:
            self._load.start(change.job)
        self.physics = Physics(self.hardware, seed, self._load.activity(0.0), self.effects)
        known = Report.fixed | Report.renewed | NEVER
        self._wander = {m.name: Wander(m, gpus, seed) for m in CATALOGUE if m.name not in known}
        metrics = [metric.name for metric in CATALOGUE if metric.name not in NEVER]
        self._senders = Senders(
            self.entries, self.hardware, start_us + self._phase_us, self.interval_us, seed, metrics
        )
        self._tick = 0
        self.moment: Moment | None = None
        """What really happened in the last tick."""

    @property
    def tick_number(self) -> int:
        """The number of the next tick."""
        return self._tick

    @property
    def spread_us(self) -> int:
        """How long after a tick is due its last record may be."""
        return round(self.interval_us * PHASE_SHARE) + 4 * self._jitter_us

    def times_us(self) -> I64:
        """The nodes' event times of the next tick; the phases stay, jitter of some ms is new."""
        due_us = self.start_us + self._tick * self.interval_us
        jitter = self._rng.normal(0.0, self._jitter_us, len(self.entries))
        jitter = np.clip(jitter, -2 * self._jitter_us, 2 * self._jitter_us).astype(np.int64)
        return due_us + 2 * self._jitter_us + self._phase_us + jitter

    def step(self) -> Tick:
        """The next tick of the whole site."""
        time_us = self.times_us()
        dt_us = time_us - self._before_us if self._tick else np.zeros_like(time_us)
        self._before_us = time_us
        due_us = self.start_us + self._tick * self.interval_us
        # What holds over the tick is what held when it began.
        happened = self.effects.advance(due_us - self.start_us - self.interval_us)
        events = [event for one in happened for event in self._happen(one)]
        self._break_counters(due_us - self.start_us - self.interval_us)
        self._apply(self.workload.changes(due_us))
        back = self._return(due_us)
        people = self._calendar.activity(due_us)
        activity = self._load.activity((due_us - self.start_us) / 1e6, people)
        away = np.repeat(self._presence.silent | back, GPUS_PER_NODE)
        truth = self.physics.step(
            activity, self._load.memory, np.repeat(dt_us, GPUS_PER_NODE), away
        )
        changes, self._pending = self._pending, []
        self.moment = self._moment(due_us, truth, changes, (time_us, dt_us))
        allocations = [one for change in changes for one in claims_of(change, self.entries)]
        tick = self._records(time_us, allocations, events, self._facility(due_us))
        self._tick += 1
        return tick

    def _moment(
        self, due_us: int, truth: Truth, changes: list[Change], window: tuple[I64, I64]
    ) -> Moment:
        warmer_k = self.physics.heat.warmer_k() if self.effects.thermal else None
        return Moment(due_us, truth, changes, self.physics.throttled, warmer_k, *window)

    def _happen(self, one: Happening) -> list[Event]:
        """Consequences of a fault's moment; returns what a driver reports of it."""
        node, index = divmod(one.gpu, GPUS_PER_NODE)
        time_us = self.start_us + one.time_us
        if one.kind == "agent_crash":
            self._presence.crash(node, time_us + one.code * 1_000_000)
            return []
        self.workload.fail(one.gpu, time_us)
        if one.kind in {"power_lost", "gpu_off_bus"}:
            until_us = None if one.until_us is None else self.start_us + one.until_us
            self.workload.drain(one.gpu, until_us)
        if one.kind == "power_lost":
            return []
        entry = self.entries[node]
        uuid = self._labels[one.gpu].uuid
        return [
            Event(
                time_us, entry.name, "xid", slot_text(entry.slots[index]), uuid, one.code,
                f"simulated {one.kind}", source="driver",
            )
        ]  # fmt: skip

    def _break_counters(self, now_us: int) -> None:
        while self._counter_faults and self._counter_faults[0].at_us <= now_us:
            event = self._counter_faults.pop(0)
            gpus = np.array(gpus_of(event, self.entries), np.intp)
            if event.kind.name == "counter_reset":
                self.physics.meters.reload_driver(gpus)
                self._senders.new_epochs(gpus)
            else:
                self.physics.meters.wrap_energy(gpus, _WRAP_AT_MJ)
                self._senders.changed(set((gpus // GPUS_PER_NODE).tolist()))

    def _return(self, due_us: int) -> Bool:
        """Nodes come and go; returns those whose agents begin a new run now."""
        back = self._presence.update(due_us, self.effects.dead)
        returned = np.zeros(len(self.entries), np.bool_)
        if len(back.nodes):
            returned[back.nodes] = True
            self.physics.meters.restart_agent(_gpus(back.nodes))
            self._senders.restart(back.nodes, due_us)
        if len(back.booted):
            gpus = _gpus(back.booted)
            self.physics.meters.reload_driver(gpus)
            self._senders.new_epochs(gpus)
        return returned

    def _apply(self, changes: list[Change]) -> None:
        """Gives and takes GPUs; where occupants change, a new label epoch begins."""
        nodes: set[int] = set()
        for change in changes:
            (self._load.start if change.started else self._load.end)(change.job)
            self._pending.append(change)
            nodes.update(node for node, _ in change.job.holds)
        self._senders.changed(nodes)

    def _records(
        self,
        time_us: I64,
        allocations: list[Allocation],
        events: list[Event],
        facility: list[FacilityReading],
    ) -> Tick:
        report = self.physics.report
        skip = Report.fixed if self._tick and not report.fixed_changed else frozenset[str]()
        wander = {name: metric.column(self._tick) for name, metric in self._wander.items()}
        columns = {**report.columns, **wander}
        if self._sensors.any:
            columns = self._sensors.apply(columns, (self._tick - 1) * self.interval_us)
        silent = self._presence.silent | self.hardware.dark
        found = self._senders.send(
            self._tick,
            time_us,
            columns,
            skip,
            silent,
            lambda node: encode_labels(self.labels(node)),
        )
        return Tick(
            self._tick,
            [self.entries[node].name for _, node, _ in found],
            [at_us for at_us, _, _ in found],
            [record for _, _, record in found],
            allocations,
            events,
            facility,
        )

    def _facility(self, due_us: int) -> list[FacilityReading]:
        """The inlet of every rack, every 10 s."""
        if self._tick % max(1, round(FACILITY_S * 1e6 / self.interval_us)):
            return []
        inlet_c = self.physics.heat.inlet_c[::GPUS_PER_NODE]
        racks: dict[str, list[float]] = {}
        for entry, value in zip(self.entries, inlet_c.tolist(), strict=True):
            racks.setdefault(entry.rack, []).append(value)
        return [
            FacilityReading(due_us, "rack", rack, "inlet_c", round(sum(each) / len(each), 2))
            for rack, each in racks.items()
        ]

    def labels(self, node: int) -> list[SlotLabels]:
        """Who sits in a node's slots now."""
        first = node * GPUS_PER_NODE
        owners = self._load.owner[first : first + GPUS_PER_NODE].tolist()
        mine = self._labels[first : first + GPUS_PER_NODE]
        return [
            replace(label, occupant=self._occupant(owner))
            for label, owner in zip(mine, owners, strict=True)
        ]

    def _occupant(self, owner: int) -> str:
        job: Job | None = self.workload.running.get(owner)
        return "" if job is None else job.label


def _gpus(nodes: NDArray[np.intp]) -> NDArray[np.intp]:
    return (nodes[:, None] * GPUS_PER_NODE + np.arange(GPUS_PER_NODE)).reshape(-1)


def _counter_faults(faults: Sequence[FaultEvent]) -> list[FaultEvent]:
    found = [event for event in faults if event.kind.name in _COUNTER_FAULTS]
    return sorted(found, key=lambda event: event.at_us)
