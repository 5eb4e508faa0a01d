"""Meters the physical truth while a fleet runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np

from collectors.simulator.faultlog import FaultLog
from collectors.simulator.fleet import Fleet, Moment, Tick
from collectors.simulator.hardware import F64
from collectors.simulator.jobs import NOBODY, Job
from collectors.simulator.ledger import HOUR_US
from collectors.simulator.load import gpu_indices
from collectors.simulator.sites import GPUS_PER_NODE
from collectors.simulator.state import Truth
from collectors.simulator.truth import FORMAT, PhysicalHeader, PhysicalRow, PhysicalTruth

_Owner = tuple[str, str, str]
_Holders = tuple[tuple[_Owner, int], ...]
"""Owners with the parts that each has."""
_NOBODY: _Owner = NOBODY[:3]
_ALONE: _Holders = ((_NOBODY, 1),)
_SUMS = 6


def _summed(truth: Truth) -> F64:
    columns = (
        truth.gflop, truth.energy_mj, truth.active_us, truth.down_us, truth.throttled_us,
        truth.shown,
    )  # fmt: skip
    return np.array(columns, np.float64)


def _holders(job: Job) -> _Holders:
    return tuple((owner[:3], parts) for owner, parts in job.shares)


class PhysicalMeter:
    """Sums what a fleet really did, per hour and owner; call `note` after each `Fleet.step`.

    What several share is theirs by their parts, as their claims say.
    """

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._seed = seed
        self._codes: dict[_Holders, int] = {_ALONE: 0}
        self._code = np.zeros(len(fleet.entries) * GPUS_PER_NODE, np.int64)
        self._next: dict[int, list[tuple[int, int]]] = defaultdict(list)
        """By GPU the changes to come: time, code."""
        self._before: Moment | None = None
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
            code = 0
            if change.started:
                code = self._codes.setdefault(_holders(change.job), len(self._codes))
                self._since[change.job.number] = (change.job, change.time_us)
            else:
                self._release(change.job.number, change.time_us)
            for gpu in gpu_indices(change.job).tolist():
                self._next[gpu].append((change.time_us, code))
        # A node's tick ends after the site's: what changes in its last part is known now.
        if self._before is not None:
            self._book(self._before)
        self._before = moment
        self._sent.update(tick.nodes)
        self._faults.note(moment)

    def _book(self, moment: Moment) -> None:
        """Adds what was done in a tick to who held the GPUs then."""
        until_us = np.repeat(moment.until_us, GPUS_PER_NODE)
        since_us = until_us - np.repeat(moment.dt_us, GPUS_PER_NODE)
        done = _summed(moment.truth)
        divided = since_us // HOUR_US != (until_us - 1) // HOUR_US
        divided[list(self._next)] = True
        for gpu in np.flatnonzero(divided).tolist():
            self._divide(gpu, int(since_us[gpu]), int(until_us[gpu]), done[:, gpu])
        whole = np.flatnonzero(~divided)
        for hour in np.unique(since_us[whole] // HOUR_US).tolist():
            gpus = whole[since_us[whole] // HOUR_US == hour]
            sums = self._hour(hour)
            for at, column in enumerate(done):
                sums[at] += np.bincount(self._code[gpus], column[gpus], sums.shape[1])

    def _divide(self, gpu: int, since_us: int, until_us: int, done: F64) -> None:
        """A tick in which an hour began or the holder changed: each has its time's part."""
        changes = self._next.pop(gpu, [])
        cuts = {since_us, until_us, until_us // HOUR_US * HOUR_US}
        cuts |= {time_us for time_us, _ in changes}
        within = sorted(cut for cut in cuts if since_us <= cut <= until_us)
        for low, high in pairwise(within):
            code = int(self._code[gpu])
            code = next((to for at, to in reversed(changes) if at <= low), code)
            self._hour(low // HOUR_US)[:, code] += done * ((high - low) / (until_us - since_us))
        for at, code in changes:
            if at < until_us:
                self._code[gpu] = code
            else:
                self._next[gpu].append((at, code))

    def _hour(self, hour: int) -> F64:
        """The sums of an hour, with a column for every code."""
        before = self._sums.get(hour, np.zeros((_SUMS, 0)))
        if before.shape[1] < len(self._codes):
            more = len(self._codes) - before.shape[1]
            before = self._sums[hour] = np.pad(before, ((0, 0), (0, more)))
        return before

    def _release(self, number: int, until_us: int) -> None:
        job, since_us = self._since.pop(number)
        self._hold(_holders(job), job.gpus, since_us, until_us)

    def _hold(self, holders: _Holders, gpus: int, since_us: int, until_us: int) -> None:
        whole = sum(parts for _, parts in holders)
        while since_us < until_us:
            hour = since_us // HOUR_US
            end_us = min(until_us, (hour + 1) * HOUR_US)
            held_us, low = gpus * (end_us - since_us), 0
            for owner, parts in holders:
                until = held_us * (low + parts) // whole
                self._held_us[hour, owner] += until - held_us * low // whole
                low += parts
            since_us = end_us

    def finish(self) -> PhysicalTruth:
        """The truth from the fleet's start to its next tick."""
        fleet = self._fleet
        end_us = fleet.start_us + fleet.tick_number * fleet.interval_us
        if self._before is not None:
            self._book(self._before)
            self._before = None
        for number in list(self._since):
            self._release(number, end_us)
        held = self._held_us.copy()
        for entry in fleet.entries:
            from_us = max(fleet.start_us, entry.from_us)
            to_us = end_us if entry.to_us is None else min(end_us, entry.to_us)
            self._hold(_ALONE, len(entry.slots), from_us, to_us)
        for (hour, _), gpu_us in held.items():
            self._held_us[hour, _NOBODY] -= gpu_us
        header = PhysicalHeader(
            FORMAT, fleet.inventory.name, self._seed, fleet.start_us, end_us, fleet.interval_us
        )
        return PhysicalTruth(header, self._rows(), self._faults.faults(end_us), dict(self._sent))

    def _rows(self) -> list[PhysicalRow]:
        rows: list[PhysicalRow] = []
        hours = {hour for hour, _ in self._held_us} | set(self._sums)
        for hour in sorted(hours):
            for owner, done in self._by_owner(hour).items():
                gpu_us = self._held_us.get((hour, owner), 0)
                gflop, energy_mj, *times, shown = done.tolist()
                if gpu_us or gflop or energy_mj:
                    active_us, down_us, throttled_us = (round(each) for each in times)
                    figures = (active_us, gflop, energy_mj, down_us, throttled_us, shown)
                    rows.append(PhysicalRow(hour, *owner, gpu_us, *figures))
        return rows

    def _by_owner(self, hour: int) -> dict[_Owner, F64]:
        """What each owner's part of the GPUs did in an hour."""
        sums = self._sums.get(hour, np.zeros((_SUMS, 0)))
        done: dict[_Owner, F64] = {}
        for holders, code in self._codes.items():
            whole = sum(parts for _, parts in holders)
            for owner, parts in holders:
                mine = done.setdefault(owner, np.zeros(_SUMS))
                if code < sums.shape[1]:
                    mine += sums[:, code] * (parts / whole)
        return done
