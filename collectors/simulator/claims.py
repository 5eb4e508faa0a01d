"""Remembers which claims are open, so that a start after a crash can end them.

A scheduler knows after its restart what is no longer running.  The simulator
begins a new life instead, and would leave the claims of the old one open.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from collectors.contract.topics import Allocation

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
