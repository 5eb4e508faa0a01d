"""What is known of the runs of jobs: slurmctld's word while they run, slurmdbd's for good.

A run is (job, start): a requeued job has several, and so has a number that a
cluster gave out anew.  Knows no bus and no clock; times are seconds since 1970.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator

import msgspec

from collectors.slurm.accounting import Accounted
from collectors.slurm.queue import Queued

_PATIENCE_S = 600
"""A run that slurmctld has forgotten for so long is over, if slurmdbd does not say when."""
Key = tuple[str, int]


class Run(msgspec.Struct):
    """One run of a job on its nodes."""

    job: str
    start_s: int
    nodes: tuple[str, ...]
    account: str = ""
    user: str = ""
    gpus: int | None = None
    numbers: dict[str, tuple[int, ...]] = {}
    """By node the GPUs' numbers, from when it ran."""
    restarts: int | None = None
    end_s: int | None = None
    accounted: bool = False
    """Whether slurmdbd knows of it."""
    settled: bool = False
    """Whether its end is slurmdbd's."""
    seen_s: int = 0
    """When slurmctld last said that it runs."""
    missing_s: int | None = None
    """Since when slurmctld answers and does not say so."""

    @property
    def key(self) -> Key:
        """What tells it from all others of the cluster."""
        return self.job, self.start_s


class Runs:
    """All runs that may still change."""

    def __init__(self, cluster: str = "") -> None:
        self.cluster = cluster
        """Of other clusters nothing is taken; until it is known, the first that is named."""
        self.renamed: set[Key] = set()
        """Runs of which slurmctld has set the start anew: under the old one there is none."""
        self._runs: dict[Key, Run] = {}
        self._by_job: dict[str, dict[int, Run]] = defaultdict(dict)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def __len__(self) -> int:
        return len(self._runs)

    def at(self, key: Key) -> Run | None:
        """The run of that name."""
        return self._runs.get(key)

    def of(self, job: str) -> Collection[Run]:
        """The runs of a job."""
        return self._by_job[job].values() if job in self._by_job else ()

    def add(self, run: Run) -> None:
        """Remembers a run."""
        self._runs[run.key] = run
        self._by_job[run.job][run.start_s] = run

    def forget(self, run: Run) -> None:
        """It will not change any more."""
        del self._runs[run.key], self._by_job[run.job][run.start_s]
        if not self._by_job[run.job]:
            del self._by_job[run.job]

    def take_queue(
        self, rows: Iterable[Queued], now_s: int, claimed: Callable[[str], bool]
    ) -> set[str]:
        """One answer of slurmctld, asked at `now_s`; returns the jobs of which something changed.

        Jobs without GPUs are passed over, unless an agent has claimed one for them.
        """
        changed: set[str] = set()
        listed: set[Key] = set()
        for row in rows:
            has_gpus = bool(row.gpus or row.numbers or claimed(row.job))
            if not self._is_ours(row.cluster) or not (has_gpus or self.of(row.job)):
                continue
            run = self._runs.get((row.job, row.start_s)) or self._begun(row)
            if row.end_s is None:
                listed.add(run.key)
                run.seen_s, run.missing_s = now_s, None
            if self._told(run, row):
                changed.add(row.job)
        for run in self:
            if run.end_s is None and run.key not in listed and run.missing_s is None:
                run.missing_s = now_s
        return changed

    def _is_ours(self, cluster: str) -> bool:
        self.cluster = self.cluster or cluster
        return cluster in {"", self.cluster}

    def _begun(self, row: Queued) -> Run:
        for run in self.of(row.job):
            # A start is set anew when nodes had to be booted or a prolog took its time.
            if run.end_s is None and not run.accounted and run.restarts == row.restarts:
                self.forget(run)
                self.renamed.add(run.key)
                run.start_s = row.start_s
                self.add(run)
                return run
        run = Run(row.job, row.start_s, (), restarts=row.restarts)
        self.add(run)
        return run

    @staticmethod
    def _told(run: Run, row: Queued) -> bool:
        before = msgspec.structs.asdict(run)
        run.numbers = {**run.numbers, **row.numbers}
        run.restarts = row.restarts
        # slurmdbd may have been asked after slurmctld, and answered before it; its word stands.
        if not run.settled:
            run.nodes, run.end_s = row.nodes or run.nodes, row.end_s
            run.account, run.user = row.account or run.account, row.user or run.user
            run.gpus = row.gpus or run.gpus
        after = msgspec.structs.asdict(run)
        return any(before[name] != after[name] for name in _TOLD)

    def take_accounting(
        self, rows: Iterable[Accounted], asked_s: int, claimed: Callable[[str], bool]
    ) -> set[str]:
        """One answer of slurmdbd, asked at `asked_s`; returns the jobs of which something changed."""
        changed: set[str] = set()
        for row in rows:
            known = (row.job, row.start_s) in self._runs
            if not self._is_ours(row.cluster) or not (known or row.gpus or claimed(row.job)):
                continue
            if not known:
                self.add(Run(row.job, row.start_s, row.nodes, seen_s=row.start_s))
            if self._settled(self._runs[row.job, row.start_s], row):
                changed.add(row.job)
        for run in self:
            lost = run.missing_s is not None and asked_s - run.missing_s > _PATIENCE_S
            if run.end_s is None and lost:
                run.end_s = max(run.start_s, run.seen_s)
                changed.add(run.job)
        return changed

    @staticmethod
    def _settled(run: Run, row: Accounted) -> bool:
        before = msgspec.structs.asdict(run)
        run.nodes, run.account, run.user = row.nodes, row.account, row.user
        run.gpus = row.gpus or run.gpus
        run.accounted = True
        if row.end_s is not None:
            run.end_s, run.settled = row.end_s, True
        after = msgspec.structs.asdict(run)
        return any(before[name] != after[name] for name in (*_TOLD, "accounted"))


_TOLD = ("nodes", "account", "user", "gpus", "numbers", "end_s")
