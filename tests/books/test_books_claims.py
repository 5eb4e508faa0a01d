"""The rule between claims, and the live index against it at every moment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.contract.identity import parse_slot
from collectors.contract.tenants import NameRule, Tenants
from collectors.contract.topics import Allocation, Subject
from pipeline.books.claim_index import MAINTENANCE, ClaimIndex
from pipeline.books.claims import (
    NOBODY,
    UPKEEP,
    Claim,
    Owner,
    Piece,
    Share,
    Sharers,
    claims_of,
    ownership,
)

SLOTS = ("0000:1b:00.0", "0000:3d:00.0")
PLACES = [(node, parse_slot(slot)) for node in ("n1", "n2") for slot in SLOTS]


def allocation(
    key: str,
    tenant: str,
    from_us: int,
    to_us: int | None,
    *subjects: Subject,
    kind: str = "job",
    deleted: bool = False,
    precedence: int = 0,
    weight: int | None = None,
    parts: int = 0,
) -> Allocation:
    """With a weight it is shared."""
    return Allocation(
        "test",
        key,
        tenant,
        "p",
        key,
        subjects or (Subject("n1"),),
        from_us,
        to_us,
        kind=kind,
        deleted=deleted,
        precedence=precedence,
        shared=weight is not None,
        weight=1 if weight is None else weight,
        parts=parts,
    )


def test_later_start_wins_and_maintenance_beats_all():
    claims = [
        claim
        for one in (
            allocation("a", "ant", 10, 100),
            allocation("b", "bee", 20, 50),
            allocation("m", "", 5, 30, kind="maintenance"),
        )
        for claim in claims_of(one)
    ]
    assert ownership(claims, PLACES[0][1], 0, 120) == [
        Piece(0, 5, NOBODY),
        Piece(5, 30, UPKEEP),
        Piece(30, 50, Owner("tenant", "bee", "p", "b")),
        Piece(50, 100, Owner("tenant", "ant", "p", "a")),
        Piece(100, 120, NOBODY),
    ]


def test_a_schedulers_word_goes_before_what_processes_show_whenever_it_began():
    claims = [
        claim
        for one in (
            allocation("s", "ant", 10, 60, precedence=20),
            allocation("p", "bee", 30, 90, precedence=10),
            allocation("f", "cat", 40, 100),
        )
        for claim in claims_of(one)
    ]
    pieces = ownership(claims, PLACES[0][1], 0, 120)
    owners = [
        (piece.from_us, piece.to_us, piece.owner.tenant)
        for piece in pieces
        if isinstance(piece.owner, Owner)
    ]
    assert owners == [
        (0, 10, ""),
        (10, 60, "ant"),
        (60, 90, "bee"),
        (90, 100, "cat"),
        (100, 120, ""),
    ]


def test_an_allocation_that_names_no_tenant_leaves_the_slot_to_the_next():
    nameless = allocation("s", "", 10, None, precedence=20)
    assert claims_of(nameless) == []
    assert claims_of(allocation("m", "", 10, None, kind="maintenance"))
    index = ClaimIndex(PLACES)
    index.apply(allocation("p", "bee", 5, None, precedence=10))
    index.apply(nameless)
    assert index.owners_at(20).tolist() == [2, 2, 0, 0]


def test_shared_claims_of_the_greatest_ranks_precedence_hold_a_slot_together():
    said = (
        allocation("b", "bee", 10, 80, precedence=20, weight=3, parts=7),
        allocation("a", "ant", 20, 100, Subject("n1", SLOTS[:1]), Subject("n1"), precedence=20, weight=2),
        allocation("c", "cat", 0, 100, precedence=10, weight=5),
        allocation("d", "doe", 30, 40, precedence=20),
        allocation("m", "", 50, 60, kind="maintenance"),
        allocation("e", "elk", 70, 110, precedence=10, weight=0, parts=3),
    )  # fmt: skip
    claims = [claim for one in said for claim in claims_of(one)]
    pieces = ownership(claims, PLACES[0][1], 0, 120)
    told = [
        (
            piece.from_us,
            [(one.id, one.weight) for one in piece.owner.shares],
            piece.owner.parts,
        )
        if isinstance(piece.owner, Sharers)
        else (piece.from_us, piece.owner.kind, piece.owner.job)
        for piece in pieces
    ]
    both = ([("a", 2), ("b", 3)], 7)
    assert told == [
        (0, [("c", 5)], 5),
        (10, [("b", 3)], 7),
        (20, *both),
        (30, "tenant", "d"),
        (40, *both),
        (50, "maintenance", ""),
        (60, *both),
        (80, [("a", 2)], 2),
        (100, [("e", 1)], 3),
        (110, "unallocated", ""),
    ]
    assert pieces[1].owner == Sharers((Share("test", "b", Owner("tenant", "bee", "p", "b"), 3),), 7)


def test_a_claim_holds_its_own_slots_only():
    claims = claims_of(allocation("a", "ant", 0, None, Subject("n1", (SLOTS[1],))))
    assert ownership(claims, parse_slot(SLOTS[0]), 0, 9) == [Piece(0, 9, NOBODY)]
    owner = Owner("tenant", "ant", "p", "a")
    assert ownership(claims, parse_slot(SLOTS[1]), 0, 9) == [Piece(0, 9, owner)]


def test_deleted_and_empty_allocations_claim_nothing():
    assert claims_of(allocation("a", "ant", 0, None, deleted=True)) == []
    assert claims_of(allocation("a", "ant", 7, 7)) == []


def test_a_slot_that_is_no_address_is_refused():
    with pytest.raises(ValueError, match="PCI address"):
        claims_of(allocation("a", "ant", 0, None, Subject("n1", ("gpu0",))))


def test_a_correction_replaces_and_ended_claims_are_forgotten():
    index = ClaimIndex(PLACES, keep_us=100)
    index.apply(allocation("a", "ant", 0, None))
    assert index.owners_at(10).tolist() == [2, 2, 0, 0]
    index.apply(allocation("a", "ant", 0, 20, Subject("n2")))
    assert index.owners_at(10).tolist() == [0, 0, 2, 2]
    assert index.owners_at(20).tolist() == [0, 0, 0, 0]
    assert len(index) == 1
    index.owners_at(120)
    assert len(index) == 0


times = st.integers(0, 60)
subjects = st.lists(
    st.builds(
        Subject, st.sampled_from(["n1", "n2", "n3"]), st.sampled_from([(), SLOTS[:1], SLOTS])
    ),
    min_size=1,
    max_size=2,
).map(tuple)
allocations = st.builds(
    Allocation,
    source=st.sampled_from(["s", "t", "correction"]),
    id=st.sampled_from(["1", "2", "s 1", "t 2", "correction s 1"]),
    tenant=st.sampled_from(["ant", "bee", "cat", ""]),
    account=st.sampled_from(["", "", "lab", "bee"]),
    user=st.sampled_from(["", "eve"]),
    project=st.just(""),
    job=st.just(""),
    subjects=subjects,
    from_us=times,
    to_us=st.none() | times,
    kind=st.sampled_from(["job", "job", "maintenance"]),
    deleted=st.sampled_from([False, False, False, True]),
    precedence=st.sampled_from([0, 10, 20]),
    shared=st.booleans(),
)


def _rule(by: str, name: str, tenant: str, from_us: int, to_us: int | None = None) -> NameRule:
    return NameRule(by, name, "", tenant, "", from_us, to_us, 1)


NAMES = Tenants(
    names=(
        _rule("account", "lab", "dog", 10, 20),
        _rule("account", "lab", "elk", 20, 40),
        _rule("account", "bee", "fox", 30),
        _rule("user", "eve", "gnu", 0, 50),
    )
)


def _holding(last: dict[tuple[str, str], Allocation]) -> list[Claim]:
    """The claims of those in whose stead no correction stands."""
    stands = {one.id for (source, _), one in last.items() if source == "correction"}
    stands -= {one.id for one in last.values() if one.deleted and one.source == "correction"}
    left = [one for (source, key), one in last.items() if f"{source} {key}" not in stands]
    return [claim for one in left for claim in claims_of(one, NAMES)]


@given(st.lists(st.tuples(times, allocations) | st.tuples(times, st.none()), max_size=25))
def test_the_index_agrees_with_the_rule_at_every_time(steps: list[tuple[int, Allocation | None]]):
    index = ClaimIndex(PLACES, NAMES)
    last: dict[tuple[str, str], Allocation] = {}
    for time_us, one in steps:
        if one is not None:
            index.apply(one)
            last[one.source, one.id] = one
        claims = _holding(last)
        codes = index.owners_at(time_us)
        assert codes.dtype == np.int32
        for (node, slot), code in zip(PLACES, codes.tolist(), strict=True):
            mine = [claim for claim in claims if claim.node == node]
            (piece,) = ownership(mine, slot, time_us, time_us + 1)
            shown = UPKEEP if code == MAINTENANCE else Owner("tenant", index.tenants[code])
            if isinstance(piece.owner, Sharers):
                # Live figures give all of a shared slot to one of those who share it.
                assert shown.tenant in {share.owner.tenant for share in piece.owner.shares}
            else:
                assert (NOBODY if code == 0 else shown)[:2] == piece.owner[:2]
