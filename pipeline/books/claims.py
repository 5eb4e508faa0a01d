"""Who owns a slot at a time: allocations as claims, and the rule between several.

`maintenance` beats every other claim; among the rest the greatest
(precedence, from_us, source, id) holds the slot.  An allocation that names no
tenant claims nothing, so that the next one below it may hold.  Knows
allocations alone: no bus, no database, no telemetry.

For the ledger: `claims_of(allocation)` gives claims per node, and
`ownership(claims, slot, from_us, to_us)` the owners of a slot over a time.

For live figures, once per tick and for every slot of a layout:

    index = ClaimIndex([(node, slot), …])      # in layout order
    index.apply(allocation)                    # each record of telemetry.alloc, in bus order
    codes = index.owners_at(event_time_us)     # int32 per position, do not write into it
    index.tenants[code]                        # name of a code; UNALLOCATED and MAINTENANCE are first

A tick without a claim that starts or ends costs nothing; one that does costs
a few µs per node of the claim.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collectors.contract.identity import parse_slot
from collectors.contract.topics import Allocation

UNALLOCATED, MAINTENANCE = 0, 1
"""Codes of `ClaimIndex.owners_at` below the first tenant's."""

_NEVER = 2**63 - 1


class Owner(NamedTuple):
    """Whose a moment of a slot is; `kind` is `tenant`, `unallocated` or `maintenance`."""

    kind: str
    tenant: str = ""
    project: str = ""
    job: str = ""


NOBODY = Owner("unallocated")
UPKEEP = Owner("maintenance")


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

    def holds(self, slot: int) -> bool:
        """Whether the claim names a slot."""
        return self.slots is None or slot in self.slots


def claims_of(allocation: Allocation) -> list[Claim]:
    """One claim per subject; none where the allocation is deleted, empty or nobody's.

    Raises ValueError where a slot is not a PCI address.
    """
    to_us = _NEVER if allocation.to_us is None else allocation.to_us
    subjects = [(one.node, _packed(one.slots)) for one in allocation.subjects]
    upkeep = allocation.kind == "maintenance"
    nobodys = not upkeep and not allocation.tenant
    if allocation.deleted or nobodys or to_us <= allocation.from_us:
        return []
    rank = _rank(allocation)
    owner = UPKEEP if upkeep else Owner("tenant", *_holder(allocation))
    return [Claim(node, slots, rank.from_us, to_us, rank, owner) for node, slots in subjects]


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
    owner: Owner


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


def _owner_at(claims: Sequence[Claim], time_us: int) -> Owner:
    holding = [claim for claim in claims if claim.from_us <= time_us < claim.to_us]
    return max(holding, key=lambda claim: claim.rank).owner if holding else NOBODY


@dataclass(slots=True, eq=False)
class _Held:
    """The claims of one allocation on places of the layout: (node index, positions)."""

    key: tuple[str, str]
    from_us: int
    to_us: int
    rank: Rank
    code: int
    places: list[tuple[int, NDArray[np.intp]]]


class ClaimIndex:
    """The owners of all positions of a layout now, kept up to date as time goes on.

    Allocations that ended more than `keep_us` before the latest time asked
    for are forgotten; a time before that sees them no more.
    """

    def __init__(self, places: Sequence[tuple[str, int]], *, keep_us: int = 3_600_000_000) -> None:
        self.tenants = ["", ""]
        self._codes = np.zeros(len(places), np.int32)
        self._tenant_code: dict[str, int] = {}
        self._keep_us = keep_us
        self._node_index: dict[str, int] = {}
        self._slots: list[dict[int, int]] = []
        for position, (node, slot) in enumerate(places):
            index = self._node_index.setdefault(node, len(self._slots))
            if index == len(self._slots):
                self._slots.append({})
            self._slots[index][slot] = position
        self._all = [np.array(list(slots.values()), np.intp) for slots in self._slots]
        self._current: dict[tuple[str, str], _Held] = {}
        self._active: list[dict[tuple[str, str], _Held]] = [{} for _ in self._slots]
        self._changes: list[tuple[int, int, _Held]] = []
        self._pushed = 0
        self._time_us = -_NEVER

    def __len__(self) -> int:
        """Allocations remembered."""
        return len(self._current)

    def apply(self, allocation: Allocation) -> None:
        """Takes the last word on (source, id).  Raises ValueError for a slot that is no PCI address."""
        claims = claims_of(allocation)
        key = (allocation.source, allocation.id)
        before = self._current.pop(key, None)
        if before is not None:
            self._release(before)
        if claims and claims[0].to_us > self._time_us - self._keep_us:
            held = self._held(key, claims)
            if held.places:
                self._current[key] = held
                self._schedule(held)

    def _held(self, key: tuple[str, str], claims: Sequence[Claim]) -> _Held:
        places: list[tuple[int, NDArray[np.intp]]] = []
        for claim in claims:
            index = self._node_index.get(claim.node)
            if index is None:
                continue
            slots = self._slots[index]
            if claim.slots is None:
                positions = self._all[index]
            else:
                positions = np.array([slots[s] for s in claim.slots if s in slots], np.intp)
            places.append((index, positions))
        first = claims[0]
        code = MAINTENANCE if first.rank.maintenance else self._code(first.owner.tenant)
        return _Held(key, first.from_us, first.to_us, first.rank, code, places)

    def _code(self, tenant: str) -> int:
        code = self._tenant_code.get(tenant)
        if code is None:
            code = self._tenant_code[tenant] = len(self.tenants)
            self.tenants.append(tenant)
        return code

    def _schedule(self, held: _Held) -> None:
        if held.from_us <= self._time_us < held.to_us:
            self._hold(held)
        for time_us in (held.from_us, held.to_us):
            if self._time_us < time_us < _NEVER:
                self._push(time_us, held)
        if held.to_us < _NEVER:
            self._push(held.to_us + self._keep_us, held)

    def _push(self, time_us: int, held: _Held) -> None:
        self._pushed += 1
        heapq.heappush(self._changes, (time_us, self._pushed, held))

    def _hold(self, held: _Held) -> None:
        for index, _ in held.places:
            self._active[index][held.key] = held
            self._resolve(index)

    def _release(self, held: _Held) -> None:
        for index, _ in held.places:
            if self._active[index].pop(held.key, None) is not None:
                self._resolve(index)

    def _resolve(self, index: int) -> None:
        """Paints a node's claims from the lowest rank up: the greatest is left on top."""
        self._codes[self._all[index]] = UNALLOCATED
        holding = self._active[index].values()
        for held in sorted(holding, key=lambda one: one.rank):
            for node, positions in held.places:
                if node == index:
                    self._codes[positions] = held.code

    def owners_at(self, time_us: int) -> NDArray[np.int32]:
        """A code per position: UNALLOCATED, MAINTENANCE or a tenant's place in `tenants`.

        The array is the index's own.  Times should go forward; a step back
        costs a look at every allocation remembered.
        """
        if time_us < self._time_us:
            self._rewind(time_us)
        while self._changes and self._changes[0][0] <= time_us:
            at_us, _, held = heapq.heappop(self._changes)
            if self._current.get(held.key) is not held:
                continue
            if at_us >= held.to_us:
                self._release(held)
                if at_us >= held.to_us + self._keep_us:
                    del self._current[held.key]
            else:
                self._hold(held)
        self._time_us = time_us
        return self._codes

    def _rewind(self, time_us: int) -> None:
        self._time_us = time_us
        self._changes = []
        self._active = [{} for _ in self._slots]
        self._codes[:] = UNALLOCATED
        for held in self._current.values():
            self._schedule(held)
