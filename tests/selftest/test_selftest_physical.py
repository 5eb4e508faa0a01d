"""The ledger against the physical truth: what is within bounds, and what must be noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from collectors.contract.bus import Message
from collectors.contract.inventory import Inventory
from collectors.contract.source import SourceOptions
from collectors.contract.topics import ALLOC, GPU
from collectors.kit.clock import SystemClock
from collectors.simulator.oracle import Oracle
from collectors.simulator.source import create
from pipeline.selftest.bounds import bounds, time_check
from pipeline.selftest.physical import Physical, read_physical

HOUR_US = 3_600_000_000
START_US = 490_000 * HOUR_US - 300_000_000
Ledger = dict[Any, dict[str, int]]


class ToOracle:
    """A producer that only tells the oracle."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle

    async def start(self) -> None:
        """Has nothing to connect to."""

    async def stop(self) -> None:
        """Has nothing to close."""

    async def send(self, messages: Sequence[Message]) -> None:
        for one in messages:
            if one.topic == GPU and one.arrival_us is not None:
                self._oracle.add_record(one.value, one.arrival_us)
            elif one.topic == ALLOC:
                self._oracle.add_allocation(one.value)


def simulated(folder: Path, **extra: str) -> tuple[Physical, Ledger, Inventory]:
    """Ten minutes of the demonstration site over the end of an hour."""
    options = SourceOptions(
        site="demo", seed=4, speed=None, minutes=10, start_us=START_US, truth=folder,
        extra={"observable": "off", **extra},
    )  # fmt: skip
    source = create(options, SystemClock())
    oracle = Oracle(source.inventory)
    asyncio.run(source.run(ToOracle(oracle), asyncio.Event()))
    rows: Ledger = {tuple(key): dict(row) for key, row in oracle.finish().rows.items()}
    return read_physical(folder), rows, source.inventory


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Physical, Ledger, Inventory]:
    return simulated(tmp_path_factory.mktemp("truth"))


def test_without_loss_gpu_time_is_exact_and_figures_are_next_to_it(
    undisturbed: tuple[Physical, Ledger, Inventory],
) -> None:
    physical, ledger, inventory = undisturbed
    assert time_check(physical, ledger, inventory).ok
    found = bounds(physical, ledger, inventory)
    assert (found.outside, found.misled) == (0, 0)
    assert found.days >= 5
    assert {one.figure for one in found.worst} == {"gflop shown", "energy_mj", "gflop"}


def test_with_all_that_happens_to_records_the_truth_is_where_the_ledger_says(
    tmp_path: Path,
) -> None:
    physical, ledger, inventory = simulated(tmp_path, telemetry_faults="all", faults="random:20000")
    assert time_check(physical, ledger, inventory).ok
    found = bounds(physical, ledger, inventory)
    assert found.outside == 0, found.worst
    assert found.misled > 0


@pytest.mark.parametrize("figure", ["energy_mj", "gflop"])
def test_one_percent_of_a_tenants_day_is_noticed(
    undisturbed: tuple[Physical, Ledger, Inventory], figure: str
) -> None:
    physical, ledger, inventory = undisturbed
    tenant = max(
        (key[4] for key in ledger if key[3] == "tenant"),
        key=lambda name: sum(
            row["active_us"] - 100 * (row["down_us"] + row["unobserved_us"])
            for key, row in ledger.items()
            if key[4] == name
        ),
    )
    changed = {
        key: {**row, figure: row[figure] * 101 // 100} if key[4] == tenant else row
        for key, row in ledger.items()
    }
    assert bounds(physical, changed, inventory).outside >= 1


def test_a_second_that_went_to_somebody_else_is_noticed(
    undisturbed: tuple[Physical, Ledger, Inventory],
) -> None:
    physical, ledger, inventory = undisturbed
    key = next(key for key, row in ledger.items() if key[3] == "tenant" and row["idle_us"] > 10**6)
    moved = {**ledger, key: {**ledger[key], "idle_us": ledger[key]["idle_us"] - 10**6}}
    assert not time_check(physical, moved, inventory).ok
