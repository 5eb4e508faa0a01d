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
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from collectors.contract.identity import slot_text
from collectors.contract.inventory import Inventory
from collectors.contract.topics import Allocation, Subject
from collectors.simulator.sites import GPUS_PER_NODE
from collectors.simulator.tenants import Tenant, make_tenants

SOURCE = "sim"
TARGET, CEILING = 0.80, 0.84
"""Share of the GPUs at which starting stops, and that no start goes beyond."""
_S = 1_000_000
_FULL = (1 << GPUS_PER_NODE) - 1


@dataclass(frozen=True, slots=True)
class JobClass:
    """Jobs of one kind: their share of the allocated GPUs, sizes (GPUs) and run times.

    Run times are log-normal with median `median_s` and shape `sigma`.
    """

    name: str
    share: float
    sizes: tuple[int, ...]
    odds: tuple[float, ...]
    median_s: float
    sigma: float
    large: bool = False
    kind: str = "job"


CLASSES = (
    JobClass("pretrain", 0.46, (16, 32, 64, 128, 256), (0.3, 0.3, 0.2, 0.15, 0.05), 72_000, 1.2, large=True),
    JobClass("finetune", 0.22, (4, 8, 16), (0.2, 0.6, 0.2), 7_200, 1.3),
    JobClass("serving", 0.14, (1, 2, 4, 8), (0.4, 0.2, 0.2, 0.2), 200_000, 1.0),
    JobClass("notebook", 0.06, (1,), (1.0,), 5_400, 1.2),
    JobClass("parked", 0.05, (1, 2, 8), (0.5, 0.3, 0.2), 18_000, 1.1),
    JobClass("debug", 0.07, (1, 2, 4), (0.7, 0.2, 0.1), 180, 1.3),
)  # fmt: skip
MAINTENANCE = JobClass("maintenance", 0.0, (8,), (1.0,), 7_200, 0.6, kind="maintenance")


@dataclass(frozen=True, slots=True)
class Job:
    """One claim on whole GPUs.  `holds` pairs a node's index with a bit mask of its slots."""

    number: int
    id: str
    klass: JobClass
    tenant: str
    project: str
    holds: tuple[tuple[int, int], ...]
    gpus: int
    start_us: int
    end_us: int


class Change(NamedTuple):
    """A job started or ended at a time."""

    time_us: int
    job: Job
    started: bool


class _Pool:
    """Nodes of one model: free slots as bit masks and their numbers."""

    def __init__(self, nodes: list[int]) -> None:
        self.nodes = nodes
        self.mask = [_FULL] * len(nodes)
        self.free = np.full(len(nodes), GPUS_PER_NODE, np.int8)

    def place(self, gpus: int, offset: int) -> list[tuple[int, int]] | None:
        """Positions with slot masks for a gang of GPUs, or None where there is no room."""
        if gpus < GPUS_PER_NODE:
            room = np.where(self.free >= gpus, self.free, GPUS_PER_NODE + 1)
            best = int(room.argmin())
            if room[best] > GPUS_PER_NODE:
                return None
            return [(best, _lowest_bits(self.mask[best], gpus))]
        whole = np.flatnonzero(self.free == GPUS_PER_NODE)
        count = gpus // GPUS_PER_NODE
        if len(whole) < count:
            return None
        start = offset % len(whole)
        chosen = np.concatenate((whole[start:], whole[:start]))[:count]
        return [(int(position), _FULL) for position in np.sort(chosen)]

    def take(self, position: int, mask: int) -> None:
        """Marks slots as held."""
        self.mask[position] &= ~mask
        self.free[position] -= mask.bit_count()

    def give(self, position: int, mask: int) -> None:
        """Marks slots as free."""
        self.mask[position] |= mask
        self.free[position] += mask.bit_count()


def _lowest_bits(mask: int, count: int) -> int:
    out = 0
    for _ in range(count):
        bit = mask & -mask
        out |= bit
        mask ^= bit
    return out


class Workload:
    """The jobs of a site from `start_us` on, in a steady state from the first moment.

    `changes` hands out starts and ends in order of time.  Ids contain the
    start, so that a later simulation of the same site never takes over the
    claims of an earlier one.
    """

    def __init__(self, inventory: Inventory, seed: int, start_us: int) -> None:
        self._inventory = inventory
        self._entries = inventory.at(start_us)
        self._rng = np.random.default_rng([seed, 1])
        self._large, self._small = make_tenants()
        self._prefix = f"{start_us // 1000:x}"
        by_model: dict[str, list[int]] = {}
        for index, node in enumerate(self._entries):
            by_model.setdefault(node.model, []).append(index)
        self._pools = [_Pool(nodes) for nodes in by_model.values()]
        self._places = {
            node: (pool, position)
            for pool in self._pools
            for position, node in enumerate(pool.nodes)
        }
        self._total = len(self._entries) * GPUS_PER_NODE
        self._held: dict[str, int] = {klass.name: 0 for klass in (*CLASSES, MAINTENANCE)}
        self._serial = 0
        self._events: list[tuple[int, int, Job | None]] = []
        self._log: list[Change] = []
        self.running: dict[int, Job] = {}
        self._fill(start_us, steady=True)

    @property
    def allocated(self) -> int:
        """GPUs that tenants hold now."""
        return sum(held for name, held in self._held.items() if name != MAINTENANCE.name)

    def changes(self, until_us: int) -> list[Change]:
        """What starts and ends up to a time, in order of time; each is handed out once."""
        while self._events and self._events[0][0] <= until_us:
            time_us, _, job = heapq.heappop(self._events)
            if job is None:
                self._fill(time_us, steady=False)
            elif job.number in self.running:
                self._end(time_us, job)
        out, self._log = self._log, []
        return out

    def fail(self, gpu: int, time_us: int) -> None:
        """Ends the job on a GPU, if there is one, before its time."""
        node, bit = divmod(gpu, GPUS_PER_NODE)
        for job in list(self.running.values()):
            if any(at == node and mask >> bit & 1 for at, mask in job.holds):
                self._end(time_us, job)

    def allocation(self, change: Change) -> Allocation:
        """What a scheduler's watcher publishes of a change."""
        job = change.job
        return Allocation(
            source=SOURCE,
            id=job.id,
            tenant=job.tenant,
            project=job.project,
            job=job.id if job.tenant else "",
            subjects=tuple(self._subject(node, mask) for node, mask in job.holds),
            from_us=job.start_us,
            to_us=None if change.started else change.time_us,
            kind=job.klass.kind,
            known_us=change.time_us,
        )

    def _subject(self, node: int, mask: int) -> Subject:
        entry = self._entries[node]
        if mask == _FULL:
            return Subject(entry.name)
        held = (slot for bit, slot in enumerate(entry.slots) if mask >> bit & 1)
        return Subject(entry.name, tuple(slot_text(slot) for slot in held))

    def _push(self, time_us: int, job: Job | None) -> None:
        self._serial += 1
        heapq.heappush(self._events, (time_us, self._serial, job))

    def _end(self, time_us: int, job: Job) -> None:
        for node, mask in job.holds:
            pool, position = self._places[node]
            pool.give(position, mask)
        self._held[job.klass.name] -= job.gpus
        del self.running[job.number]
        self._log.append(Change(time_us, job, started=False))
        # A scheduler looks again after some seconds, not at once.
        self._push(time_us + int(self._rng.uniform(1 * _S, 15 * _S)), None)

    def _fill(self, time_us: int, *, steady: bool) -> None:
        """Starts jobs until the target is reached or nothing more finds room."""
        nodes = self._total // GPUS_PER_NODE
        serviced = (max(1, round(nodes / 200)) if nodes >= 8 else 0) * GPUS_PER_NODE
        while self._held[MAINTENANCE.name] < serviced:
            if not self._start(MAINTENANCE, time_us, steady=steady):
                break
        stuck: set[str] = set()
        while self.allocated < TARGET * self._total:
            klass = self._neediest(stuck)
            if klass is None:
                return
            if not self._start(klass, time_us, steady=steady):
                stuck.add(klass.name)

    def _neediest(self, stuck: set[str]) -> JobClass | None:
        target = TARGET * self._total
        lacks = [
            (klass.share * target - self._held[klass.name], klass)
            for klass in CLASSES
            if klass.name not in stuck
        ]
        lack, klass = max(lacks, key=lambda pair: pair[0], default=(0.0, None))
        return klass if lack > 0 else None

    def _size(self, klass: JobClass) -> int:
        size = int(self._rng.choice(klass.sizes, p=klass.odds))
        most = max(GPUS_PER_NODE, self._total // 8 // GPUS_PER_NODE * GPUS_PER_NODE)
        return min(size, most)

    def _start(self, klass: JobClass, time_us: int, *, steady: bool) -> bool:
        gpus = self._size(klass)
        if klass is not MAINTENANCE and self.allocated + gpus > CEILING * self._total:
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
        self._begin(klass, holds, gpus, time_us, steady=steady)
        return True

    def _begin(
        self,
        klass: JobClass,
        holds: tuple[tuple[int, int], ...],
        gpus: int,
        time_us: int,
        *,
        steady: bool,
    ) -> None:
        mean = math.log(klass.median_s)
        if steady:
            # What is found running is sampled by length, and part of it is over.
            mean += klass.sigma**2
        run_s = max(5.0, float(self._rng.lognormal(mean, klass.sigma)))
        left_s = run_s * float(self._rng.random()) if steady else run_s
        tenant, project = self._user(klass)
        number = self._serial = self._serial + 1
        job = Job(
            number, f"{self._prefix}-{number}", klass, tenant, project, holds, gpus,
            time_us, time_us + max(1, int(left_s * _S)),
        )  # fmt: skip
        self.running[number] = job
        self._push(job.end_us, job)
        self._log.append(Change(time_us, job, started=True))

    def _user(self, klass: JobClass) -> tuple[str, str]:
        if klass is MAINTENANCE:
            return "", ""
        tenants: list[Tenant] = (
            self._large if klass.large or self._rng.random() < 0.15 else self._small
        )
        # Squaring leans towards the front of the list: a few tenants use much, many a little.
        tenant = tenants[int(len(tenants) * float(self._rng.random()) ** 2)]
        project = tenant.projects[int(self._rng.integers(len(tenant.projects)))]
        return tenant.name, project
