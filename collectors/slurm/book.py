"""All that is known, and what of it the bus does not say yet.

Nothing is remembered of what was sent but what came back or was acknowledged:
the difference between what should stand and what stands on the bus is what is
to be sent, so that a crash at any moment costs a repetition at most.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from collectors.contract.facts import NodeFacts
from collectors.contract.topics import Allocation
from collectors.slurm.accounting import Accounted
from collectors.slurm.join import Joined, Told, is_claim, join, own_id, run_of
from collectors.slurm.places import NodePlaces
from collectors.slurm.queue import Queued
from collectors.slurm.runs import Run, Runs
from collectors.slurm.unplaced import Unplaced, is_guess

_log = logging.getLogger(__name__)
_LATE_S = 120
"""The agents have told of a job that ended so long ago what they will tell."""
_AT_ONCE = 500
"""Jobs looked at without a pause."""
_MOST_CLAIMS = 1_000_000
"""Of agents' claims without a run, the oldest are forgotten beyond it."""


class Remembered(msgspec.Struct, frozen=True):
    """All of it, as a file keeps it."""

    cluster: str
    followed_us: int
    """Bus time up to which the records of others were read."""
    accounted_s: int
    """When slurmdbd was last asked with success."""
    runs: list[Run]
    claims: list[Allocation]
    bus: list[Allocation]
    renamed: list[tuple[str, int]] = []


class Book:
    """The runs of one cluster, the agents' claims on them, and the bus as far as it is about them."""

    def __init__(self, cluster: str = "") -> None:
        self.runs = Runs(cluster)
        self.places = NodePlaces()
        self.followed_us = 0
        self.accounted_s = 0
        self.unplaced = Unplaced(self.places)
        self._claims: dict[bytes, Allocation] = {}
        self._bus: dict[bytes, Allocation] = {}
        self._of_job: dict[str, set[bytes]] = defaultdict(set)
        """The keys of all records about a job, the agents' and this program's."""
        self._dirty: set[str] = set()
        self._guessing: set[str] = set()
        """Jobs of which this program has guessed something."""
        self._reported: set[tuple[str, int]] = set()

    @property
    def source(self) -> str:
        """The name that this program's records bear."""
        return f"slurm:{self.runs.cluster}"

    def _is_claimed(self, job: str) -> bool:
        return any(key in self._claims for key in self._of_job.get(job, ()))

    def take_queue(self, rows: Sequence[Queued], now_s: int) -> None:
        """An answer of slurmctld."""
        self._dirty |= self.runs.take_queue(rows, now_s, self._is_claimed)

    def take_accounting(self, rows: Sequence[Accounted], asked_s: int) -> None:
        """An answer of slurmdbd."""
        self._dirty |= self.runs.take_accounting(rows, asked_s, self._is_claimed)
        self.accounted_s = asked_s
        self.unplaced.wait()

    def take_facts(self, facts: NodeFacts) -> None:
        """Where a node's GPUs are."""
        if self.places.take(facts):
            self._dirty |= {run.job for run in self.runs if run.numbers or run.end_s is None}
            self._dirty |= self.unplaced.jobs

    def take_record(self, one: Allocation) -> None:
        """A record of the bus, also one of this program's own that came back."""
        own = bool(self.runs.cluster) and one.source == self.source
        if not own and not is_claim(one):
            return
        key = one.key
        self._bus[key] = one
        self._of_job[one.job].add(key)
        self._dirty.add(one.job)
        if own and is_guess(one):
            self._guessing.add(one.job)
        # The deletion is this program's: what the agent had said is kept, or taken from it.
        if not own and not (one.deleted and key in self._claims):
            self._claims[key] = msgspec.structs.replace(one, deleted=False)

    @property
    def behind(self) -> bool:
        """Whether there are jobs that `changes` has not looked at since something came of them."""
        return bool(self._dirty) or self.unplaced.behind

    def changes(self, now_us: int) -> list[Allocation]:
        """What is to be sent of some jobs, asked for once: all that should stand and does not."""
        jobs = sorted(itertools.islice(self._dirty, _AT_ONCE))
        self._dirty.difference_update(jobs)
        wanted = [one for job in jobs for one in self._wanted(job)]
        # What is not known of some depends on what is known of all.
        if not self._dirty and self.unplaced.behind:
            wanted += self._guesses(now_us // 1_000_000)
        return [
            msgspec.structs.replace(one, known_us=now_us)
            for one in wanted
            if not _says_the_same(self._bus.get(one.key), one)
        ]

    def _guesses(self, now_s: int) -> list[Allocation]:
        jobs = sorted(self.unplaced.concerned & self._guessing)
        keys = [key for job in jobs for key in sorted(self._of_job.get(job, ()))]
        before = [one for key in keys if self._is_own(key) and is_guess(one := self._bus[key])]
        self._guessing.difference_update(jobs)
        self._guessing |= {one.job for one in before}
        standing = (claim for key, claim in self._claims.items() if self._stands(key))
        said = [one for one in before if not one.deleted]
        return self.unplaced.records(self.source, said, standing, now_s, self.runs.renamed)

    def _stands(self, key: bytes) -> bool:
        last = self._bus.get(key)
        return last is not None and not last.deleted

    def unsent(self, records: Iterable[Allocation]) -> None:
        """These could not be sent: they are asked for again."""
        self._dirty |= {one.job for one in records}

    def sent(self, records: Iterable[Allocation]) -> None:
        """These were acknowledged."""
        for one in records:
            self._bus[one.key] = one
            self._of_job[one.job].add(one.key)
            if one.source == self.source and is_guess(one):
                self._guessing.add(one.job)

    def _wanted(self, job: str) -> list[Allocation]:
        runs = self.runs.of(job)
        keys = sorted(self._of_job.get(job, ()))
        told: dict[tuple[str, int], list[Told]] = defaultdict(list)
        for claim in (self._claims[key] for key in keys if key in self._claims):
            run = run_of(claim, runs)
            if run is not None:
                told[run.key].append(Told(claim, stands=self._stands(claim.key)))
        own = [one for key in keys if self._is_own(key) and not is_guess(one := self._bus[key])]
        wanted: list[Allocation] = []
        gone = {one.key: one for one in own if self._is_renamed(one)}
        known: list[tuple[Run, Joined, list[Told]]] = []
        for run in runs:
            before = [one for one in own if one.id.startswith(f"{run.job}@{run.start_s}/")]
            joined = join(run, told[run.key], self.places, self.source, before)
            known.append((run, joined, told[run.key]))
            wanted += joined.records
            if run.end_s is not None:
                gone |= {one.key: one for one in before}
        nodes = {one.subjects[0].node for key in keys if (one := self._claims.get(key))}
        self.unplaced.take(job, known, nodes, guessing=job in self._guessing)
        standing = {one.key for one in wanted}
        gone_now = [one for key, one in gone.items() if key not in standing]
        return wanted + [msgspec.structs.replace(one, deleted=True) for one in gone_now]

    def _is_own(self, key: bytes) -> bool:
        return key in self._bus and self._bus[key].source == self.source

    def _is_renamed(self, one: Allocation) -> bool:
        start = one.id.partition("@")[2].partition("/")[0]
        return start.isdecimal() and (one.job, int(start)) in self.runs.renamed

    def report(self, now_s: int) -> None:
        """Says of runs that ended some time ago that nobody knows GPUs of them; once each."""
        guessed, left = self.unplaced.guessed, self.unplaced.left
        for key in {*guessed, *left} - self._reported:
            run = self.runs.at(key)
            if run is None or run.end_s is None or now_s - run.end_s <= _LATE_S:
                continue
            self._reported.add(key)
            log, what = (_log.error, "without_slots") if key in left else (_log.warning, "guessed")
            log(
                "gpus_%s job=%s start_s=%d gpus=%s without=%d guessed=%d account=%s nodes=%s",
                what, run.job, run.start_s, run.gpus, left.get(key, 0), guessed.get(key, 0),
                run.account, ",".join(run.nodes[:8]),
            )  # fmt: skip
        self._reported &= {*guessed, *left}

    def forget(self, before_s: int) -> None:
        """Runs and claims that ended before, and will not change any more."""
        for run in [one for one in self.runs if one.end_s is not None and one.end_s < before_s]:
            mine = self._of_job.get(run.job, ())
            for key in [key for key in mine if self._concerns(key, run)]:
                self._drop(key)
            self.runs.forget(run)
            self.unplaced.forget(run.job)
            if self.runs.of(run.job):
                self._dirty.add(run.job)
        for key, claim in list(self._claims.items()):
            if claim.to_us is not None and claim.to_us < before_s * 1_000_000:
                self._drop(key)
        for key in list(self._claims)[: max(0, len(self._claims) - _MOST_CLAIMS)]:
            self._drop(key)
        self.runs.renamed = {key for key in self.runs.renamed if key[1] >= before_s}
        self._sweep()

    def _sweep(self) -> None:
        """Drops claims that this program's own records have replaced; one told again is new.

        Of those who share a slot the weights are still needed.
        """
        for key, claim in list(self._claims.items()):
            last = self._bus.get(key)
            if claim.shared or last is None or not last.deleted:
                continue
            run = run_of(claim, self.runs.of(claim.job))
            if run is None or not run.settled:
                continue
            own = f"{self.source}\0{own_id(run, claim.subjects[0].node)}".encode()
            if own in self._bus:
                self._drop(key)

    def _concerns(self, key: bytes, run: Run) -> bool:
        claim = self._claims.get(key)
        if claim is not None:
            return run_of(claim, self.runs.of(run.job)) is run
        return self._bus[key].id.startswith(f"{run.job}@{run.start_s}/")

    def _drop(self, key: bytes) -> None:
        claim = self._claims.pop(key, None) or self._bus.get(key)
        self._bus.pop(key, None)
        if claim is not None:
            self._of_job[claim.job].discard(key)
            if not self._of_job[claim.job]:
                del self._of_job[claim.job]

    def remembered(self) -> Remembered:
        """All of it, for a file."""
        return Remembered(
            self.runs.cluster, self.followed_us, self.accounted_s,
            list(self.runs), list(self._claims.values()), list(self._bus.values()), sorted(self.runs.renamed),
        )  # fmt: skip

    def restore(self, left: Remembered) -> None:
        """What an earlier life knew."""
        self.runs.cluster = self.runs.cluster or left.cluster
        if left.cluster != self.runs.cluster:
            return
        self.followed_us, self.accounted_s = left.followed_us, left.accounted_s
        for run in left.runs:
            self.runs.add(run)
        for claim in left.claims:
            self._claims[claim.key] = claim
            self._of_job[claim.job].add(claim.key)
        self.sent(left.bus)
        self.runs.renamed = set(left.renamed)
        self._dirty = {run.job for run in left.runs}


def _says_the_same(one: Allocation | None, other: Allocation) -> bool:
    """Whether the bus has it already; a record that is deleted says nothing else."""
    if one is None:
        return other.deleted
    if one.deleted or other.deleted:
        return one.deleted and other.deleted
    return msgspec.structs.replace(one, known_us=other.known_us) == other
