"""The books against the simulator's oracle, which knows the wire and the rules and none of our code."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from books_reference import HOUR, Sample, parts_of
from books_strategies import BASE, TEXT, claims_by_node, held, sample_lists, sharing, sites
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from test_books_site_files import FILES, claims

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.inventory import Inventory
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.tenants import Tenants
from collectors.contract.topics import Allocation, dumps
from collectors.contract.wire import encode
from collectors.simulator.oracle import Oracle
from pipeline.books import schema, versions
from pipeline.books.claims import Claim
from pipeline.books.ledger import compute_hours

H = BASE // HOUR


def encoded(samples: Sequence[Sample]) -> list[tuple[bytes, int]]:
    """A record per sample (a node's slots need not come together), with its bus time."""
    sequences: dict[tuple[str, int], int] = defaultdict(int)
    records: list[tuple[bytes, int]] = []
    for one in samples:
        sequence = sequences[one.node, one.run] = sequences[one.node, one.run] + 1
        values = {name: [value] for name, value in one.values.items()}
        record = NodeRecord(
            one.node,
            Origin(one.origin),
            one.run,
            sequence,
            one.time_us,
            one.label_epoch,
            [one.slot],
            [one.energy_epoch],
            {name: column for name, column in values.items() if column != [COUNTER_ABSENT]},
        )
        records.append((encode(record), one.time_us))
    return records


@settings(max_examples=100, deadline=None)
@given(sample_lists(), st.lists(held, max_size=4) | st.lists(sharing, max_size=6), sites)
def test_rows_equal_the_oracles(
    samples: list[Sample], allocations: list[Allocation], site: Inventory
):
    hours = range(H - 1, H + 3)
    oracle = Oracle(site)
    for data, bus_us in encoded(samples):
        oracle.add_record(data, bus_us)
    for allocation in allocations:
        oracle.add_allocation(dumps(allocation))
    truth = {tuple(key): dict(row) for key, row in oracle.finish(hours).rows.items()}
    nodes = sorted({node.name for node in site.nodes})
    rows = compute_hours(parts_of(samples), claims_by_node(allocations), site, hours, nodes)
    assert rows.by_key() == truth
    assert set(TEXT) >= {key[2] for key in truth}


def _claims(
    allocations: Sequence[Allocation], tenants: Tenants, hours: range
) -> dict[str, list[Claim]]:
    """What the books themselves make of the records, in a database of their own."""
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            schema.metadata.create_all(connection)
            versions.record(connection, [(one, 0) for one in allocations])
            low, high = hours.start * HOUR, hours.stop * HOUR
            return versions.claims_between(connection, low, high, tenants=tenants)
    finally:
        engine.dispose()


@settings(max_examples=60, deadline=None)
@given(sample_lists(), st.lists(claims(), max_size=6), st.sampled_from(FILES), sites)
def test_tenants_by_file_and_corrections_equal_the_oracles(
    samples: list[Sample], allocations: list[Allocation], tenants: Tenants, site: Inventory
):
    hours = range(H - 1, H + 3)
    oracle = Oracle(site, tenants.text)
    for data, bus_us in encoded(samples):
        oracle.add_record(data, bus_us)
    for allocation in allocations:
        oracle.add_allocation(dumps(allocation))
    truth = {tuple(key): dict(row) for key, row in oracle.finish(hours).rows.items()}
    nodes = sorted({node.name for node in site.nodes})
    held_by = _claims(allocations, tenants, hours)
    assert compute_hours(parts_of(samples), held_by, site, hours, nodes).by_key() == truth
