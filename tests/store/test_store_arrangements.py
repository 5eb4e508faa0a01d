"""Any number of workers in any arrangement come to the same rows: partitions given and taken,
deaths before the commit, repeats, flushes whenever they like."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from test_store_minutes import expected, flat, record, seen

from collectors.contract.bus import Chunk, Partition
from collectors.contract.record import NodeRecord
from collectors.contract.wire import encode
from pipeline.series.columns import concat_parts, merge_parts
from pipeline.series.port import MinuteParts, NodeMasks
from pipeline.store.intake import Intake
from pipeline.store.validate import TimeRules

_HOUR_US = 3_600_000_000


@dataclass
class Group:
    """A consumer group over a log in memory, its workers' intakes, and what they wrote."""

    log: list[list[bytes]]
    bus_us: int
    rng: random.Random
    parts: list[MinuteParts] = field(default_factory=list[MinuteParts])
    masks: list[NodeMasks] = field(default_factory=list[NodeMasks])
    touched: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    writers: int = 0

    def __post_init__(self) -> None:
        self.committed = [0] * len(self.log)
        self.share: list[list[int]] = []
        self.rebalance()

    def rebalance(self) -> None:
        """Another number of workers, each with another share; all begin at what is committed."""
        count = self.rng.randint(1, 4)
        owner = [self.rng.randrange(count) for _ in self.log]
        self.share = [[p for p, who in enumerate(owner) if who == w] for w in range(count)]
        self.position = list(self.committed)
        self.intakes = [self._intake() for _ in range(count)]

    def _intake(self) -> Intake:
        self.writers += 1
        return Intake(self.writers, TimeRules(), 1.0)

    def fetch(self, worker: int) -> None:
        chunks: list[Chunk] = []
        for number in self.share[worker]:
            at = self.position[number]
            values = self.log[number][at : at + self.rng.randint(0, 4)]
            if values:
                offsets = range(at, at + len(values))
                times = [self.bus_us] * len(values)
                chunks.append(
                    Chunk(Partition("t", number), offsets, times, [b""] * len(values), values)
                )
                self.position[number] += len(values)
        if chunks:
            self.intakes[worker].take_in(chunks)

    def flush(self, worker: int, *, dies: bool) -> None:
        """Writes, announces, commits; one that dies has done only some of it."""
        if not self.intakes[worker].pending:
            return
        snapshot = self.intakes[worker].snapshot()
        done = self.rng.randrange(3) if dies else 3
        if done >= 1 and snapshot.batch.minutes is not None:
            self.parts.append(snapshot.batch.minutes)
        if done >= 1 and snapshot.batch.masks is not None:
            self.masks.append(snapshot.batch.masks)
        if done >= 2:
            for touched in snapshot.touched.values():
                self.touched |= touched
        if done >= 3:
            for partition, offset in snapshot.offsets.items():
                self.committed[partition.number] = offset
        if dies:
            self.rebalance()


def partitioned(records: Sequence[NodeRecord], rng: random.Random) -> list[list[bytes]]:
    """By node, as the bus does it; some records again, some under another's key."""
    log: list[list[bytes]] = [[] for _ in range(3)]
    for one in records:
        number = {"a": 0, "b": 1}[one.node] if rng.random() < 0.9 else rng.randrange(3)
        log[number] += [encode(one)] * rng.choice((1, 1, 2))
    return log


@settings(max_examples=60, deadline=None)
@given(st.lists(record(), min_size=1, max_size=25), st.integers(0, 2**30))
def test_rows_do_not_tell_who_wrote_them(records: list[NodeRecord], seed: int) -> None:
    rng = random.Random(seed)
    log = partitioned(records, rng)
    group = Group(log, max(one.time_us for one in records), rng)
    for _ in range(rng.randint(5, 40)):
        worker = rng.randrange(len(group.share))
        step = rng.random()
        if step < 0.6:
            group.fetch(worker)
        elif step < 0.85:
            group.flush(worker, dies=False)
        elif step < 0.95:
            group.flush(worker, dies=True)
        else:
            group.rebalance()
    while group.committed != [len(values) for values in log]:
        for worker in range(len(group.share)):
            group.fetch(worker)
            group.flush(worker, dies=False)
    assert flat(merge_parts(concat_parts(group.parts))) == expected(records)
    assert seen(group.masks) == {(one.node, one.run, one.sequence) for one in records}
    assert group.touched == {(one.node, one.time_us // _HOUR_US) for one in records}
