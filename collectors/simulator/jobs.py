"""Jobs, and their starts and ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from collectors.simulator.classes import JobClass

Owner = tuple[str, str, str, str]
"""Owner kind, tenant, project, job."""
NOBODY: Owner = ("unallocated", "", "", "")
UPKEEP: Owner = ("maintenance", "", "", "")
Shares = tuple[tuple[Owner, int], ...]
"""Owners in order, and how many parts each has of what their sum is."""


class Member(NamedTuple):
    """One of several on the same GPU: a claim of its own, on `weight` parts of it."""

    id: str
    tenant: str
    project: str
    weight: int


@dataclass(frozen=True, slots=True)
class Job:
    """One claim on whole GPUs, or the claims of `members` that share them.

    `holds` pairs a node's index with a bit mask of its slots.
    """

    number: int
    id: str
    klass: JobClass
    tenant: str
    project: str
    holds: tuple[tuple[int, int], ...]
    gpus: int
    submitted_us: int
    start_us: int
    end_us: int
    outcome: str = ""
    """How it ends if nothing comes between: one of `OUTCOMES`, "" for maintenance."""
    members: tuple[Member, ...] = ()

    @property
    def shares(self) -> Shares:
        """Who has how much of it; parts that no member has are nobody's."""
        if self.klass.kind == "maintenance":
            return ((UPKEEP, 1),)
        if not self.members:
            return ((("tenant", self.tenant, self.project, self.id), 1),)
        held = tuple(
            (("tenant", one.tenant, one.project, one.id), one.weight) for one in self.members
        )
        left = self.klass.parts - sum(weight for _, weight in held)
        return (*held, (NOBODY, left)) if left > 0 else held

    @property
    def label(self) -> str:
        """What an agent shows as the occupant; empty under maintenance."""
        if self.members:
            return ",".join(one.id for one in self.members)
        return self.id if self.tenant else ""


class Change(NamedTuple):
    """A job started or ended at a time; `outcome` is how, where it ended."""

    time_us: int
    job: Job
    started: bool
    outcome: str = ""
