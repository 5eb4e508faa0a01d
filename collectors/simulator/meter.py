"""Meters the physical truth while a fleet runs."""

from __future__ import annotations

from collections import Counter

import numpy as np

from collectors.simulator.faultlog import FaultLog
from collectors.simulator.fleet import Fleet, Tick
from collectors.simulator.hardware import F64
from collectors.simulator.jobs import Job
from collectors.simulator.ledger import HOUR_US
from collectors.simulator.load import gpu_indices
from collectors.simulator.sites import GPUS_PER_NODE
from collectors.simulator.state import Truth
from collectors.simulator.truth import FORMAT, PhysicalHeader, PhysicalRow, PhysicalTruth

_Owner = tuple[str, str, str]
_NOBODY: _Owner = ("unallocated", "", "")
_UPKEEP: _Owner = ("maintenance", "", "")


def _owner(job: Job) -> _Owner:
    return ("tenant", job.tenant, job.project) if job.tenant else _UPKEEP


class PhysicalMeter:
    """Sums what a fleet really did, per hour and owner; call `note` after each `Fleet.step`."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._seed = seed
        self._codes: dict[_Owner, int] = {_NOBODY: 0}
        self._code = np.zeros(len(fleet.entries) * GPUS_PER_NODE, np.int64)
        self._sums: dict[int, F64] = {}
        self._held_us: Counter[tuple[int, _Owner]] = Counter()
        self._since: dict[int, tuple[Job, int]] = {}
        self._sent: Counter[str] = Counter()
        self._faults = FaultLog(fleet)

    def note(self, tick: Tick) -> None:
        """Takes the tick that the fleet has just made."""
        moment = self._fleet.moment
        if moment is None:
            raise ValueError("the fleet has not made a tick yet")
        for change in moment.changes:
            gpus = gpu_indices(change.job)
            if change.started:
                self._code[gpus] = self._codes.setdefault(_owner(change.job), len(self._codes))
                self._since[change.job.number] = (change.job, change.time_us)
            else:
                self._code[gpus] = 0
                self._release(change.job.number, change.time_us)
        count = len(self._codes)
        sums = np.array(
            [np.bincount(self._code, column, count) for column in moment.truth], np.float64
        )
        hour = moment.time_us // HOUR_US
        before = self._sums.get(hour, np.zeros((len(sums), 0)))
        sums[:, : before.shape[1]] += before
        self._sums[hour] = sums
        self._sent.update(tick.nodes)
        self._faults.note(moment)

    def _release(self, number: int, until_us: int) -> None:
        job, since_us = self._since.pop(number)
        self._hold(_owner(job), job.gpus, since_us, until_us)

    def _hold(self, owner: _Owner, gpus: int, since_us: int, until_us: int) -> None:
        while since_us < until_us:
            hour = since_us // HOUR_US
            end_us = min(until_us, (hour + 1) * HOUR_US)
            self._held_us[hour, owner] += gpus * (end_us - since_us)
            since_us = end_us

    def finish(self) -> PhysicalTruth:
        """The truth from the fleet's start to its next tick."""
        fleet = self._fleet
        end_us = fleet.start_us + fleet.tick_number * fleet.interval_us
        for number in list(self._since):
            self._release(number, end_us)
        held = self._held_us.copy()
        for entry in fleet.entries:
            from_us = max(fleet.start_us, entry.from_us)
            to_us = end_us if entry.to_us is None else min(end_us, entry.to_us)
            self._hold(_NOBODY, len(entry.slots), from_us, to_us)
        for (hour, _), gpu_us in held.items():
            self._held_us[hour, _NOBODY] -= gpu_us
        header = PhysicalHeader(
            FORMAT, fleet.inventory.name, self._seed, fleet.start_us, end_us, fleet.interval_us
        )
        return PhysicalTruth(header, self._rows(), self._faults.faults(end_us), dict(self._sent))

    def _rows(self) -> list[PhysicalRow]:
        rows: list[PhysicalRow] = []
        figures = len(Truth._fields)
        hours = {hour for hour, _ in self._held_us} | set(self._sums)
        for hour in sorted(hours):
            sums = self._sums.get(hour, np.zeros((figures, 0)))
            for owner, code in self._codes.items():
                gpu_us = self._held_us.get((hour, owner), 0)
                inside = code < sums.shape[1]
                gflop, energy_mj, *times = sums[:, code].tolist() if inside else [0.0] * figures
                if gpu_us or gflop or energy_mj:
                    active_us, down_us, throttled_us = (round(each) for each in times)
                    rows.append(
                        PhysicalRow(
                            hour, *owner, gpu_us, active_us, gflop, energy_mj, down_us, throttled_us
                        )
                    )
        return rows
