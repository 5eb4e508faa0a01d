"""The series-store port and the columns that pass through it.

Two adapters pass one contract suite: DuckDB (embedded, one process) and
InfluxDB 2.x.  Every write is an upsert by a key that its writer alone uses,
so writing the same rows again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from collectors.kit.config import SetupError

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

MASK_BITS = 48
"""Sequences per mask; below 2^53 so that every store holds one exactly."""


@dataclass(frozen=True, slots=True)
class CounterSpan:
    """First and last point of a counter in each part; columns of M.

    A part in which the counter is absent has `first` = `last` =
    `COUNTER_ABSENT` and both times 0.  Ties in time are broken by value.
    """

    first_us: I64
    first: U64
    last_us: I64
    last: U64


@dataclass(frozen=True, slots=True)
class GaugeSpan:
    """Minimum, maximum and last value of a gauge in each part; NaN (and time 0) is absent."""

    minimum: F32
    maximum: F32
    last: F32
    last_us: I64


@dataclass(frozen=True, slots=True)
class MinuteParts:
    """GPU-minute parts as columns of M; key (node, slot, minute, run, label_epoch, writer, eviction).

    `node` indexes `nodes`.  `minute` counts minutes since 1970.  `writer` is
    the id that a `store` minted when it got its partitions, `eviction` how
    often it had already let go of this minute.  All else of one key is merged
    by minimum and maximum, so parts of different writers merge to the same row
    in any order.
    """

    nodes: Sequence[str]
    node: I32
    slot: U64
    minute: I64
    run: U64
    label_epoch: U64
    writer: U64
    eviction: I32
    origin: U8
    energy_epoch: U64
    counters: Mapping[str, CounterSpan]
    gauges: Mapping[str, GaugeSpan]

    def __len__(self) -> int:
        return len(self.node)


@dataclass(frozen=True, slots=True)
class NodeMasks:
    """Which sequences were seen, as columns of K; key (node, minute, run, block, writer, eviction).

    `block` is sequence // MASK_BITS, `mask` has bit sequence % MASK_BITS set
    for each one seen in that minute of event time.  Merged by OR.
    """

    nodes: Sequence[str]
    node: I32
    minute: I64
    run: U64
    block: I64
    writer: U64
    eviction: I32
    origin: U8
    mask: U64

    def __len__(self) -> int:
        return len(self.node)


@dataclass(frozen=True, slots=True)
class RawSamples:
    """Samples as columns of G; key (node, slot, time_us, origin).

    `values` maps catalogue names to float32 (NaN absent) or uint64
    (`COUNTER_ABSENT` absent); a metric that no sample has is left out.
    """

    nodes: Sequence[str]
    node: I32
    slot: U64
    time_us: I64
    origin: U8
    values: Mapping[str, F32 | U64]

    def __len__(self) -> int:
        return len(self.node)


@dataclass(frozen=True, slots=True)
class WriteBatch:
    """What one flush writes; empty parts are None."""

    raw: Sequence[RawSamples] = ()
    minutes: MinuteParts | None = None
    masks: NodeMasks | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that the store will never take, with the store's own reason."""

    reason: str
    row: bytes


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a write: rows stored, and rows refused (all others were stored)."""

    stored: int
    refused: Sequence[Refused] = field(default=())


class StoreUnavailableError(ConnectionError):
    """The store cannot take or answer anything now; try again later."""


class StoreTooSlowError(StoreUnavailableError):
    """The store took a request and did not answer it in time: less at once may succeed."""


class StoreSetupError(SetupError):
    """The store can never work as configured (wrong token, a file that another
    process has open); the message says what to do."""


class SeriesStore(Protocol):
    """Writes, scans and deletes; see the module for what keys mean.

    Every method may raise StoreUnavailableError.
    """

    @property
    def hours_a_read(self) -> int:
        """How many hours of minutes one read had best cover, where many are to be read."""
        ...

    async def start(self) -> None:
        """Connects and creates what is missing; raises StoreSetupError."""
        ...

    async def write(self, batch: WriteBatch) -> WriteResult:
        """Returns when all rows are durable, apart from those refused."""
        ...

    async def minutes(
        self,
        from_minute: int,
        to_minute: int,
        *,
        nodes: Sequence[str] | None = None,
        slots: Sequence[int] | None = None,
        counters: Sequence[str] | None = None,
        gauges: Sequence[str] | None = None,
    ) -> MinuteParts:
        """All parts with from_minute ≤ minute < to_minute, unmerged, in no order.

        None means all; an empty sequence of counters or gauges means none.
        """
        ...

    async def nearest(
        self, minute: int, *, nodes: Sequence[str], counter: str, before: bool, reach: int
    ) -> Sequence[tuple[str, int, int]]:
        """(node, slot, minute) of the last minute before `minute`, or the first at or
        after it, in which the slot has the counter; none farther than `reach` minutes."""
        ...

    async def masks(
        self, from_minute: int, to_minute: int, *, nodes: Sequence[str] | None = None
    ) -> NodeMasks:
        """All masks of the minutes, unmerged."""
        ...

    async def raw(
        self,
        from_us: int,
        to_us: int,
        *,
        node: str,
        slots: Sequence[int] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> RawSamples:
        """Samples with from_us ≤ time < to_us, in order of (slot, time)."""
        ...

    async def latest_us(self, *, nodes: Sequence[str] | None = None) -> int | None:
        """Event time of the newest raw sample, None when there is none."""
        ...

    async def delete_minutes(
        self, from_minute: int, to_minute: int, *, node: str, slot: int | None = None
    ) -> None:
        """Removes the parts of a node (or one slot of it) in a range of minutes."""
        ...

    async def delete_before(self, raw_us: int, minutes_us: int) -> None:
        """Retention, where the store has none of its own."""
        ...

    async def drop(self) -> None:
        """Removes everything that this store made; for self-tests."""
        ...

    async def health(self) -> dict[str, str]:
        """What answers, in which version, how large it is."""
        ...

    async def close(self) -> None:
        """Closes connections; what was written stays."""
        ...
