"""The columns that a fetch of node records becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, Metric
from collectors.contract.record import SlotLabels


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that was refused: its index in the input, and why."""

    index: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which metrics a reader cuts out of records, in the order of its columns."""

    gauges: tuple[Metric, ...]
    counters: tuple[Metric, ...]

    @classmethod
    def all(cls) -> Wanted:
        """The whole catalogue as it is now."""
        return cls(CATALOGUE.gauges, CATALOGUE.counters)

    @classmethod
    def of(cls, gauges: Sequence[str], counters: Sequence[str]) -> Wanted:
        """By catalogue names."""
        rows = CATALOGUE.by_name
        return cls(tuple(rows[n] for n in gauges), tuple(rows[n] for n in counters))


class Labels:
    """The labels of one record; read only when somebody asks, since most readers do not."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def read(self) -> tuple[SlotLabels, ...]:
        """Per slot who sits in it."""
        return tuple(
            SlotLabels(x.slot, x.uuid, x.model, x.serial, x.occupant) for x in self._message.labels
        )


@dataclass(slots=True)
class Group:
    """n records of G slots each; per-record columns are [n], per-sample ones [n, G].

    `gauges` is float32[Q, n, G] (NaN absent) and `counters` uint64[C, n, G]
    (`COUNTER_ABSENT` absent), in the order of the reader's `Wanted`.  `index` is a record's place in the input, `place` and `gpu`
    are numbers of the `SlotTable`.
    """

    index: NDArray[np.intp]
    place: NDArray[np.int32]
    origin: NDArray[np.uint8]
    run: NDArray[np.uint64]
    sequence: NDArray[np.uint64]
    time_us: NDArray[np.int64]
    label_epoch: NDArray[np.uint64]
    gpu: NDArray[np.int32]
    energy_epoch: NDArray[np.uint64]
    gauges: NDArray[np.float32]
    counters: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def slots(self) -> int:
        """G, the slots of each record."""
        return self.gpu.shape[1]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Group:
        """The group of some of its records, in the order given."""
        at = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return Group(
            self.index[at], self.place[at], self.origin[at], self.run[at],
            self.sequence[at], self.time_us[at], self.label_epoch[at], self.gpu[at],
            # `take` leaves columns in one piece, as an index in the middle does not.
            self.energy_epoch[at], self.gauges.take(at, axis=1), self.counters.take(at, axis=1),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decoded:
    """All that a fetch held: groups of equal slot count, labels by input index, and refusals."""

    groups: Sequence[Group]
    labels: Sequence[tuple[int, Labels]]
    broken: Sequence[Broken]

    @property
    def samples(self) -> int:
        """GPU-samples in all groups."""
        return sum(len(group) * group.slots for group in self.groups)
