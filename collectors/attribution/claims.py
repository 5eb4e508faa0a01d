"""From who is seen on a slot to allocation records: begun, kept, ended, divided.

A record is one holder on one slot, so that slots come and go by themselves.
Its id holds its start, since a requeued job is a new claim of an old name.  One
missed poll is no end; the end is then the time of the first that missed it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from collectors.attribution.ended_jobs import Ended
from collectors.attribution.holders import Holder
from collectors.attribution.open_claims import ClaimFile, OpenClaim, Remembered
from collectors.attribution.places import Place
from collectors.attribution.shares import MIG_SLICES, PARTS, Use, of_instance, weights
from collectors.contract.identity import slot_text
from collectors.contract.topics import PRECEDENCE, Allocation, Subject
from collectors.kit.clock import Clock

SLURM, KUBERNETES, PROCESS = "slurm", "kubernetes", "process"
RANK = {PROCESS: 0, KUBERNETES: 1, SLURM: 2}
"""Of one node's sources the greatest that knows a slot is believed there."""
_MISSES = 2
_SAVE_US = 60_000_000
_LATELY_US = 600_000_000
_MOST_ENDED = 1_000
_WEIGH_US = 3_600_000_000
_WEIGHT_STEP = PARTS // 50
Busy = Mapping[int, Mapping[str, float | None]]
"""Slot → holder's text → ratio of SM time since the last poll."""


class Seen(NamedTuple):
    """Who is on one slot, by the best source that knows."""

    kind: str
    holders: Sequence[Holder]


class Claims:
    """The open claims of a node."""

    def __init__(self, node: str, clock: Clock, file: ClaimFile, boot: str) -> None:
        self._node, self._clock, self._file, self._boot = node, clock, file, boot
        self._open: dict[int, list[OpenClaim]] = defaultdict(list)
        self._told: list[Allocation] = []
        self._places: Mapping[int, Place] = {}
        self._ended: list[tuple[int, Allocation]] = []
        self._saved_us = self._weighed_us = self._polled_us = clock.monotonic_us()
        self._now_us = clock.wall_us()
        """Of the poll, the same for all that it finds."""
        self._restore()

    def _restore(self) -> None:
        """An earlier life's claims: told again as they were, or ended when they were last seen."""
        left = self._file.load()
        if left is None:
            return
        self._told += left.ended
        for claim in left.claims:
            claim.missed_us = claim.missed_us or left.seen_us
            if claim.kind != KUBERNETES and left.boot != self._boot:
                self._end(claim, claim.missed_us)
            else:
                self._open[claim.slot].append(claim)
                self._told += [] if claim.covered else [claim.allocation]

    def on(self, slot: int) -> Sequence[Holder]:
        """Who holds a slot."""
        return [claim.holder for claim in self._open.get(slot, ())]

    def knows(self, kind: str) -> bool:
        """Whether any claim is open by that kind of source."""
        return any(claim.kind == kind for some in self._open.values() for claim in some)

    @property
    def slots(self) -> Collection[int]:
        """Those that anybody holds."""
        return [slot for slot, claims in self._open.items() if claims]

    def update(
        self,
        seen: Mapping[int, Seen],
        held: Collection[str],
        busy: Busy,
        over: Sequence[Ended] = (),
        places: Mapping[int, Place] | None = None,
    ) -> list[Allocation]:
        """Takes one poll; returns what is new or changed.

        `held` are the kinds of source that cannot say anything now: their
        claims stay as they are, and nothing of lower rank takes their place.
        `over` are jobs of which the end is known, whether they were seen or not;
        `places` say of which GPU an instance is a part.
        """
        self._now_us, self._places = self._clock.wall_us(), places or {}
        for one in over:
            for slot in one.slots:
                self._finish(slot, one)
        for slot in sorted({*self._open, *seen}):
            self._update(slot, seen.get(slot), held)
        self._weigh(busy)
        told = list({one.key: one for one in self._told}.values())
        self._told = []
        now_us = self._clock.monotonic_us()
        if told or now_us - self._saved_us >= _SAVE_US:
            self._saved_us = now_us
            self._save(now_us)
        return told

    def _save(self, now_us: int) -> None:
        claims = [claim for some in self._open.values() for claim in some]
        lately = [(at_us, one) for at_us, one in self._ended if now_us - at_us < _LATELY_US]
        self._ended = lately[-_MOST_ENDED:]
        ended = [one for _, one in self._ended]
        self._file.save(Remembered(self._boot, self._now_us, claims, ended))

    def _update(self, slot: int, seen: Seen | None, held: Collection[str]) -> None:
        rank = -1 if seen is None else RANK[seen.kind]
        holders = [] if seen is None else list(seen.holders)
        for claim in list(self._open[slot]):
            same = None
            if seen is not None and seen.kind == claim.kind:
                same = next((one for one in holders if one.same_as(claim.holder)), None)
            if same is not None:
                holders.remove(same)
                self._keep(claim, same)
            elif rank > RANK[claim.kind]:
                self._close(claim, self._now_us)
            elif claim.kind not in held:
                self._miss(claim)
        if any(RANK[claim.kind] > rank for claim in self._open[slot]):
            return
        for holder in holders:
            self._begin(slot, seen.kind if seen else PROCESS, holder)
        self._share(slot)

    def _share(self, slot: int) -> None:
        """Who was once seen beside another shares; alone, a claim that may share has all of it."""
        there = [claim for claim in self._open[slot] if claim.misses == 0]
        for claim in there if len(there) > 1 else ():
            if not claim.allocation.shared:
                self._tell(claim, shared=True)

    def _begin(self, slot: int, kind: str, holder: Holder) -> None:
        from_us = min(self._now_us, self._now_us if holder.start_us is None else holder.start_us)
        text = slot_text(slot)
        place = self._places.get(slot)
        parent = None if place is None else place.parent
        slices = 0 if place is None or parent is None else place.slices
        allocation = Allocation(
            f"agent:{self._node}:{kind}",
            f"{holder.text}/{text}@{from_us // 1_000_000}",
            tenant=holder.tenant,
            project="",
            job=holder.name,
            # The inventory has GPUs; an instance is some of its GPU's slices.
            subjects=(Subject(self._node, (text if parent is None else slot_text(parent),)),),
            from_us=from_us,
            known_us=self._now_us,
            precedence=PRECEDENCE["process" if kind == PROCESS else "scheduler"],
            account=holder.account,
            user=holder.user,
            namespace=holder.namespace,
            shared=slices > 0,
            weight=slices * PARTS or 1,
            parts=MIG_SLICES * PARTS if slices else 0,
        )
        covered = parent is not None and any(
            one.kind == kind and holder.same_as(one.holder) for one in self._open.get(parent, ())
        )
        claim = OpenClaim(slot, kind, holder, allocation, slices=slices, covered=covered)
        self._open[slot].append(claim)
        self._tell(claim)

    def _finish(self, slot: int, over: Ended) -> None:
        """An end that an epilog told; of a job that no poll saw, the beginning with it."""
        mine = self._open[slot]
        claim = next(
            (one for one in mine if one.kind == SLURM and one.holder.same_as(over.holder)), None
        )
        if claim is None:
            self._begin(slot, SLURM, over.holder)
            claim = mine[-1]
            if len(mine) > 1 and over.holder.shares:
                self._tell(claim, shared=True)
        self._close(claim, over.end_us)

    def _keep(self, claim: OpenClaim, seen: Holder) -> None:
        """It is still there; what became known of it since its beginning is added."""
        claim.misses, claim.missed_us = 0, None
        before = claim.holder
        known = msgspec.structs.replace(
            before,
            life=seen.life or before.life,
            account=seen.account or before.account,
            user=seen.user or before.user,
            namespace=seen.namespace or before.namespace,
            shares=seen.shares,
        )
        claim.holder = known
        names = {"account": known.account, "user": known.user, "namespace": known.namespace}
        if any(getattr(before, name) != value for name, value in names.items()):
            self._tell(claim, tenant=known.tenant, **names)

    def _miss(self, claim: OpenClaim) -> None:
        claim.misses += 1
        claim.missed_us = claim.missed_us or self._now_us
        if claim.misses >= _MISSES:
            self._close(claim, claim.missed_us)

    def _close(self, claim: OpenClaim, time_us: int) -> None:
        mine = self._open[claim.slot]
        self._set_weights(mine, least=1)
        mine.remove(claim)
        self._end(claim, time_us)

    def _end(self, claim: OpenClaim, time_us: int) -> None:
        """Never before its start, also where the clock was set back meanwhile."""
        self._tell(claim, to_us=max(claim.allocation.from_us, time_us))
        if not claim.covered:
            self._ended.append((self._clock.monotonic_us(), claim.allocation))

    def _tell(self, claim: OpenClaim, **changes: Any) -> None:
        claim.allocation = msgspec.structs.replace(
            claim.allocation, known_us=self._now_us, **changes
        )
        if not claim.covered:
            self._told.append(claim.allocation)

    def _weigh(self, busy: Busy) -> None:
        """Notes who used what of shared GPUs; a weight is told again hourly, and at an end.

        Each time its hours are computed anew, which is why it is not at every poll.
        """
        now_us = self._clock.monotonic_us()
        elapsed_us, self._polled_us = now_us - self._polled_us, now_us
        for slot, claims in self._open.items():
            there = [claim for claim in claims if claim.misses == 0]
            for claim in there if len(there) > 1 else ():
                claim.use = claim.use or Use()
                claim.use.add(busy.get(slot, {}).get(claim.holder.text, 0.0), elapsed_us)
        if now_us - self._weighed_us >= _WEIGH_US:
            self._weighed_us = now_us
            for claims in self._open.values():
                self._set_weights(claims, least=_WEIGHT_STEP)

    def _set_weights(self, claims: Sequence[OpenClaim], *, least: int) -> None:
        """Tells the weights of those who share a slot where one is `least` off what was told."""
        shared = [(claim, claim.use) for claim in claims if claim.use is not None]
        wanted = weights([use for _, use in shared])
        if shared and shared[0][0].slices:
            wanted = of_instance(shared[0][0].slices, wanted)
        told = [claim.allocation.weight for claim, _ in shared]
        off = [abs(one - other) for one, other in zip(_scaled(wanted), _scaled(told), strict=True)]
        if max(off, default=0) >= least:
            for (claim, _), weight in zip(shared, wanted, strict=True):
                self._tell(claim, weight=weight)


def _scaled(shares: Sequence[int]) -> list[float]:
    return [PARTS * share / sum(shares) for share in shares]
