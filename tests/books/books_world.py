"""A small world for the role: a real bus, series store and database in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from books_reference import HOUR, Sample, parts_of

from collectors.contract.bus import Message, Producer
from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.topics import (
    ALLOC,
    FLUSHED,
    Allocation,
    Flushed,
    Subject,
    dumps,
    topic_specs,
)
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from pipeline.books.database import Database
from pipeline.books.queries import read_rows
from pipeline.books.role import Books, BooksSettings
from pipeline.books.rows import RowKey
from pipeline.health import HealthBoard
from pipeline.series.duck import DuckStore
from pipeline.series.port import WriteBatch

S1, S2 = parse_slot("0000:1b:00.0"), parse_slot("0000:3d:00.0")
TEXT = {slot: slot_text(slot) for slot in (S1, S2)}
H = 490_000
SECOND = 1_000_000
SITE = Inventory(
    "t",
    "T",
    "Asia/Hong_Kong",
    "fp16",
    "dense",
    "boost",
    tuple(InstalledNode(name, "h", "r", "H800", (S1, S2), 1.0) for name in ("n1", "n2", "n3")),
)


def at(hour: int, offset_s: float) -> int:
    """µs since 1970, `offset_s` after the start of hour H + `hour`."""
    return (H + hour) * HOUR + int(offset_s * SECOND)


def run_samples(
    node: str,
    from_us: int,
    to_us: int,
    *,
    step_s: float = 30,
    run: int = 1,
    epoch: int = 1,
    phase_us: int = 0,
    base: int = 0,
) -> list[Sample]:
    """What an undisturbed agent sends of both slots: half of the time active, a bit of everything."""
    samples: list[Sample] = []
    step_us = int(step_s * SECOND)
    for index, time_us in enumerate(range(from_us + phase_us, to_us, step_us)):
        ran = index * step_us
        values = {
            "observed_us": ran - index,
            "down_us": index,
            "active_us": ran // 2,
            "gflop": 7 * ran // 1000 + base,
            "gflop_lo": 6 * ran // 1000,
            "energy_mj": base + 300 * (time_us - from_us) // 1000,
            "throttle_power_cap_us": index * 11,
            "pcie_replay": 3,
        }
        if index % 7 == 3:
            del values["gflop_lo"]
        label = 1 + index // 50
        samples += [Sample(node, slot, time_us, run, label, epoch, values) for slot in (S1, S2)]
    return samples


def job(key: str, tenant: str, from_us: int, to_us: int | None = None, *nodes: str) -> Allocation:
    subjects = tuple(Subject(node) for node in nodes or ("n1",))
    return Allocation("s", key, tenant, "p", key, subjects, from_us, to_us, known_us=from_us)


class World:
    """Opened parts; `books()` makes a role as a new process would."""

    def __init__(self, folder: Path, url: str | None = None, *, interval_s: float = 3600) -> None:
        self.clock = SystemClock()
        self.bus = SqliteBus(folder / "bus.db", clock=self.clock)
        self.series = DuckStore(folder / "series.duckdb", memory_limit_mb=64)
        self.database = Database(url or f"sqlite:///{folder}/books.db")
        self.settings = BooksSettings(interval_s=interval_s)
        self.board = HealthBoard("books", "test", self.clock)
        self.producer: Producer = self.bus.producer()
        self.inventory = SITE
        self._writer = 0
        self._offset = 0

    async def start(self) -> None:
        await self.bus.create_topics(topic_specs())
        await self.series.start()
        await self.database.start()
        await self.producer.start()

    def books(self, **settings: float) -> Books:
        return Books(
            self.bus,
            self.series,
            lambda: self.inventory,
            self.database,
            replace(self.settings, **settings),
            self.clock,
            self.board,
        )

    async def store(
        self, samples: Sequence[Sample], bus_us: int | None = None, partition: int = 0
    ) -> None:
        """Does what `store` does with samples: writes their parts, then says so."""
        self._writer += 1
        self._offset += 1
        mine = [replace(one, writer=self._writer) for one in samples]
        if mine:
            await self.series.write(WriteBatch(minutes=parts_of(mine)))
        touched = tuple(sorted({(one.node, one.time_us // HOUR) for one in samples}))
        if bus_us is None:
            bus_us = max(one.time_us for one in samples)
        told = Flushed(partition, self._offset, bus_us, touched)
        await self.producer.send([Message(FLUSHED, b"0", dumps(told))])

    async def allocate(self, *allocations: Allocation) -> None:
        await self.producer.send([Message(ALLOC, one.key, dumps(one)) for one in allocations])

    async def rows(self, hours: range = range(H - 9, H + 99)) -> dict[RowKey, dict[str, int]]:
        return await self.database.read(lambda one: read_rows(one, hours))

    async def close(self) -> None:
        await self.producer.stop()
        await self.series.close()
        await self.database.close()
        await self.bus.close()
