"""What is read from the ledger: sums that are kept, waterfalls, tenants and jobs, against the rows."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from collectors.contract.identity import parse_slot
from collectors.contract.inventory import InstalledNode, Inventory
from pipeline.books import journal, progress, schema
from pipeline.books.cells import Cell, read_cells
from pipeline.books.claims import NOBODY, UPKEEP, Owner
from pipeline.books.database import Database
from pipeline.books.efficiency import JobQuestion, job_table
from pipeline.books.journal import HourStamp, Models
from pipeline.books.periods import (
    Period,
    Resolution,
    between,
    day_period,
    days_of,
    month_period,
    slices,
    standing,
    whole_days,
)
from pipeline.books.rows import FIGURES, HOUR_US, STATES, LedgerRows
from pipeline.books.totals import FINE, KEPT, day_of
from pipeline.books.usage import sign_off_rows, tenant_table
from pipeline.books.waterfall import By, waterfall

ZONE = ZoneInfo("Asia/Hong_Kong")
SLOT = parse_slot("0000:1b:00.0")
OTHER = parse_slot("0000:3d:00.0")
H = 490_000
OWNERS = (
    NOBODY, UPKEEP, Owner("tenant", "ant", "p", "1"), Owner("tenant", "ant", "q", "2"),
    Owner("tenant", "bee", "p", "1"),
)  # fmt: skip
CHANGE = H + 30
"""From here on n2 stands elsewhere, with another nameplate."""
SITE = Inventory(
    "t", "T", "Asia/Hong_Kong", "FP16", "dense", "boost",
    (
        InstalledNode("n1", "east", "r", "H800-SXM", (SLOT, OTHER), 0.9895),
        InstalledNode("n2", "east", "r", "A800-SXM4-80GB", (SLOT, OTHER), 0.312, 0, CHANGE * HOUR_US),
        InstalledNode("n2", "west", "r", "H800-SXM", (SLOT, OTHER), 0.9895, CHANGE * HOUR_US),
    ),
)  # fmt: skip


def some_rows(seed: int, hours: range, nodes: tuple[str, ...] = ("n1", "n2")) -> LedgerRows:
    """Two owners to each slot and hour, who share all of it."""
    rng = np.random.default_rng(seed)
    keys = [
        (hour, node, slot, owner)
        for hour in hours
        for node in range(len(nodes))
        for slot in (SLOT, OTHER)
        for owner in rng.choice(len(OWNERS), 2, replace=False).tolist()
    ]
    count = len(keys)
    figures = {name: rng.integers(0, 2**40, count) for name in FIGURES}
    figures["gflop_hi"] += 1
    parts = rng.multinomial(HOUR_US // 2, [0.25] * len(STATES), count)
    figures |= {name: parts[:, place].astype(np.int64) for place, name in enumerate(STATES)}
    return LedgerRows(
        nodes, OWNERS, np.array([key[0] for key in keys], np.int64),
        np.array([key[1] for key in keys], np.int32), np.array([key[2] for key in keys], np.uint64),
        np.array([key[3] for key in keys], np.int32), rng.choice([0, 3], count).astype(np.uint8),
        figures,
    )  # fmt: skip


def put(connection: Connection, rows: LedgerRows, hours: range, site: Inventory = SITE) -> None:
    stamp = HourStamp(2**60, 2**60, 7)
    journal.replace_hours(connection, rows, hours, stamp, Models(site), ZONE)


def expected_sums(connection: Connection) -> dict[str, dict[Any, list[int]]]:
    """Every kept table as the hours and the places of their nodes give it, the long way."""
    placed = {
        (row.hour, row.node): (row.hall, row.gflops_per_gpu)
        for row in connection.execute(select(schema.node_hours))
    }
    found: dict[str, dict[Any, list[int]]] = {kept.table.name: {} for kept in KEPT}
    for row in connection.execute(select(schema.hours)).mappings():
        hall, rate = placed[row["hour"], row["node"]]
        fine = {**row, "hall": hall, "gflops_per_gpu": rate, "day": day_of(row["hour"], ZONE)}
        for kept in KEPT:
            if kept.table is schema.job_hours and not row["tenant"]:
                continue
            key = tuple(fine[name] for name in kept.key)
            sums = found[kept.table.name].setdefault(key, [0] * len(kept.figures))
            for place, name in enumerate(kept.figures):
                sums[place] += row[name]
    return found


def kept_sums(connection: Connection) -> dict[str, dict[Any, list[int]]]:
    return {
        kept.table.name: {
            tuple(row[name] for name in kept.key): [row[name] for name in kept.figures]
            for row in connection.execute(select(kept.table)).mappings()
        }
        for kept in KEPT
    }


_replacements = st.lists(
    st.tuples(
        st.integers(0, 9), st.integers(0, 40), st.integers(1, 3),
        st.sampled_from([("n1", "n2"), ("n1",), ("n2",)]),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sums") / "books.db"


def _emptied(connection: Connection) -> None:
    for table in (schema.hours, schema.node_hours, schema.pending, *(kept.table for kept in KEPT)):
        connection.execute(table.delete())


@settings(max_examples=20, deadline=None)
@given(_replacements)
def test_kept_sums_are_what_the_hours_add_up_to_whatever_is_replaced(
    one_file: Path, replacements: list[tuple[int, int, int, Any]]
) -> None:
    asyncio.run(_check_replacements(one_file, replacements))


async def _check_replacements(path: Path, replacements: list[tuple[int, int, int, Any]]) -> None:
    database = Database(f"sqlite:///{path}")
    await database.start()
    await database.write(_emptied)
    for seed, first, count, nodes in replacements:
        hours = range(H + first, H + first + count)
        rows = some_rows(seed, hours, nodes)
        await database.write(lambda one, rows=rows, hours=hours: put(one, rows, hours))
    expected = await database.read(expected_sums)
    assert await database.read(kept_sums) == expected
    await database.close()


async def test_books_of_an_earlier_version_get_their_sums_at_the_next_start(
    database: Database,
) -> None:
    hours = range(H, H + 50)

    def earlier(connection: Connection) -> dict[str, dict[Any, list[int]]]:
        put(connection, some_rows(1, hours), hours)
        expected = expected_sums(connection)
        for kept in KEPT[1:]:
            connection.execute(kept.table.delete())
        connection.execute(schema.node_hours.update().values(hall="", gflops_per_gpu=0))
        progress.write_meta(connection, "time_zone", "Asia/Hong_Kong")
        journal.keep_totals(connection, SITE)
        return expected

    expected = await database.write(earlier)
    assert await database.read(kept_sums) == expected
    assert {key[1] for key in expected["day_places"]} == {"east", "west"}


@pytest.fixture
async def ledger(database: Database) -> tuple[Database, LedgerRows]:
    """Fifty hours, over three days and a change of the site."""
    hours = range(H, H + 50)
    rows = some_rows(3, hours)
    await database.write(lambda one: put(one, rows, hours))
    return database, rows


def long_way(rows: LedgerRows, period: Period) -> dict[str, int]:
    """GPU-time by owner kind and state, and nameplate × time, from the rows one by one."""
    models = Models(SITE)
    sums: dict[str, int] = defaultdict(int)
    for (hour, node, _, kind, *_), row in rows.by_key().items():
        if hour in period.hours:
            rate = models.place(node, hour).gflops_per_gpu
            for name in STATES:
                sums[f"{kind} {name}"] += row[name]
                sums[f"{kind} {name} weight"] += row[name] * rate
            for name in ("gflop", "gflop_estimated", "energy_mj"):
                sums[f"{kind} {name}"] += row[name]
    return sums


def steps(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["name"]: step for step in row["steps"]}


@pytest.mark.parametrize("by", ["site", "hall", "model", "tenant"])
@pytest.mark.parametrize("resolution", ["total", "month", "day", "hour"])
async def test_waterfalls_are_nested_and_add_up(
    ledger: tuple[Database, LedgerRows], by: By, resolution: Resolution
) -> None:
    database, rows = ledger
    period = between((H + 5) * HOUR_US, (H + 47) * HOUR_US, ZONE)
    cells = await database.read(
        lambda one: read_cells(one, period, resolution, tenants=by == "tenant")
    )
    covered = {when: len(hours) * HOUR_US for when, hours in slices(period, resolution).items()}
    found = waterfall(cells, by, covered)
    sums = long_way(rows, period)
    kinds = ("tenant", "maintenance", "unallocated")
    installed = sum(sums[f"{kind} {state}"] for kind in kinds for state in STATES)
    assert sum(steps(row)["installed"]["gpu_us"] for row in found) == installed
    assert sum(steps(row)["active"]["gpu_us"] for row in found) == sums["tenant active_us"]
    assert sum(row["delivered"]["gflop"] for row in found) == sums["tenant gflop"]
    assert sum(row["energy_mj"] for row in found) == sum(
        sums[f"{kind} energy_mj"] for kind in kinds
    )
    weight = sum(sums[f"{kind} {state} weight"] for kind in kinds for state in STATES)
    total = sum(steps(row)["installed"]["pflop_hours"] for row in found)
    assert total == pytest.approx(weight / 3.6e15, rel=1e-12)
    for row in found:
        levels = steps(row)
        whole = [
            levels[name]["gpu_us"] for name in ("installed", "reporting", "allocated", "active")
        ]
        assert whole == sorted(whole, reverse=True)
        drops = {drop["name"]: drop for drop in row["drops"]}
        down = sum(drops[name]["gpu_us"] for name in ("down", "unobserved"))
        assert whole[0] - down == whole[1]
        assert (
            whole[1] - sum(drops[n]["gpu_us"] for n in ("maintenance", "unallocated")) == whole[2]
        )
        assert whole[2] - drops["idle"]["gpu_us"] == whole[3]
        left = levels["active"]["pflop_hours"]
        left -= drops["estimated"]["pflop_hours"] + drops["below_nameplate"]["pflop_hours"]
        assert left == pytest.approx(levels["delivered"]["pflop_hours"], abs=1e-9)
        bridge = 0.0
        for step in row["bridge"]:
            if step["kind"] == "drop":
                bridge -= step["pflop_hours"]
            elif step["name"] == "published":
                bridge = step["pflop_hours"]
            else:
                assert bridge == pytest.approx(step["pflop_hours"], abs=1e-9)
        assert row["origin"] == "simulated"


def one_cell(**changes: Any) -> Cell:
    measures = {"energy_mj": 0, "gflop": 0, "gflop_lo": 0, "gflop_hi": 0, "gflop_estimated": 0}
    cell = Cell("", "h", "m", 1_000_000, "tenant", "ant", 1, (0, 0, 0, 0), measures)
    return replace(cell, **changes)


def test_two_gpus_for_an_hour_in_figures_that_anyone_can_follow() -> None:
    """One GPU of 1 PFLOP/s holds a tenant, active half of the hour, with 600 PFLOP measured."""
    half = HOUR_US // 2
    measures = {**one_cell().measures, "gflop": 600 * 10**6, "gflop_lo": 5, "gflop_hi": 10**9}
    cells = [
        one_cell(us=(half, half - 9, 9, 0), measures=measures),
        one_cell(owner_kind="unallocated", tenant="", us=(0, half, 0, half)),
    ]
    (row,) = waterfall(cells, "site", {"": HOUR_US})
    assert [round(step["pflops"], 6) for step in row["steps"]] == [
        2.0, 1.5, 1.0, 0.5, round(600 / 3600, 6),
    ]  # fmt: skip
    assert [step["share_gpu_hours"] for step in row["steps"]][:1] == [1.0]
    assert row["bridge"][0]["share"] == 0.5
    assert steps(row)["delivered"]["gpu_hours"] == pytest.approx(600 / 3600)
    assert row["delivered"]["gflop_hi"] == 10**9


def test_origins_never_meet() -> None:
    hour = (HOUR_US, 0, 0, 0)
    cells = [one_cell(us=hour, origin=1), one_cell(us=hour, origin=3)]
    found = waterfall(cells, "site", {"": HOUR_US})
    assert [row["origin"] for row in found] == ["measured", "simulated"]
    assert [steps(row)["active"]["gpu_us"] for row in found] == [HOUR_US, HOUR_US]
    table = tenant_table(cells)
    assert [row["rank"] for row in table["rows"]] == [1, 1]
    assert [row["gpu_us"] for row in table["totals"]] == [HOUR_US, HOUR_US]


async def test_tables_of_tenants_reconcile(ledger: tuple[Database, LedgerRows]) -> None:
    database, rows = ledger
    period = between(H * HOUR_US, (H + 50) * HOUR_US, ZONE)
    cells = await database.read(lambda one: read_cells(one, period, "total", tenants=True))
    table, signed = tenant_table(cells), sign_off_rows(cells)
    sums = long_way(rows, period)
    (total,) = table["totals"]
    assert total["gpu_us"] == 4 * 50 * HOUR_US
    assert sum(row["gflop"] for row in table["rows"]) == sums["tenant gflop"]
    assert [row["rank"] for row in table["rows"]] == [1, 2]
    assert table["rows"][0]["gpu_us"] >= table["rows"][1]["gpu_us"]
    assert sum(row["share"] for row in table["rows"]) == pytest.approx(1)
    last = signed[-1]
    assert last["owner_kind"] == "total"
    for name in ("gpu_us", *STATES, "gflop", "gflop_hi", "energy_mj"):
        assert sum(row[name] for row in signed[:-1]) == last[name] == total[name]


@pytest.mark.parametrize("hours", [range(H + 3, H + 44), range(H + 3, H + 6)])
async def test_jobs_are_summed_sorted_and_found_idle(
    ledger: tuple[Database, LedgerRows], hours: range
) -> None:
    database, rows = ledger
    period = Period(hours, ZONE)
    models = Models(SITE)
    total, found = await database.read(lambda one: job_table(one, period, JobQuestion({})))
    expected: dict[tuple[str, str, str, str], list[int]] = {}
    seen: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for (hour, _, _, kind, *names), row in rows.by_key().items():
        if kind == "tenant" and hour in hours:
            key = (names[0], names[1], names[2], {0: "none", 3: "simulated"}[row["origin"]])
            figures = [row[name] for name in (*STATES, "gflop", "energy_mj")]
            old = expected.get(key, [0] * len(figures))
            expected[key] = [a + b for a, b in zip(old, figures, strict=True)]
            seen[key[:3]].append(hour)
    got = {
        (row["tenant"], row["project"], row["job"], row["origin"]): [
            row[name] for name in (*STATES, "gflop", "energy_mj")
        ]
        for row in found
    }
    assert got == expected
    assert total == len(expected)
    assert [row["gpu_us"] for row in found] == sorted((r["gpu_us"] for r in found), reverse=True)
    for row in found:
        key = (row["tenant"], row["project"], row["job"])
        assert row["first_hour_us"] == min(seen[key]) * HOUR_US
        assert row["last_hour_us"] == max(seen[key]) * HOUR_US
        used = {
            models.at(node, hour)
            for hour, node, _, _, *names in rows.by_key()
            if tuple(names) == key and hour in hours
        }
        assert set(row["models"]) <= used
    assert set().union(*(row["models"] for row in found)) == {"H800-SXM", "A800-SXM4-80GB"}
    one, rest = await database.read(
        lambda one: job_table(one, period, JobQuestion({"tenant": ["bee"]}, limit=1))
    )
    assert {row["tenant"] for row in rest} == {"bee"}
    assert (one, len(rest)) == (sum(key[0] == "bee" for key in expected), 1)


async def test_a_job_that_holds_and_does_nothing_is_waste(database: Database) -> None:
    hours = range(H, H + 9)
    rows = some_rows(1, hours)
    active = np.where(rows.owner == 2, 0, rows.figures["active_us"] + HOUR_US // 8)
    idle = np.where(rows.owner == 2, HOUR_US // 2, rows.figures["idle_us"])
    rows = replace(rows, figures={**rows.figures, "active_us": active, "idle_us": idle})
    await database.write(lambda one: put(one, rows, hours))
    question = JobQuestion({}, only_waste=True, sort="efficiency")
    total, found = await database.read(lambda one: job_table(one, Period(hours, ZONE), question))
    assert total == len(found) >= 1
    assert {(row["tenant"], row["job"], row["waste"]) for row in found} == {("ant", "1", "idle")}


async def test_a_period_is_final_once_all_of_it_is_there_and_nothing_waits(
    database: Database,
) -> None:
    hours = range(H, H + 3)
    period = Period(hours, ZONE)

    def work(connection: Connection) -> list[Any]:
        found = [standing(connection, period)]
        put(connection, some_rows(1, range(H, H + 2)), range(H, H + 2))
        found.append(standing(connection, period))
        put(connection, some_rows(1, range(H + 2, H + 3)), range(H + 2, H + 3))
        found.append(standing(connection, period))
        progress.add_pending(connection, [(H + 1, "n1")], progress.Cause.RECORDS)
        found.append(standing(connection, period))
        return found

    none, part, whole, waiting = await database.write(work)
    assert (none.from_us, none.as_of_us, none.final) == (None, None, False)
    assert (part.as_of_us, part.final) == ((H + 2) * HOUR_US, False)
    assert (whole.as_of_us, whole.final) == ((H + 3) * HOUR_US, True)
    assert not waiting.final
    assert part.covered_us(range(H + 1, H + 3)) == HOUR_US


@pytest.mark.parametrize("zone", ["Asia/Hong_Kong", "Asia/Kolkata", "Europe/Berlin", "UTC"])
def test_months_and_days_are_the_sites(zone: str) -> None:
    """Also where midnight lies within an hour, and where a day has 23 or 25."""
    there = ZoneInfo(zone)
    month = month_period("2026-03", there)
    assert {day_of(hour, there)[:7] for hour in month.hours} == {"2026-03"}
    assert day_of(month.hours.start - 1, there) == "2026-02-28"
    assert day_of(month.hours.stop, there) == "2026-04-01"
    days = dict(days_of(month.hours, there))
    assert len(days) == 31
    assert sum(len(hours) for hours in days.values()) == len(month.hours)
    assert all(day_period(day, there).hours == hours for day, hours in days.items())
    whole, rest = whole_days(range(month.hours.start + 1, month.hours.stop + 2), there)
    assert (len(whole), [len(part) for part in rest]) == (30, [len(days["2026-03-01"]) - 1, 2])


@pytest.mark.parametrize("text", ["2026-13", "2026-1", "October", "", "10000-01", "2026-00"])
def test_what_is_no_month_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="2026-10"):
        month_period(text, ZONE)


@pytest.mark.parametrize("text", ["2026-02-30", "2026-10", "1. October", ""])
def test_what_is_no_day_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="2026-10-03"):
        day_period(text, ZONE)


def test_the_fine_sums_know_all_that_a_kept_table_is_kept_by() -> None:
    for kept in KEPT:
        assert set(kept.key) - {"day"} <= set(FINE), kept.table.name
