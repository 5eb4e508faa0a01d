"""Jobs that come and go: who holds which slots, as a function of seed and time alone.

The backlog is never empty, so the share of a site that is allocated is held
near a target: whenever something ends, the class of jobs that is furthest
below its share starts next, if it finds room.  Sizes and run times follow the
published Acme, Philly and Helios traces: most jobs are small and short, most
GPU time goes to a few large ones.
"""

from __future__ import annotations

import heapq
import math

import numpy as np

from collectors.contract.inventory import Inventory
from collectors.simulator.calendar_time import SiteCalendar
from collectors.simulator.classes import CLASSES, MAINTENANCE, OUTCOMES, TRAINING, JobClass
from collectors.simulator.jobs import Change, Job
from collectors.simulator.pool import FULL, Pool
from collectors.simulator.sharing import draw_members
from collectors.simulator.sites import GPUS_PER_NODE, entries_from
from collectors.simulator.tenants import Tenant, make_tenants

_REPAIRED, _SERVICED = 1 / 200, 1 / 25
"""Share of the nodes that somebody works on, always and in the weekly service window."""
_BACKFILL = 0.1
"""Of the target: how far beyond its share a class may fill what a waiting one leaves."""
TARGET, _TRAINING_TARGET, _OVER = 0.80, 0.68, 0.04
"""Share of the GPUs at which starting stops, and how far beyond it a start may go."""
CEILING = TARGET + _OVER
_S = 1_000_000
_EVER = 1 << 62
_WAKE_US = 600 * _S
"""A scheduler looks again at least this often: shares move with the day."""


class Workload:
    """The jobs of a site from `start_us` on, in a steady state from the first moment.

    `changes` hands out starts and ends in order of time.  Ids contain the
    start, so that a later simulation of the same site never takes over the
    claims of an earlier one.
    """

    def __init__(self, inventory: Inventory, seed: int, start_us: int) -> None:
        self._inventory = inventory
        self._entries = entries_from(inventory, start_us)
        self._calendar = SiteCalendar(inventory.time_zone)
        self._rng = np.random.default_rng([seed, 1])
        self._large, self._small = make_tenants()
        self._prefix = f"{start_us // 1000:x}"
        by_model: dict[str, list[int]] = {}
        for index, node in enumerate(self._entries):
            by_model.setdefault(node.model, []).append(index)
        self._pools = [Pool(nodes) for nodes in by_model.values()]
        self._places = {
            node: (pool, position)
            for pool in self._pools
            for position, node in enumerate(pool.nodes)
        }
        self._total = len(self._entries) * GPUS_PER_NODE
        self._waiting: dict[str, tuple[int, int]] = {}
        training = inventory.name.startswith("training:")
        self._classes = TRAINING if training else CLASSES
        self._target = _TRAINING_TARGET if training else TARGET
        self._held: dict[str, int] = {klass.name: 0 for klass in (*self._classes, MAINTENANCE)}
        self._serial = 0
        self._events: list[tuple[int, int, Job | None]] = []
        self._log: list[Change] = []
        self.running: dict[int, Job] = {}
        self._absent: dict[int, int] = {}
        self._drained: list[tuple[int, int, int]] = []
        self._ends = {entry.to_us for entry in self._entries if entry.to_us is not None}
        for node, entry in enumerate(self._entries):
            if entry.from_us > start_us:
                self._leave_out(node, entry.from_us)
        for to_us in sorted(self._ends):
            self._push(to_us, None)
        self._fill(start_us, steady=True)
        self._push(start_us + _WAKE_US, None)
        self._woken_us = start_us

    @property
    def allocated(self) -> int:
        """GPUs that tenants hold now."""
        return sum(held for name, held in self._held.items() if name != MAINTENANCE.name)

    def changes(self, until_us: int) -> list[Change]:
        """What starts and ends up to a time, in order of time; each is handed out once."""
        while self._events and self._events[0][0] <= until_us:
            time_us, _, job = heapq.heappop(self._events)
            if job is None:
                self._wake(time_us)
            elif job.number in self.running:
                self._end(time_us, job, job.outcome)
        out, self._log = self._log, []
        return out

    def _wake(self, time_us: int) -> None:
        """The scheduler looks at what is there: nodes come and go, shares move, jobs wait."""
        self._undrain(time_us)
        for node in [node for node, from_us in self._absent.items() if from_us <= time_us]:
            del self._absent[node]
            pool, position = self._places[node]
            pool.give(position, FULL)
            self._total += GPUS_PER_NODE
        if any(to_us <= time_us for to_us in self._ends):
            self._retire(time_us)
        self._fill(time_us, steady=False)
        if time_us >= self._woken_us + _WAKE_US:
            self._woken_us = time_us
            self._push(time_us + _WAKE_US, None)

    def _leave_out(self, node: int, from_us: int) -> None:
        pool, position = self._places[node]
        pool.take(position, FULL)
        self._absent[node] = from_us
        self._total -= GPUS_PER_NODE
        self._push(from_us, None)

    def _retire(self, time_us: int) -> None:
        """Takes nodes out whose time is over; what ran there ends."""
        self._ends = {to_us for to_us in self._ends if to_us > time_us}
        for node, entry in enumerate(self._entries):
            if entry.to_us is not None and entry.to_us <= time_us and node not in self._absent:
                for job in list(self.running.values()):
                    if any(at == node for at, _ in job.holds):
                        self._end(time_us, job, "cancelled")
                self._undrain(0, node)
                self._leave_out(node, _EVER)

    def fail(self, gpu: int, time_us: int) -> None:
        """Ends the job on a GPU, if there is one, before its time."""
        node, bit = divmod(gpu, GPUS_PER_NODE)
        for job in list(self.running.values()):
            if any(at == node and mask >> bit & 1 for at, mask in job.holds):
                self._end(time_us, job, "failed")

    def drain(self, gpu: int, until_us: int | None) -> None:
        """Starts nothing on a GPU that is free now until a time (None: never again)."""
        node, bit = divmod(gpu, GPUS_PER_NODE)
        pool, position = self._places[node]
        if pool.mask[position] >> bit & 1:
            pool.take(position, 1 << bit)
            self._drained.append((_EVER if until_us is None else until_us, node, 1 << bit))
            if until_us is not None:
                self._push(until_us, None)

    def _undrain(self, before_us: int, node: int | None = None) -> None:
        """Gives drained GPUs back whose time is over, or all of a node."""
        kept: list[tuple[int, int, int]] = []
        for until_us, where, mask in self._drained:
            if until_us <= before_us or where == node:
                pool, position = self._places[where]
                pool.give(position, mask)
            else:
                kept.append((until_us, where, mask))
        self._drained = kept

    def _push(self, time_us: int, job: Job | None) -> None:
        self._serial += 1
        heapq.heappush(self._events, (time_us, self._serial, job))

    def _end(self, time_us: int, job: Job, outcome: str) -> None:
        for node, mask in job.holds:
            pool, position = self._places[node]
            pool.give(position, mask)
        self._held[job.klass.name] -= job.gpus
        del self.running[job.number]
        self._log.append(Change(time_us, job, started=False, outcome=outcome))
        # A scheduler looks again after some seconds, not at once.
        self._push(time_us + int(self._rng.uniform(1 * _S, 15 * _S)), None)

    def _fill(self, time_us: int, *, steady: bool) -> None:
        """Starts jobs until the target is reached or nothing more finds room."""
        nodes = self._total // GPUS_PER_NODE
        part = _SERVICED if self._calendar.in_service_window(time_us) else _REPAIRED
        serviced = (max(1, round(nodes * part)) if nodes >= 8 else 0) * GPUS_PER_NODE
        while self._held[MAINTENANCE.name] < serviced:
            if not self._start(MAINTENANCE, time_us, steady=steady):
                break
        stuck: set[str] = set()
        activity = self._calendar.activity(time_us)
        while self.allocated < self._target * self._total:
            klass = self._neediest(stuck, activity)
            if klass is None:
                return
            if not self._start(klass, time_us, steady=steady):
                stuck.add(klass.name)

    def _neediest(self, stuck: set[str], activity: float) -> JobClass | None:
        target = self._target * self._total
        lacks = [
            (
                klass.share * (1 + klass.daily * (activity - 1)) * target - self._held[klass.name],
                klass,
            )
            for klass in self._classes
            if klass.name not in stuck
        ]
        # While a large one waits for room, others may go beyond their share: not those whose GPUs
        # are set aside to be shared.
        able = [pair for pair in lacks if pair[0] > 0 or not pair[1].members]
        lack, klass = max(able, key=lambda pair: pair[0], default=(0.0, None))
        return klass if lack > -_BACKFILL * target else None

    def _size(self, klass: JobClass) -> int:
        size = int(self._rng.choice(klass.sizes, p=klass.odds))
        most = max(GPUS_PER_NODE, self._total // 8 // GPUS_PER_NODE * GPUS_PER_NODE)
        return min(size, most)

    def _start(self, klass: JobClass, time_us: int, *, steady: bool) -> bool:
        # What finds no room waits as it is, and keeps its place in the queue.
        since_us, gpus = self._waiting.setdefault(klass.name, (time_us, self._size(klass)))
        if (
            klass is not MAINTENANCE
            and self.allocated + gpus > (self._target + _OVER) * self._total
        ):
            return False
        order: list[int] = self._rng.permutation(len(self._pools)).tolist()
        for which in order:
            pool = self._pools[which]
            found = pool.place(gpus, int(self._rng.integers(1 << 30)))
            if found is not None:
                break
        else:
            return False
        for position, mask in found:
            pool.take(position, mask)
        holds = tuple((pool.nodes[position], mask) for position, mask in found)
        self._held[klass.name] += gpus
        del self._waiting[klass.name]
        self._begin(klass, holds, gpus, (since_us, time_us), steady=steady)
        return True

    def _begin(
        self,
        klass: JobClass,
        holds: tuple[tuple[int, int], ...],
        gpus: int,
        times_us: tuple[int, int],
        *,
        steady: bool,
    ) -> None:
        submitted_us, time_us = times_us
        mean = math.log(klass.median_s)
        if steady:
            # What is found running is sampled by length, and part of it is over.
            mean += klass.sigma**2
        run_s = max(5.0, float(self._rng.lognormal(mean, klass.sigma)))
        left_s = run_s * float(self._rng.random()) if steady else run_s
        tenant, project = self._user(klass)
        number = self._serial = self._serial + 1
        job_id = f"{self._prefix}-{number}"
        members = draw_members(klass, job_id, self._small, self._rng) if klass.members else ()
        job = Job(
            number, job_id, klass, tenant, project, holds, gpus, submitted_us, time_us,
            time_us + max(1, int(left_s * _S)), self._outcome(klass), members,
        )  # fmt: skip
        self.running[number] = job
        self._push(job.end_us, job)
        self._log.append(Change(time_us, job, started=True))

    def _outcome(self, klass: JobClass) -> str:
        if klass is MAINTENANCE:
            return ""
        return str(self._rng.choice(OUTCOMES, p=klass.outcomes))

    def _user(self, klass: JobClass) -> tuple[str, str]:
        if klass is MAINTENANCE or klass.members:
            return "", ""
        tenants: list[Tenant] = (
            self._large if klass.large or self._rng.random() < 0.15 else self._small
        )
        # Squaring leans towards the front of the list: a few tenants use much, many a little.
        tenant = tenants[int(len(tenants) * float(self._rng.random()) ** 2)]
        project = tenant.projects[int(self._rng.integers(len(tenant.projects)))]
        return tenant.name, project
