"""Who owns a slot at a time: allocations as claims, and the rule between several.

`maintenance` beats every other claim; among the rest the greatest
(precedence, from_us, source, id) holds the slot, alone, or where it is shared
together with all shared claims of its precedence.  Whose a claim is may be the
tenants file's to say, and then changes with the time; while an allocation names
no tenant it claims nothing, so that the next one below it may hold.  Knows
allocations and names alone: no bus, no database, no telemetry.

`claims_of(allocation, tenants)` gives claims per node, and `ownership(claims, slot,
from_us, to_us)` the owners of a slot over a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from collectors.contract.identity import parse_slot
from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.contract.topics import Allocation


class Owner(NamedTuple):
    """Whose a moment of a slot is; `kind` is `tenant`, `unallocated` or `maintenance`."""

    kind: str
    tenant: str = ""
    project: str = ""
    job: str = ""


NOBODY = Owner("unallocated")
UPKEEP = Owner("maintenance")


class Share(NamedTuple):
    """What one claim has of a slot that several hold: `weight` of the slot's parts, 1 or more."""

    source: str
    id: str
    owner: Owner
    weight: int


@dataclass(frozen=True, slots=True)
class Sharers:
    """Those who hold a slot together, in order of (source, id); `parts` is what the slot has, and
    no less than the sum of their weights."""

    shares: tuple[Share, ...]
    parts: int


Holder = Owner | Sharers


class Rank(NamedTuple):
    """Of the claims that hold a slot at a time the one with the greatest rank owns it."""

    maintenance: bool
    precedence: int
    from_us: int
    source: str
    id: str


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """Slots of one node (None: all of them) held in [from_us, to_us)."""

    node: str
    slots: frozenset[int] | None
    from_us: int
    to_us: int
    rank: Rank
    owner: Owner
    share: Share | None = None
    """Of a claim that leaves room for others of its kind."""
    parts: int = 0
    """Of how many parts the slot is, where that is more than the sum of the weights."""

    def holds(self, slot: int) -> bool:
        """Whether the claim names a slot."""
        return self.slots is None or slot in self.slots


def claims_of(allocation: Allocation, tenants: Tenants = NO_TENANTS) -> list[Claim]:
    """One claim per subject, and per stretch of time in which `tenants` say the same of it; none
    where the allocation is deleted, empty or nobody's.

    All have the same rank.  Raises ValueError where a slot is not a PCI address.
    """
    subjects = [(one.node, _packed(one.slots)) for one in allocation.subjects]
    if allocation.deleted:
        return []
    rank, upkeep = _rank(allocation), allocation.kind == "maintenance"
    claims: list[Claim] = []
    for start, end, owner in _owned(allocation, tenants):
        share = _share(allocation, owner) if allocation.shared and not upkeep else None
        claims += [
            Claim(node, slots, start, end, rank, owner, share, allocation.parts)
            for node, slots in subjects
        ]
    return claims


def _owned(allocation: Allocation, tenants: Tenants) -> Iterator[tuple[int, int, Owner]]:
    """Who owns what an allocation holds, from when to when."""
    for start, end, rule in tenants.stretches(allocation):
        if allocation.kind == "maintenance":
            yield start, end, UPKEEP
        elif rule is not None:
            project = rule.project or allocation.project
            yield start, end, Owner("tenant", rule.tenant, project, allocation.job)
        elif allocation.tenant:
            yield start, end, Owner("tenant", *_holder(allocation))


def _share(one: Allocation, owner: Owner) -> Share:
    return Share(one.source, one.id, owner, max(1, one.weight))


def _rank(one: Allocation) -> Rank:
    return Rank(one.kind == "maintenance", one.precedence, one.from_us, one.source, one.id)


def _packed(slots: Sequence[str]) -> frozenset[int] | None:
    return frozenset(parse_slot(slot) for slot in slots) if slots else None


def _holder(allocation: Allocation) -> tuple[str, str, str]:
    return allocation.tenant, allocation.project, allocation.job


class Piece(NamedTuple):
    """A time in which a slot's owner does not change."""

    from_us: int
    to_us: int
    owner: Holder


def ownership(claims: Iterable[Claim], slot: int, from_us: int, to_us: int) -> list[Piece]:
    """The owners of a slot over [from_us, to_us): pieces in order, without gaps.

    `claims` are those of the slot's node; neighbouring pieces differ in owner.
    """
    mine = [
        claim
        for claim in claims
        if claim.from_us < to_us and claim.to_us > from_us and claim.holds(slot)
    ]
    cuts = {from_us, to_us}
    for claim in mine:
        cuts.update((max(from_us, claim.from_us), min(to_us, claim.to_us)))
    times = sorted(cuts)
    pieces: list[Piece] = []
    for start, end in itertools.pairwise(times):
        owner = _owner_at(mine, start)
        same = pieces and pieces[-1].owner == owner
        pieces.append(Piece(pieces.pop().from_us if same else start, end, owner))
    return pieces


def _owner_at(claims: Sequence[Claim], time_us: int) -> Holder:
    holding = [claim for claim in claims if claim.from_us <= time_us < claim.to_us]
    if not holding:
        return NOBODY
    best = max(holding, key=lambda claim: claim.rank)
    return best.owner if best.share is None else _together(holding, best.rank.precedence)


def _together(holding: Sequence[Claim], precedence: int) -> Sharers:
    """The shared claims of one precedence; a claim that names a slot twice shares once."""
    mine = [claim for claim in holding if claim.rank.precedence == precedence]
    shares = sorted({claim.share for claim in mine if claim.share is not None})
    parts = [claim.parts for claim in mine if claim.share is not None]
    return Sharers(tuple(shares), max(*parts, sum(share.weight for share in shares)))
