"""A simulated site, tick by tick: jobs change, physics goes on, records come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.identity import new_run
from collectors.contract.inventory import Inventory
from collectors.contract.record import SlotLabels
from collectors.contract.topics import Allocation
from collectors.contract.wire import encode_labels
from collectors.simulator.frames import FrameGroup
from collectors.simulator.hardware import I64, Bool, Hardware, make_hardware
from collectors.simulator.identities import make_identities
from collectors.simulator.load import Load
from collectors.simulator.physics import Physics, Truth
from collectors.simulator.sites import GPUS_PER_NODE
from collectors.simulator.wander import Wander
from collectors.simulator.workload import Change, Job, Workload

PHASE_SHARE = 0.4
"""Nodes tick within this first part of an interval, each at a phase of its own."""
_JITTER_US = 2_000
_GPM_ONLY = frozenset(("sm_activity", "dram_activity", "thermal_margin_c"))
_COUNTED = frozenset(("tensor_activity", "gflop", "gflop_lo", "gflop_hi"))
_NOT_SIMULATED = (
    "sm_clock_mean_mhz", "flop_method", "flop_flags", "fp64_activity", "fp32_activity",
    "fp16_activity", "tensor_fp64_activity", "tensor_int8_activity", "sm_occupancy",
    "clocks_event_reasons", "processes", "pcie_link_generation", "pcie_link_width",
    "power_allocated_w", "retired_page_pending", "power_module_w", "gflop_measured_us",
    "energy_allocated_mj", "pcie_tx_bytes", "pcie_rx_bytes", "nvlink_tx_bytes", "nvlink_rx_bytes",
    "nvlink_errors", "row_remap_corrected", "row_remap_uncorrected", "gflop_fp64", "giop_int8",
)  # fmt: skip
NEVER = frozenset(("fan_speed", *_NOT_SIMULATED))
"""Boards in these servers are passive: no fan, no entry; the rest is not simulated."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What a site sends in one tick: records in order of event time, and changed allocations.

    `nodes`, `times_us` and `records` run parallel.
    """

    number: int
    nodes: Sequence[str]
    times_us: Sequence[int]
    records: Sequence[bytes]
    allocations: Sequence[Allocation]


@dataclass(frozen=True, slots=True)
class Moment:
    """What really happened in a tick, and which jobs started and ended before it."""

    time_us: int
    truth: Truth
    changes: Sequence[Change]
    slowed: Bool
    """Clocks are held down by heat."""


class Fleet:
    """All nodes of a site from `start_us` on; the same arguments give the same bytes."""

    def __init__(
        self, inventory: Inventory, seed: int, start_us: int, interval_s: float = 1.0
    ) -> None:
        self.inventory = inventory
        self.entries = inventory.at(start_us)
        self.start_us = start_us
        self.interval_us = round(interval_s * 1e6)
        self.workload = Workload(inventory, seed, start_us)
        self.hardware: Hardware = make_hardware(self.entries, seed)
        nodes, gpus = len(self.entries), len(self.entries) * GPUS_PER_NODE
        self._rng = np.random.default_rng([seed, 6])
        self._load = Load(gpus, seed)
        self._phase_us = self._rng.integers(0, round(self.interval_us * PHASE_SHARE), nodes)
        self._jitter_us = min(_JITTER_US, self.interval_us // 20)
        self._before_us = np.zeros(nodes, np.int64)
        self._label_epoch = np.zeros(nodes, np.int64)
        self._label_ticks = max(1, round(60e6 / self.interval_us))
        self._epochs = np.random.default_rng([seed, 7, start_us // 1000]).integers(
            1, 1 << 62, (nodes, GPUS_PER_NODE), np.uint64
        )
        self._runs = [
            new_run(start_us + int(phase), int(self._rng.integers(1 << 20)))
            for phase in self._phase_us
        ]
        self._labels = make_identities(self.entries, self.hardware.figures, seed)
        self._pending = self.workload.changes(start_us)
        for change in self._pending:
            self._load.start(change.job)
        self._physics = Physics(self.hardware, seed, self._load.activity(0.0))
        known = Physics.fixed | Physics.renewed | NEVER
        self._wander = {m.name: Wander(m, gpus, seed) for m in CATALOGUE if m.name not in known}
        self._groups = self._make_groups()
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

    def _make_groups(self) -> list[FrameGroup]:
        names = [metric.name for metric in CATALOGUE if metric.name not in NEVER]
        by_layout: dict[tuple[int, bool, bool], list[int]] = {}
        for index, entry in enumerate(self.entries):
            if not self.hardware.dark[index]:
                gpu = index * GPUS_PER_NODE
                key = (
                    len(entry.name),
                    bool(self.hardware.gpm[gpu]),
                    bool(self.hardware.counted[gpu]),
                )
                by_layout.setdefault(key, []).append(index)
        groups: list[FrameGroup] = []
        for (_, gpm, counted), members in by_layout.items():
            out = (frozenset[str]() if gpm else _GPM_ONLY) | (
                frozenset(("gflop_estimated",)) if counted else _COUNTED
            )
            groups.append(
                FrameGroup(
                    np.array(members, np.intp),
                    [self.entries[index].name for index in members],
                    [self.entries[index].slots for index in members],
                    self._epochs[members],
                    [self._runs[index] for index in members],
                    [name for name in names if name not in out],
                )
            )
        return groups

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
        changed = self._apply(self.workload.changes(due_us))
        activity = self._load.activity((due_us - self.start_us) / 1e6)
        truth = self._physics.step(activity, self._load.memory, np.repeat(dt_us, GPUS_PER_NODE))
        changes, self._pending = self._pending, []
        self.moment = Moment(due_us, truth, changes, self._physics.slowed)
        tick = self._records(time_us, changed, [self.workload.allocation(c) for c in changes])
        self._tick += 1
        return tick

    def _apply(self, changes: list[Change]) -> set[int]:
        """Gives and takes GPUs; returns the nodes whose occupants changed."""
        nodes: set[int] = set()
        for change in changes:
            if change.started:
                self._load.start(change.job)
            else:
                self._load.end(change.job)
            self._pending.append(change)
            nodes.update(node for node, _ in change.job.holds)
        for node in nodes:
            self._label_epoch[node] += 1
        return nodes

    def _records(self, time_us: I64, changed: set[int], allocations: list[Allocation]) -> Tick:
        skip = Physics.fixed if self._tick else frozenset[str]()
        wander = {name: metric.column(self._tick) for name, metric in self._wander.items()}
        columns = {**self._physics.columns, **wander}
        found: list[tuple[int, int, bytes]] = []
        due = self._tick % self._label_ticks
        for group in self._groups:
            group.write(columns, skip)
            records = group.records(self._tick, time_us, self._label_epoch)
            for node, at_us, record in zip(
                group.nodes.tolist(), time_us[group.nodes].tolist(), records, strict=True
            ):
                labelled = node % self._label_ticks == due or node in changed or not self._tick
                found.append(
                    (at_us, node, record + self._label_bytes(node) if labelled else record)
                )
        found.sort()
        return Tick(
            self._tick,
            [self.entries[node].name for _, node, _ in found],
            [at_us for at_us, _, _ in found],
            [record for _, _, record in found],
            allocations,
        )

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
        return job.id if job is not None and job.tenant else ""

    def _label_bytes(self, node: int) -> bytes:
        return encode_labels(self.labels(node))
