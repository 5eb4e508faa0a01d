"""Who owns each slot of a layout now, for live figures: once per tick, all slots at once.

    index = ClaimIndex([(node, slot), …], tenants)      # in layout order
    index.apply(allocation)                    # each record of telemetry.alloc, in bus order
    codes = index.owners_at(event_time_us)     # int32 per position, do not write into it
    index.tenants[code]                        # name of a code; UNALLOCATED and MAINTENANCE are first

A tick without a claim that starts or ends costs nothing; one that does costs
a few µs per node of the claim.

A slot has one owner here, the claim of the greatest rank, also where several
share it: live figures show whole GPUs, and the ledger divides them.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.contract.topics import Allocation
from pipeline.books.claims import Claim, Rank, claims_of
from pipeline.books.corrections import Key, corrected_by

UNALLOCATED, MAINTENANCE = 0, 1
"""Codes of `ClaimIndex.owners_at` below the first tenant's."""

_NEVER = 2**63 - 1


@dataclass(slots=True, eq=False)
class _Held:
    """The claims of one allocation while one owns it, on places of the layout: (node index,
    positions)."""

    said: Allocation
    from_us: int
    to_us: int
    rank: Rank
    code: int
    places: list[tuple[int, NDArray[np.intp]]]

    @property
    def key(self) -> Key:
        """Of the allocation."""
        return self.said.source, self.said.id


class ClaimIndex:
    """The owners of all positions of a layout now, kept up to date as time goes on.

    Allocations that ended more than `keep_us` before the latest time asked
    for are forgotten; a time before that sees them no more.
    """

    def __init__(
        self,
        places: Sequence[tuple[str, int]],
        names: Tenants = NO_TENANTS,
        *,
        keep_us: int = 3_600_000_000,
    ) -> None:
        """`names` is the tenants file, which may say whose a claim is."""
        self.tenants = ["", ""]
        self._names = names
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
        self._current: dict[Key, list[_Held]] = {}
        self._corrected: dict[Key, Allocation | None] = {}
        """Of records in whose stead a correction stands the last word, where there is one."""
        self._active: list[dict[int, _Held]] = [{} for _ in self._slots]
        self._changes: list[tuple[int, int, _Held]] = []
        self._pushed = 0
        self._time_us = -_NEVER

    def __len__(self) -> int:
        """Allocations remembered."""
        return len(self._current)

    def apply(self, allocation: Allocation) -> None:
        """Takes the last word on (source, id).  Raises ValueError for a slot that is no PCI address."""
        claims = claims_of(allocation, self._names)
        target = corrected_by(allocation)
        if target is not None:
            self._correct(target, allocation)
        key = (allocation.source, allocation.id)
        if key in self._corrected:
            self._corrected[key] = allocation
            claims = []
        self._replace(allocation, claims)

    def _correct(self, target: Key, correction: Allocation) -> None:
        if correction.deleted:
            held_back = self._corrected.pop(target, None)
            if held_back is not None:
                self._replace(held_back, claims_of(held_back, self._names))
        elif target not in self._corrected:
            there = self._current.get(target)
            self._corrected[target] = there[0].said if there else None
            if there:
                self._replace(there[0].said, [])

    def _replace(self, said: Allocation, claims: Sequence[Claim]) -> None:
        """Puts claims in place of all that an allocation had."""
        key = (said.source, said.id)
        for held in self._current.pop(key, ()):
            self._release(held)
        lately = [one for one in claims if one.to_us > self._time_us - self._keep_us]
        times = dict.fromkeys((claim.from_us, claim.to_us) for claim in lately)
        pieces = [
            self._held(said, [one for one in lately if (one.from_us, one.to_us) == time])
            for time in times
        ]
        if kept := [held for held in pieces if held.places]:
            self._current[key] = kept
            for held in kept:
                self._schedule(held)

    def _held(self, said: Allocation, claims: Sequence[Claim]) -> _Held:
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
        return _Held(said, first.from_us, first.to_us, first.rank, code, places)

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
            self._active[index][id(held)] = held
            self._resolve(index)

    def _release(self, held: _Held) -> None:
        for index, _ in held.places:
            if self._active[index].pop(id(held), None) is not None:
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
            mine = self._current.get(held.key, [])
            if not any(one is held for one in mine):
                continue
            if at_us >= held.to_us:
                self._release(held)
                if at_us >= held.to_us + self._keep_us:
                    self._forget(held)
            else:
                self._hold(held)
        self._time_us = time_us
        return self._codes

    def _forget(self, held: _Held) -> None:
        left = [one for one in self._current[held.key] if one is not held]
        if left:
            self._current[held.key] = left
        else:
            del self._current[held.key]

    def _rewind(self, time_us: int) -> None:
        self._time_us = time_us
        self._changes = []
        self._active = [{} for _ in self._slots]
        self._codes[:] = UNALLOCATED
        for held in [one for some in self._current.values() for one in some]:
            self._schedule(held)
