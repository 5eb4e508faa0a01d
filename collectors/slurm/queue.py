"""`squeue --json`: the jobs that slurmctld has in mind, with the indices of their GPUs.

The form has changed with Slurm's versions: a time is a number or
`{"set": true, "number": …}`, a state a word or a list of words.  Both are read.
JSON and no text, since users choose names of jobs, and a blank in one of them
would begin a field of its own there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from collectors.slurm.names import gpu_count, gres_numbers, hosts

RUNNING = frozenset(["RUNNING", "SUSPENDED"])
"""Of a suspended job the GPUs stay its own: Slurm gives them to nobody else."""
ENDED = frozenset(
    [
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED",
        "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
    ]
)  # fmt: skip
COMMAND = ("squeue", "--all", "--json", "--states", ",".join(sorted(RUNNING | ENDED)))


class Queued(msgspec.Struct, frozen=True):
    """A job that has nodes, or had them; times in seconds since 1970."""

    job: str
    cluster: str
    start_s: int
    end_s: int | None
    """None while it runs."""
    restarts: int
    account: str
    user: str
    nodes: tuple[str, ...]
    gpus: int | None
    """All that it has together; None where Slurm does not say."""
    numbers: Mapping[str, tuple[int, ...]]
    """By node the GPUs, while it runs; a node of which they cannot be told is not among them."""


class _Number(msgspec.Struct, frozen=True):
    """A number since data_parser v0.0.39."""

    number: float = 0
    set: bool = True
    infinite: bool = False


_Numeric = float | _Number | None


class _Job(msgspec.Struct, frozen=True):
    """What is read of an entry; all else is passed over."""

    job_id: int
    job_state: str | list[str]
    start_time: _Numeric = None
    end_time: _Numeric = None
    restart_cnt: _Numeric = None
    cluster: str | None = None
    account: str | None = None
    user_name: str | None = None
    nodes: str | None = None
    tres_alloc_str: str | None = None
    gres_detail: list[str | None] | None = None


class _Answer(msgspec.Struct, frozen=True):
    jobs: list[msgspec.Raw]


def parse_queue(data: bytes) -> tuple[list[Queued], int]:
    """The running jobs and those that ended lately, and how many entries could not be read.

    Raises ValueError for what is no such answer.
    """
    # Names of jobs may hold any bytes; what is read here never does.
    text = data.decode("utf-8", "replace")
    answer = msgspec.json.decode(text, type=_Answer)
    found: list[Queued] = []
    refused = 0
    for raw in answer.jobs:
        try:
            one = _queued(msgspec.json.decode(raw, type=_Job))
        except ValueError:
            refused += 1
            continue
        if one is not None:
            found.append(one)
    return found, refused


def _queued(job: _Job) -> Queued | None:
    states = {job.job_state} if isinstance(job.job_state, str) else set(job.job_state)
    start_s, nodes = _whole(job.start_time), hosts(job.nodes or "")
    runs = bool(states & RUNNING)
    # COMPLETING alone, or with PENDING, is a requeued job between two runs: its times are not
    # those of either.
    if not start_s or not nodes or not (runs or states & ENDED):
        return None
    return Queued(
        str(job.job_id),
        job.cluster or "",
        start_s,
        None if runs else max(start_s, _whole(job.end_time) or start_s),
        _whole(job.restart_cnt) or 0,
        job.account or "",
        job.user_name or "",
        nodes,
        gpu_count(job.tres_alloc_str or ""),
        _numbers(nodes, job.gres_detail or ()) if runs else {},
    )


def _whole(value: _Numeric) -> int | None:
    """A number in either form; None where it is not set."""
    if isinstance(value, _Number):
        return int(value.number) if value.set and not value.infinite else None
    return None if value is None else int(value)


def _numbers(nodes: Sequence[str], details: Sequence[str | None]) -> dict[str, tuple[int, ...]]:
    """By node; the details stand in the nodes' order, or are not to be understood."""
    if len(details) != len(nodes):
        return {}
    told = {node: gres_numbers(detail or "") for node, detail in zip(nodes, details, strict=True)}
    return {node: numbers for node, numbers in told.items() if numbers}
