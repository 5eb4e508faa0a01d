"""The agents of a simulated site: runs, sequences, label epochs, and the bytes they send."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.identity import new_run
from collectors.contract.inventory import InstalledNode
from collectors.simulator.frames import FrameGroup
from collectors.simulator.hardware import I64, Bool, Hardware
from collectors.simulator.report import Column
from collectors.simulator.sites import GPUS_PER_NODE

SELDOM_S = 30.0
"""How often an agent reads what changes seldom; each node in its own tick of it."""
_LABELS_S = 60.0
_GPM_ONLY = frozenset(("sm_activity", "dram_activity", "fp64_activity", "thermal_margin_c"))
_COUNTED = frozenset(
    ("tensor_activity", "sm_clock_mean_mhz", "gflop", "gflop_lo", "gflop_hi", "gflop_measured_us")
)
Labeller = Callable[[int], bytes]
"""The encoded labels of a node."""


class Senders:
    """One agent per node; columns over N nodes."""

    def __init__(
        self,
        entries: Sequence[InstalledNode],
        hardware: Hardware,
        starts_us: I64,
        interval_us: int,
        seed: int,
        metrics: Sequence[str],
    ) -> None:
        self._entries, self._hw, self._metrics = entries, hardware, metrics
        self._rng = np.random.default_rng([seed, 6, 1])
        n = len(entries)
        self.run = np.array(
            [new_run(at, int(self._rng.integers(1 << 20))) for at in starts_us.tolist()], np.uint64
        )
        self.sequence: I64 = np.zeros(n, np.int64)
        self.label_epoch: I64 = np.zeros(n, np.int64)
        # A driver that is loaded anew has other epochs than that of any earlier simulation.
        self._epoch_rng = np.random.default_rng([seed, 7, int(starts_us.min()) // 1000])
        self.energy_epochs: NDArray[np.uint64] = self._epoch_rng.integers(
            1, 1 << 62, (n, GPUS_PER_NODE), np.uint64
        )
        self._fresh: Bool = np.ones(n, np.bool_)
        """Whose next record is the first of a run."""
        self._phases = max(1, round(SELDOM_S * 1e6 / interval_us))
        self._label_ticks = max(1, round(_LABELS_S * 1e6 / interval_us))
        seldom = {metric.name for metric in CATALOGUE if metric.every_s > 0}
        everything = np.arange(n)
        self._core = self._groups(everything, [name for name in metrics if name not in seldom])
        self._full = [
            self._groups(everything[phase :: self._phases], list(metrics))
            for phase in range(self._phases)
        ]
        self._epochs_changed = False

    def _groups(self, nodes: NDArray[np.int64], metrics: Sequence[str]) -> list[FrameGroup]:
        by_layout: dict[tuple[int, bool, bool], list[int]] = {}
        indices: list[int] = nodes.tolist()
        for index in indices:
            if not self._hw.dark[index]:
                gpu = index * GPUS_PER_NODE
                measured, counted = bool(self._hw.gpm[gpu]), bool(self._hw.counted[gpu])
                key = (len(self._entries[index].name), measured, counted)
                by_layout.setdefault(key, []).append(index)
        groups: list[FrameGroup] = []
        for (_, gpm, counted), members in by_layout.items():
            out = (frozenset[str]() if gpm else _GPM_ONLY) | (
                frozenset(("gflop_estimated",)) if counted else _COUNTED
            )
            groups.append(
                FrameGroup(
                    np.array(members, np.intp),
                    [self._entries[index].name for index in members],
                    [self._entries[index].slots for index in members],
                    self.energy_epochs[members],
                    self.run[members].tolist(),
                    [name for name in metrics if name not in out],
                )
            )
        return groups

    def restart(self, nodes: NDArray[np.intp], time_us: int) -> None:
        """New runs, whose next records are their first."""
        for node in nodes.tolist():
            self.run[node] = new_run(time_us, int(self._rng.integers(1 << 20)))
        self.sequence[nodes] = 0
        self.label_epoch[nodes] = 0
        self._fresh[nodes] = True

    def new_epochs(self, gpus: NDArray[np.intp]) -> None:
        """Energy counters of these GPUs begin again: a new label epoch of their nodes."""
        nodes, index = np.divmod(gpus, GPUS_PER_NODE)
        self.energy_epochs[nodes, index] = self._epoch_rng.integers(
            1, 1 << 62, len(gpus), np.uint64
        )
        self.changed(set(nodes.tolist()))
        self._epochs_changed = True

    def changed(self, nodes: Set[int]) -> None:
        """Occupants, epochs or counters of these nodes changed: a new label epoch, labels with it."""
        for node in nodes:
            self.label_epoch[node] += 1
            self._fresh[node] = True

    def send(
        self,
        tick: int,
        time_us: I64,
        columns: Mapping[str, Column],
        skip: frozenset[str],
        silent: Bool,
        labels: Labeller,
    ) -> list[tuple[int, int, bytes]]:
        """(event time, node, record) of every node that is not silent, in order of time.

        `skip` are columns that have not changed since the last tick.
        """
        due = tick % self._phases
        full = range(self._phases) if tick == 0 else (due,)
        found: list[tuple[int, int, bytes]] = []
        label_due = tick % self._label_ticks
        groups = [(group, frozenset[str](), True) for phase in full for group in self._full[phase]]
        if tick:
            groups += [(group, skip, False) for group in self._core]
        for group, unchanged, is_full in groups:
            if self._epochs_changed or is_full:
                group.set_epochs(self.energy_epochs)
            group.write(columns, unchanged)
            records = group.records(self.run, self.sequence, time_us, self.label_epoch)
            for node, record in zip(group.nodes.tolist(), records, strict=True):
                if silent[node] or (not is_full and node % self._phases == due):
                    continue
                labelled = node % self._label_ticks == label_due or self._fresh[node]
                found.append(
                    (int(time_us[node]), node, record + labels(node) if labelled else record)
                )
        self._epochs_changed = False
        self._fresh[~silent] = False
        self.sequence[~silent] += 1
        found.sort()
        return found
