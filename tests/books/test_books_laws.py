"""Law 2 over anything: owners and states add up to what is installed, and telemetry moves no owner."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from books_reference import HOUR, Sample, parts_of
from books_strategies import H, claims_by_node, held, sample_lists, sharing, sites
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.contract.inventory import Inventory
from collectors.contract.topics import Allocation
from pipeline.books.ledger import compute_hours
from pipeline.books.rows import STATES, RowKey

HOURS = range(H - 2, H + 4)
Rows = Mapping[RowKey, Mapping[str, int]]
claims = st.lists(held, max_size=5) | st.lists(held | sharing, max_size=6)
ends = st.none() | st.integers(HOURS.start * HOUR - 5, HOURS.stop * HOUR + 5)


def computed(
    samples: Sequence[Sample], allocations: Sequence[Allocation], site: Inventory, until: int | None
) -> Rows:
    nodes = sorted({node.name for node in site.nodes})
    parts, given_claims = parts_of(samples), claims_by_node(allocations)
    return compute_hours(parts, given_claims, site, HOURS, nodes, until_us=until).by_key()


def installed_us(site: Inventory, until: int | None) -> dict[tuple[int, str, int], int]:
    """Per hour, node and slot, from the entries alone."""
    found: dict[tuple[int, str, int], int] = defaultdict(int)
    for hour in HOURS:
        low, high = hour * HOUR, (hour + 1) * HOUR
        high = high if until is None else min(high, until)
        for entry in site.nodes:
            end = high if entry.to_us is None else min(high, entry.to_us)
            for slot in entry.slots:
                found[hour, entry.name, slot] += max(0, end - max(low, entry.from_us))
    return {key: value for key, value in found.items() if value}


def times(rows: Rows, *key: int) -> dict[tuple[Any, ...], int]:
    """All states' time by some parts of the rows' key, where there is any."""
    found: dict[tuple[Any, ...], int] = defaultdict(int)
    for row_key, row in rows.items():
        found[tuple(row_key[at] for at in key)] += sum(row[state] for state in STATES)
    return {name: value for name, value in found.items() if value}


@settings(max_examples=60, deadline=None)
@given(sample_lists(), claims, sites, ends)
def test_owners_and_states_add_up_to_the_installed_time_of_every_gpu_and_hour(
    samples: list[Sample], allocations: list[Allocation], site: Inventory, until: int | None
) -> None:
    rows = computed(samples, allocations, site, until)
    assert times(rows, 0, 1, 2) == installed_us(site, until)
    assert min((value for row in rows.values() for value in row.values()), default=0) >= 0


@settings(max_examples=60, deadline=None)
@given(sample_lists(), claims, sites, ends)
def test_telemetry_moves_no_owner(
    samples: list[Sample], allocations: list[Allocation], site: Inventory, until: int | None
) -> None:
    told = times(computed(samples, allocations, site, until), *range(7))
    silent = times(computed([], allocations, site, until), *range(7))
    # Of those who share, each state's time is rounded by itself, in every set of them.
    sets = 2 * len(allocations) + 1 if any(one.shared for one in allocations) else 0
    slack = len(STATES) * sets
    for key in {*told, *silent}:
        assert abs(told.get(key, 0) - silent.get(key, 0)) <= slack
