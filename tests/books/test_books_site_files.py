"""The site's files change while the books are kept: the ledger is as if they had said so always."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from books_reference import HOUR, Sample, parts_of
from books_strategies import BASE, S1, H, held, inventory, node, sample_lists, sharing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, select
from test_books_compute import Store

from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.tenants import Tenants
from collectors.contract.tenants_file import parse_tenants
from collectors.contract.topics import ALLOC, Allocation, Subject
from collectors.kit.clock import SystemClock
from pipeline.books import progress, schema, site_files, totals, versions
from pipeline.books.compute import Computer
from pipeline.books.database import Database
from pipeline.books.queries import read_rows
from pipeline.books.remember import Memory
from pipeline.books.rows import STATES
from pipeline.books.site_files import SiteFiles
from pipeline.health import HealthBoard

HOURS = range(H - 2, H + 4)
CUT = BASE + HOUR // 2 + 1
Step = list[Sample] | Allocation | Inventory | Tenants


def _file(*rules: tuple[str, str, str, int | None, int | None]) -> Tenants:
    """Rules as (key, name, tenant, from, to), by way of a file's text."""
    lines = ['[[tenants]]\nid = "ape"\n[[tenants]]\nid = "bat"\n']
    for key, name, tenant, from_us, to_us in rules:
        lines.append(f'[[names]]\ntenant = "{tenant}"\n{key} = ["{name}"]')
        for bound, at_us in (("from", from_us), ("to", to_us)):
            if at_us is not None:
                moment = datetime.fromtimestamp(at_us // 1_000_000, UTC)
                lines.append(f"{bound} = {moment:%Y-%m-%dT%H:%M:%S}.{at_us % 1_000_000:06d}Z")
    return parse_tenants(Path("tenants.toml"), "\n".join(lines), None, "UTC")


FILES = [
    Tenants(),
    _file(("accounts", "lab", "ape", None, None)),
    _file(("accounts", "lab", "bat", None, CUT), ("accounts", "lab", "ape", CUT, None)),
    _file(("accounts", "lab", "bat", BASE, CUT + 7), ("users", "eve", "ape", BASE - HOUR, None)),
]
SITES = [
    inventory(),
    inventory(node("n2")),
    inventory(node("n1", BASE + 5), node("n2")),
    inventory(node("n1", 0, CUT), node("n1", BASE + HOUR, None)),
    inventory(InstalledNode("n1", "h", "r", "H800", (S1,), 1.0), node("n3", CUT)),
]


@st.composite
def claims(draw: st.DrawFn) -> Allocation:
    """Most may be named by the file, and many stand in each other's stead."""
    return msgspec.structs.replace(
        draw(held | sharing),
        source=draw(st.sampled_from(["s", "s", "correction"])),
        id=draw(st.sampled_from(["1", "2", "s 1", "s 1", "correction s 1"])),
        tenant=draw(st.sampled_from(["", "", "lab", "ant"])),
        account=draw(st.sampled_from(["", "lab", "lab"])),
        user=draw(st.sampled_from(["", "eve"])),
    )


STEP: st.SearchStrategy[Step] = st.one_of(
    claims(), claims(), st.sampled_from(SITES), st.sampled_from(FILES), sample_lists()
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site-files") / "books.db"


def empty(connection: Connection) -> None:
    for table in reversed(schema.metadata.sorted_tables):
        connection.execute(delete(table))


class Kept:
    """Books that compute at each word."""

    def __init__(self, path: Path) -> None:
        self.database = Database(f"sqlite:///{path}")
        self.store = Store()
        self.files = SiteFiles(SITES[0])
        self.clock = SystemClock()
        self.board = HealthBoard("books", "t", self.clock)
        self.memory = Memory()

    async def take(self, said: Sequence[Step], *, restart: bool = False) -> None:
        await self.database.write(lambda one: self._take(one, said))
        if restart:
            self.memory = Memory(await self.database.read(progress.read_spans))
        await self.compute()

    async def compute(self, *, again: bool = False) -> None:
        store: Any = self.store
        computer = Computer(
            store, self.database, self.memory, self.clock, self.board, chunk_minutes=60
        )
        inventory, tenants = self.files
        until_us = HOURS.stop * HOUR
        await computer.compute(
            inventory, until_us, until_us - 2 * HOUR, tenants=tenants, again=again
        )

    def _take(self, connection: Connection, said: Sequence[Step]) -> None:
        for one in said:
            if isinstance(one, Allocation):
                changes = versions.record(connection, [(one, 0)])
                versions.mark_changes(connection, changes, progress.Cause.ALLOCATIONS)
            elif isinstance(one, list):
                touched = sorted({(sample.time_us // HOUR, sample.node) for sample in one})
                progress.add_pending(connection, touched, progress.Cause.RECORDS)
                self.store.parts += [parts_of(one)] if one else []
            else:
                changed = {"inventory" if isinstance(one, Inventory) else "tenants": one}
                self.files = self.files._replace(**changed)
        site_files.adopt(connection, self.files, 0, ALLOC)

    async def rows(self) -> dict[Any, dict[str, int]]:
        return await self.database.read(lambda one: read_rows(one, HOURS))


async def _bit_by_bit(path: Path, said: Sequence[Step], restarts: Sequence[bool]) -> Kept:
    kept = Kept(path)
    await kept.database.start()
    await kept.database.write(empty)
    for one, restart in zip(said, restarts, strict=True):
        await kept.take([one], restart=restart)
    return kept


async def _at_once(path: Path, said: Sequence[Step]) -> Kept:
    kept = Kept(path)
    await kept.database.start()
    await kept.database.write(empty)
    last = {(one.source, one.id): one for one in said if isinstance(one, Allocation)}
    files = [one for one in said if isinstance(one, Inventory | Tenants)]
    samples = [one for one in said if isinstance(one, list)]
    await kept.take([*files, *last.values(), *samples])
    return kept


def _balances(site: Inventory, rows: dict[Any, dict[str, int]], hours: range) -> None:
    """Owners' states add up to the time installed, for every hour and slot; nothing else is there."""
    owned: dict[tuple[int, str, int], int] = defaultdict(int)
    for (hour, name, slot, *_), row in rows.items():
        assert all(row[state] >= 0 for state in STATES)
        owned[hour, name, slot] += sum(row[state] for state in STATES)
    installed: dict[tuple[int, str, int], int] = defaultdict(int)
    for entry, hour in itertools.product(site.nodes, hours):
        low, high = hour * HOUR, (hour + 1) * HOUR
        time_us = min(high, entry.to_us or high) - max(low, entry.from_us)
        for slot in entry.slots if time_us > 0 else ():
            installed[hour, entry.name, slot] += time_us
    assert owned == installed


async def _compared(path: Path, said: Sequence[Step], restarts: Sequence[bool]) -> None:
    kept = await _bit_by_bit(path, said, restarts)
    rows, site = await kept.rows(), kept.files.inventory
    hours = await kept.database.read(progress.ledger_hours)
    _balances(site, rows, hours)
    days = await kept.database.read(_day_totals)
    await kept.database.write(lambda one: totals.rebuild(one, ZoneInfo("UTC")))
    assert days == await kept.database.read(_day_totals)
    left = await kept.database.read(progress.read_pending)
    assert [hour for hour, _ in left if hour < HOURS.stop] == []
    await kept.database.close()
    whole = await _at_once(path, said)
    expected = await whole.rows()
    await whole.database.close()
    first = min(hours, default=HOURS.stop)
    assert rows == {key: one for key, one in expected.items() if key[0] >= first}


def _day_totals(connection: Connection) -> list[tuple[Any, ...]]:
    table = schema.day_totals
    return sorted(tuple(row) for row in connection.execute(select(table)))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEP, min_size=2, max_size=7), st.data())
def test_any_changes_come_to_what_was_said_last(
    path: Path, said: list[Step], data: st.DataObject
) -> None:
    # The ledger has hours before anything else is said.
    said = [[sample("n1", BASE, 0), sample("n1", BASE + HOUR, HOUR)], *said]
    restarts = [data.draw(st.booleans()) for _ in said]
    asyncio.run(_compared(path, said, restarts))


@pytest.mark.parametrize("withdrawn", [False, True])
def test_a_correction_touches_all_that_it_takes_away(path: Path, withdrawn: bool) -> None:
    points = [sample("n1", BASE, 0), sample("n1", BASE + 3 * HOUR, 3 * HOUR)]
    job = Allocation("s", "1", "ant", "p", "j", (Subject("n1"),), BASE, BASE + 3 * HOUR)
    shorter = msgspec.structs.replace(job, source="correction", id="s 1", to_us=BASE + HOUR)
    nothing = msgspec.structs.replace(shorter, subjects=())
    gone = msgspec.structs.replace(nothing, deleted=True)
    resent = msgspec.structs.replace(job, to_us=BASE + 2 * HOUR, known_us=5)
    said = [points, job, shorter, resent, nothing, *([gone] if withdrawn else [])]
    asyncio.run(_compared(path, said, [False] * len(said)))


def sample(name: str, time_us: int, counted: int) -> Sample:
    values = {"observed_us": counted, "down_us": 0, "active_us": counted, "energy_mj": counted}
    return Sample(name, S1, time_us, 1, 10, 1, values)


@pytest.mark.parametrize("restart", [False, True])
def test_a_node_s_points_from_before_it_was_in_the_inventory_count(
    path: Path, restart: bool
) -> None:
    early = [sample("n9", BASE - HOUR, 0)]
    late = [sample("n9", BASE + 2 * HOUR, 3 * HOUR), sample("n1", BASE + 2 * HOUR, 0)]
    site = inventory(node("n1"), node("n9", BASE + HOUR))
    asyncio.run(_compared(path, [early, late, site], [restart] * 3))


async def test_hours_whose_minutes_are_gone_stay_as_they_were(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "books.db")
    await kept.database.start()
    job = Allocation("s", "1", "ant", "p", "j", (Subject("n1"),), BASE, BASE + HOUR)
    await kept.take([[sample("n1", BASE, 0), sample("n1", BASE + HOUR // 2, HOUR // 2)], job])
    before = await kept.rows()
    assert any(row["active_us"] for row in before.values())
    kept.store.parts = [parts_of([])]
    corrected = msgspec.structs.replace(job, tenant="bee")
    await kept.take([corrected, inventory(node("n2"))])
    after = await kept.rows()
    assert {key: row for key, row in after.items() if key[:2] == (H, "n1")} == {
        key: row for key, row in before.items() if key[0] == H
    }
    assert kept.board.total("books_minutes_gone") == 1
    # Where nothing had been seen there is nothing to lose.
    assert {key[:2] for key in after} == {(H, "n1"), *((hour, "n2") for hour in range(H, H + 4))}
    await kept.database.close()


async def test_versions_are_kept_with_the_time_since_when_they_are_known(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "books.db")
    await kept.database.start()

    def work(one: Connection) -> list[site_files.KnownFiles]:
        for at_us, files in ((10, (SITES[0], FILES[1])), (20, (SITES[1], FILES[1])),
                             (20, (SITES[1], FILES[1])), (30, (SITES[1], FILES[0]))):  # fmt: skip
            site_files.adopt(one, SiteFiles(*files), at_us, ALLOC)
        return [site_files.known_files(one, at) for at in (5, 10, 25, None)]

    early, first, second, last = await kept.database.write(work)
    assert (early.inventory, early.tenants.text) == (None, "")
    assert first.inventory == SITES[0]
    assert [rule.tenant for rule in first.tenants.names] == ["ape"]
    assert (second.inventory, second.tenants.names) == (SITES[1], first.tenants.names)
    assert (last.inventory, last.tenants.names) == (SITES[1], ())
    noted = await kept.database.read(lambda one: list(one.execute(select(schema.site_files))))
    assert [(row.kind, row.known_from_us) for row in noted] == [
        ("site", 10), ("tenants", 10), ("site", 20), ("tenants", 30),
    ]  # fmt: skip
    await kept.database.close()


RESERVED = """
[[tenants]]
id = "ape"
[[reservations]]
id = "r1"
tenant = "ape"
nodes = "n1"
[[maintenance]]
id = "m1"
nodes = "n2"
from = 2026-01-01
"""


async def test_the_file_s_claims_go_to_the_bus_once_and_end_with_their_entry(
    tmp_path: Path,
) -> None:
    kept = Kept(tmp_path / "books.db")
    await kept.database.start()
    both = parse_tenants(Path("t"), RESERVED, None, "UTC")
    one = parse_tenants(Path("t"), RESERVED[: RESERVED.index("[[main")], None, "UTC")
    other = parse_tenants(Path("t"), RESERVED.replace('"n1"', '"n3"'), None, "UTC")

    def sent(connection: Connection, tenants: Tenants) -> list[tuple[str, str, bool]]:
        site_files.adopt(connection, SiteFiles(SITES[0], tenants), 5, ALLOC)
        rows = list(connection.execute(select(schema.outbox)))
        connection.execute(delete(schema.outbox))
        told = [msgspec.json.decode(bytes(row.value), type=Allocation) for row in rows]
        return sorted((one.id, one.subjects[0].node, one.deleted) for one in told)

    said = [both, one, one, other, Tenants()]
    found = [await kept.database.write(lambda c, t=t: sent(c, t)) for t in said]
    assert found == [
        [("m1", "n2", False), ("r1", "n1", False)],
        [("m1", "n2", True)],
        [],
        [("m1", "n2", False), ("r1", "n3", False)],
        [("m1", "n2", True), ("r1", "n3", True)],
    ]
    await kept.database.close()


def test_timelines_differ_where_they_say_different_things() -> None:
    old = [(0, 10, "a"), (10, 20, "b"), (30, 40, "c")]
    new = [(0, 10, "a"), (15, 20, "b"), (20, 35, "c")]
    assert list(site_files.differing(old, new)) == [(10, 15), (20, 30), (35, 40)]
    assert list(site_files.differing(old, old)) == []
    assert list(site_files.differing([], new[:1])) == [(0, 10)]
