"""What is called waste, and what never is: by signals, in stored minutes, in a simulated centre."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.identity import parse_slot
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.source import SourceOptions
from collectors.contract.topics import Allocation, Subject
from collectors.kit.clock import SystemClock
from pipeline import waste
from pipeline.books import versions
from pipeline.books.claims import Claim, claims_of
from pipeline.books.rows import HOUR_US
from pipeline.books.waste_report import GAUGES, MINUTE_US, waste_in
from pipeline.commands.wiring import ephemeral, install, make_source
from pipeline.selftest.run import Selftest, SelftestOptions
from pipeline.series.columns import absent_counter, absent_gauge, concat_parts
from pipeline.series.port import CounterSpan, GaugeSpan, MinuteParts
from pipeline.settings import Settings

SLOT = parse_slot("0000:1b:00.0")
M = 490_000 * 60
HANGS = {
    "utilization": 1.0, "tensor": 0.0, "nvlink": 0.0, "power_w": 125.0, "idle_loaded_w": 120.0,
    "dram": 0.01, "fp64": 0.0, "fp32": 0.0,
}  # fmt: skip
ABSENT = float("nan")


def signals(**changes: float) -> waste.Signals:
    return waste.Signals(**{name: np.array([v]) for name, v in {**HANGS, **changes}.items()})


CASES: list[tuple[str, dict[str, float], str]] = [
    ("a collective that waits for ever", {}, "hung"),
    ("decoding: memory at work", {"dram": 0.6, "power_w": 208}, "work"),
    ("decoding at low power", {"dram": 0.3}, "work"),
    ("HPC in FP64", {"fp64": 0.35, "power_w": 480}, "work"),
    ("HPC in FP64 at low power", {"fp64": 0.05}, "work"),
    ("simulation in FP32", {"fp32": 0.2}, "work"),
    ("training", {"tensor": 0.4, "power_w": 650}, "work"),
    ("waiting for the network, at work", {"nvlink": 5e9}, "work"),
    ("integer work at full power", {"power_w": 400}, "work"),
    ("idle with a model loaded", {"utilization": 0.0}, "work"),
    ("memory's activity unknown", {"dram": ABSENT}, "cannot tell"),
    ("FP64 unknown", {"fp64": ABSENT}, "cannot tell"),
    ("no NVLink to look at", {"nvlink": ABSENT}, "cannot tell"),
    ("a model whose power is unknown", {"idle_loaded_w": ABSENT}, "cannot tell"),
    ("decoding, FP64 unknown", {"fp64": ABSENT, "dram": 0.5}, "work"),
    ("nothing known but utilisation", dict.fromkeys(
        ("tensor", "nvlink", "power_w", "dram", "fp64", "fp32"), ABSENT), "cannot tell"),
    ("utilisation unknown", {"utilization": ABSENT}, "work"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "verdict"), CASES, ids=[case[0] for case in CASES])
def test_what_hangs_and_what_works(name: str, changes: dict[str, float], verdict: str) -> None:
    one = signals(**changes)
    assert waste.hung(one).tolist() == [verdict == "hung"]
    assert waste.cannot_tell(one).tolist() == [verdict == "cannot tell"]


def test_power_with_a_context_loaded_is_known_where_the_limit_is() -> None:
    assert waste.loaded_idle_w("H100-SXM") == pytest.approx(120)
    assert waste.loaded_idle_w("no such model") is None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.booleans()), unique_by=lambda r: r[:2]), st.integers(1, 4))  # fmt: skip
def test_spells_are_the_runs_that_one_counts_by_hand(
    rows: list[tuple[int, int, bool]], least: int
) -> None:
    rows.sort()
    columns = [np.array([row[place] for row in rows]) for place in range(3)]
    found = waste.spells(
        columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2].astype(bool), least
    ).tolist()
    expected: list[list[int]] = []
    start: int | None = None
    for index, (group, minute, holds) in enumerate([*rows, (9, 99, False)]):
        joined = index > 0 and rows[index - 1] == (group, minute - 1, True) and holds
        if start is not None and not joined:
            if index - start >= least:
                expected.append([start, index])
            start = None
        if holds and start is None:
            start = index
    assert found == expected


def minutes(node: str, first: int, count: int, active_share: float, **gauges: float) -> MinuteParts:
    """Minutes of a node's one GPU in which every sample says the same."""
    minute = np.arange(first, first + count, dtype=np.int64)
    start, end = minute * MINUTE_US, minute * MINUTE_US + 59_000_000
    zero = np.zeros(count, np.uint64)

    def gauge(value: float) -> GaugeSpan:
        column = np.full(count, value, np.float32)
        return GaugeSpan(column, column, column, end)

    def counter(rise: int) -> CounterSpan:
        return CounterSpan(start, zero, end, zero + np.uint64(rise))

    all_gauges = {name: absent_gauge(count) for name in GAUGES}
    counters = {metric.name: absent_counter(count) for metric in CATALOGUE.counters}
    counters |= {
        "observed_us": counter(59_000_000), "active_us": counter(int(active_share * 59_000_000)),
        "nvlink_tx_bytes": counter(1_000), "nvlink_rx_bytes": counter(1_000),
    }  # fmt: skip
    return MinuteParts(
        (node,), np.zeros(count, np.int32), np.full(count, SLOT, np.uint64), minute,
        zero + np.uint64(1), zero, zero + np.uint64(1), np.zeros(count, np.int32),
        np.full(count, 1, np.uint8), zero, counters,
        {**all_gauges, **{name: gauge(value) for name, value in gauges.items()}},
    )  # fmt: skip


QUIET = {
    "gpu_utilization": 1.0, "tensor_activity": 0.0, "power_w": 121.0, "dram_activity": 0.0,
    "fp64_activity": 0.0, "fp32_activity": 0.0,
}  # fmt: skip
NODES = ("hangs", "idles", "serves", "unseen")
SITE = Inventory(
    "t", "T", "UTC", "FP16", "dense", "boost",
    tuple(InstalledNode(name, "h", "r", "H100-SXM", (SLOT,), 0.989) for name in NODES),
)  # fmt: skip


def held(node: str, from_us: int, tenant: str = "ant") -> dict[str, list[Claim]]:
    one = Allocation("s", node, tenant, "p", node, (Subject(node),), from_us, None)
    return {node: claims_of(one)}


def centre() -> MinuteParts:
    return concat_parts(
        [
            minutes("hangs", M, 30, 1.0, **QUIET),
            minutes("idles", M, 90, 0.0, **{**QUIET, "gpu_utilization": 0.0}),
            minutes("serves", M, 90, 0.9, **{**QUIET, "dram_activity": 0.4}),
            minutes("unseen", M, 90, 1.0, gpu_utilization=1.0, power_w=121.0),
        ]
    )


def test_waste_is_found_with_its_owner_and_evidence() -> None:
    claims: dict[str, Any] = {}
    for node in NODES:
        claims |= held(node, M * MINUTE_US)
    span = (M * MINUTE_US, (M + 120) * MINUTE_US)
    rows = waste_in(centre(), claims, SITE, NODES, span)
    found = {(row["node"], row["kind"], row["minutes"]) for row in rows}
    assert found == {("hangs", "hung", 30), ("idles", "idle", 90), ("unseen", "cannot_tell", 90)}
    by_kind = {row["kind"]: row for row in rows}
    assert by_kind["hung"]["tenant"] == "ant"
    assert by_kind["hung"]["job"] == "hangs"
    assert by_kind["hung"]["power_w_max"] == pytest.approx(121)
    assert by_kind["hung"]["missing"] == []
    assert by_kind["cannot_tell"]["missing"] == [
        "tensor_activity", "dram_activity", "fp64_activity", "fp32_activity",
    ]  # fmt: skip
    assert by_kind["cannot_tell"]["dram_activity_max"] is None
    assert [row["minutes"] for row in rows] == sorted((r["minutes"] for r in rows), reverse=True)


def test_what_nobody_holds_is_nobodys_waste() -> None:
    half = held("hangs", (M + 20) * MINUTE_US)
    span = (M * MINUTE_US, (M + 120) * MINUTE_US)
    (row,) = waste_in(centre(), half, SITE, NODES, span)
    assert (row["from_us"], row["minutes"]) == ((M + 20) * MINUTE_US, 10)
    upkeep = {"hangs": [replace(claim, owner=claim.owner._replace(kind="maintenance", tenant=""))
                        for claim in half["hangs"]]}  # fmt: skip
    assert waste_in(centre(), upkeep, SITE, NODES, span) == []


def test_a_minute_half_unknown_ends_a_time() -> None:
    """Two runs met in a minute; one of them saw no memory activity."""
    claims = held("hangs", M * MINUTE_US)
    parts = minutes("hangs", M, 15, 1.0, **QUIET)
    other = minutes("hangs", M + 7, 1, 1.0, **{**QUIET, "dram_activity": ABSENT})
    other = replace(other, run=other.run + np.uint64(1))
    span = (M * MINUTE_US, (M + 60) * MINUTE_US)
    assert waste_in(concat_parts([parts, other]), claims, SITE, NODES, span) == []
    assert len(waste_in(parts, claims, SITE, NODES, span)) == 1


@pytest.mark.long
async def test_a_simulated_centre_at_work_is_never_called_hung(tmp_path: Path) -> None:
    """Training, inference and HPC of a whole site, through store, claims and minutes."""
    clock = SystemClock()
    own = ephemeral(msgspec.structs.replace(Settings(), data=tmp_path), tmp_path)
    start_us = clock.wall_us() // HOUR_US * HOUR_US
    source = make_source(
        "sim",
        SourceOptions(site="demo", seed=3, speed=None, minutes=15, start_us=start_us,
                      topic_prefix=own.topic_prefix),
        clock,
    )  # fmt: skip
    installation = install(own, clock, source.inventory, series=True, books=True)
    await installation.start()
    bounds = (start_us, start_us + 15 * MINUTE_US)
    test = Selftest(
        installation, source, SelftestOptions(minutes=15),
        range(start_us // MINUTE_US, bounds[1] // MINUTE_US),
    )  # fmt: skip
    await test._flow()  # pyright: ignore[reportPrivateUsage]
    books = installation.books()
    await books.finish()
    await books.close()
    claims = await installation.opened_database().read(
        lambda one: versions.claims_between(one, *bounds)
    )
    nodes = sorted(claims)
    parts = await installation.opened_series().minutes(
        bounds[0] // MINUTE_US, bounds[1] // MINUTE_US, nodes=nodes, gauges=GAUGES
    )
    await installation.close()
    rows = waste_in(parts, claims, source.inventory, nodes, bounds)
    assert nodes
    assert len(parts) > 100
    assert [row for row in rows if row["kind"] == "hung"] == []
