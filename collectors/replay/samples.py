"""What a reader makes of one row: one GPU at one moment, in catalogue units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from collectors.contract.identity import Slot, pack_slot
from collectors.contract.record import SlotLabels


@dataclass(frozen=True, slots=True)
class Sample:
    """`time_us` is None where the recording has no time of its own."""

    time_us: int | None
    labels: SlotLabels
    values: Mapping[str, float]
    node: str | None = None
    """Where the recording says it; else the file's name or the command's `--node`."""


@dataclass(slots=True)
class Rejects:
    """Rows that were left out, by reason, each reason with the first place where it was met."""

    counts: Counter[str] = field(default_factory=Counter[str])
    first: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, reason: str, place: str) -> None:
        """Counts one row."""
        self.counts[reason] += 1
        self.first.setdefault(reason, place)

    @property
    def total(self) -> int:
        """All rows left out."""
        return self.counts.total()


class Reader(Protocol):
    """Reads one recording from its start; what cannot be read goes to `rejects`."""

    def __call__(self, path: Path, rejects: Rejects) -> Iterator[Sample]:
        """Yields in the file's order.  Raises ValueError for a file of another kind."""
        ...


def synthetic_slot(index: int) -> int:
    """The slot of a GPU of which only the index is known: `0000:<index + 1>:00.0`.

    Raises ValueError for an index that is none.
    """
    return pack_slot(Slot(0, index + 1, 0, 0))
