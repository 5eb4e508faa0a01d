"""Allocation records of jobs; and which claims are open, so that a start after a crash can end
them.

A scheduler knows after its restart what is no longer running.  The simulator
begins a new life instead, and would leave the claims of the old one open.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from collectors.contract.identity import slot_text
from collectors.contract.inventory import InstalledNode
from collectors.contract.topics import Allocation, Subject
from collectors.simulator.jobs import Change
from collectors.simulator.pool import FULL

SOURCE = "sim"
_log = logging.getLogger(__name__)


class OpenClaims:
    """Open claims by id, in a file where one is given."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._open: dict[str, Allocation] = {}

    def left_over(self) -> list[Allocation]:
        """What an earlier life left open; an unreadable file counts as none and is replaced."""
        if self._path is None or not self._path.exists():
            return []
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Allocation])
        except (OSError, msgspec.DecodeError) as error:
            _log.warning("open claims are unreadable and stay open: %s", error)
            return []

    def note(self, allocations: list[Allocation]) -> None:
        """Takes over starts and ends; the file is replaced as a whole."""
        if not allocations:
            return
        for allocation in allocations:
            if allocation.to_us is None:
                self._open[allocation.id] = allocation
            else:
                self._open.pop(allocation.id, None)
        if self._path is not None:
            beside = self._path.with_suffix(".new")
            beside.write_bytes(msgspec.json.encode(list(self._open.values())))
            beside.replace(self._path)

    def closed(self, time_us: int) -> list[Allocation]:
        """All open claims, ended at a time."""
        return [ended(allocation, time_us) for allocation in self._open.values()]


def ended(allocation: Allocation, time_us: int) -> Allocation:
    """A claim with its end, which is never before its start."""
    return msgspec.structs.replace(
        allocation, to_us=max(allocation.from_us, time_us), known_us=time_us
    )


def claims_of(change: Change, entries: Sequence[InstalledNode]) -> list[Allocation]:
    """What a scheduler's watcher publishes of a change: a record for each who shares, else one.

    `entries` are the nodes that the job's holds index.
    """
    job = change.job
    whole = Allocation(
        source=SOURCE,
        id=job.id,
        tenant=job.tenant,
        project=job.project,
        job=job.id if job.tenant else "",
        subjects=tuple(_subject(entries[node], mask) for node, mask in job.holds),
        from_us=job.start_us,
        to_us=None if change.started else change.time_us,
        kind=job.klass.kind,
        known_us=change.time_us,
    )
    if not job.members:
        return [whole]
    return [
        msgspec.structs.replace(
            whole, id=one.id, tenant=one.tenant, project=one.project, job=one.id,
            shared=True, weight=one.weight, parts=job.klass.parts,
        )
        for one in job.members
    ]  # fmt: skip


def _subject(entry: InstalledNode, mask: int) -> Subject:
    if mask == FULL:
        return Subject(entry.name)
    held = (slot for bit, slot in enumerate(entry.slots) if mask >> bit & 1)
    return Subject(entry.name, tuple(slot_text(slot) for slot in held))
