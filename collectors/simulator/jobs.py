"""Jobs, and their starts and ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from collectors.simulator.classes import JobClass


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
    submitted_us: int
    start_us: int
    end_us: int
    outcome: str = ""
    """How it ends if nothing comes between: one of `OUTCOMES`, "" for maintenance."""


class Change(NamedTuple):
    """A job started or ended at a time; `outcome` is how, where it ended."""

    time_us: int
    job: Job
    started: bool
    outcome: str = ""
