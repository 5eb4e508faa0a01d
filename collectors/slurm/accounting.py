"""`sacct`: what slurmdbd has of jobs, which is what is billed.

Read as columns and not as JSON: they have been the same in all versions, are a
tenth of the bytes, and none of those asked for is written by users.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from collectors.slurm.names import gpu_count, hosts

COLUMNS = (
    "JobIDRaw",
    "Cluster",
    "Account",
    "User",
    "State",
    "Start",
    "End",
    "NodeList",
    "AllocTRES",
)


class Accounted(msgspec.Struct, frozen=True):
    """One run of a job; times in seconds since 1970."""

    job: str
    cluster: str
    account: str
    user: str
    state: str
    start_s: int
    end_s: int | None
    """None while it runs, as far as slurmdbd knows."""
    nodes: tuple[str, ...]
    gpus: int | None


def command(since_s: int) -> tuple[str, ...]:
    """Asks for all runs that were not over at a time; `--duplicates` has a requeued job's earlier ones."""
    since = datetime.fromtimestamp(since_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return (
        *("sacct", "--allusers", "--allocations", "--duplicates", "--noheader", "--parsable2"),
        *("--starttime", since, "--format", ",".join(COLUMNS)),
    )


def parse_accounting(text: str, columns: Sequence[str] = COLUMNS) -> tuple[list[Accounted], int]:
    """The runs that began, and how many lines could not be read.

    Times are seconds since 1970 (SLURM_TIME_FORMAT=%s), or sacct's usual form, taken as UTC.
    """
    found: list[Accounted] = []
    refused = 0
    for line in filter(None, text.splitlines()):
        cells = line.split("|")
        try:
            row = dict(zip(columns, cells, strict=True))
            one = _run(row)
        except ValueError:
            refused += 1
            continue
        if one is not None:
            found.append(one)
    return found, refused


def _run(row: dict[str, str]) -> Accounted | None:
    start_s, end_s = _time_s(row["Start"]), _time_s(row["End"])
    nodes = hosts(row["NodeList"])
    if start_s is None or not nodes:
        return None  # cancelled before it began, or it waits
    return Accounted(
        str(int(row["JobIDRaw"])),
        row["Cluster"],
        row["Account"],
        row["User"],
        row["State"].partition(" ")[0],
        start_s,
        None if end_s is None else max(start_s, end_s),
        nodes,
        gpu_count(row["AllocTRES"]),
    )


def _time_s(text: str) -> int | None:
    if text in {"", "Unknown", "None", "0"}:
        return None
    if text.isdecimal():
        return int(text)
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())
