"""Joins what Slurm says of a run with what its prologs said: the records that should stand.

The agents' claims, which the prologs' files make, say which slots; the cluster
says from when to when and for whom.  While a run lasts, the agents' claims
stand as they are.  Once it has ended, one record per node takes their place,
with Slurm's own times, and they are deleted: what an epilog and the next look
at its files took longer is nobody's.  Pure functions; the rules in words are in
docs/slurm.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from collectors.contract.topics import PRECEDENCE, Allocation, Subject
from collectors.slurm.places import NodePlaces, short, whole_gpus
from collectors.slurm.runs import Run

_EARLY_S, _LATE_S = 5, 1
"""A node's clock may be so far off the controller's for its prolog's word to count for a run."""


class Told(NamedTuple):
    """A claim of an agent as it was made, and whether it still stands on the bus."""

    claim: Allocation
    stands: bool


class Joined(NamedTuple):
    """What should stand for a run, its slots by node, and for how many of its GPUs none is known."""

    records: list[Allocation]
    slots: dict[str, tuple[str, ...]]
    unplaced: int


def is_claim(one: Allocation) -> bool:
    """Whether it is an agent's word on a Slurm job: of a prolog's file, or of processes' cgroups."""
    return one.source.startswith("agent:") and one.id.startswith("slurm:") and bool(one.subjects)


def by_prolog(one: Allocation) -> bool:
    return one.source.endswith(":slurm")


def own_id(run: Run, node: str) -> str:
    """A run on a node, for ever: a requeued job and a number given out anew have another start."""
    return f"{run.job}@{run.start_s}/{short(node)}"


def run_of(claim: Allocation, runs: Iterable[Run]) -> Run | None:
    """The run of a claim's job that was on its node when it was made; None where there is none.

    One that had begun goes before one that begins soon after.
    """
    from_s, node = claim.from_us / 1e6, short(claim.subjects[0].node)
    fitting = [
        run
        for run in runs
        if run.start_s - _EARLY_S <= from_s
        and (run.end_s is None or from_s < run.end_s + _LATE_S)
        and node in {short(one) for one in run.nodes}
    ]
    begun = [run for run in fitting if run.start_s <= from_s]
    if begun:
        return max(begun, key=lambda run: run.start_s)
    return min(fitting, key=lambda run: run.start_s, default=None)


def join(
    run: Run,
    told: Sequence[Told],
    places: NodePlaces,
    source: str,
    before: Sequence[Allocation],
) -> Joined:
    """What should stand for a run.

    `told` are the agents' claims of this run, `before` this program's own
    earlier records of it: a slot that was known once stays known.
    """
    records: list[Allocation] = []
    held: dict[str, tuple[str, ...]] = {}
    everything = _everything(run, places)
    for node in run.nodes:
        mine = [one for one in told if short(one.claim.subjects[0].node) == short(node)]
        earlier = [one for one in before if short(one.subjects[0].node) == short(node)]
        slots = _slots(run, node, mine, places, earlier) or everything.get(node, ())
        held[short(node)] = slots
        if run.end_s is not None or earlier or not _claimed(mine, slots):
            said = [*(one.claim for one in mine), *earlier]
            name = next((one.subjects[0].node for one in said), places.name(node))
            records += _own(run, name, slots, mine, source)
        if run.end_s is not None:
            records += _taken_away(mine, slots, empty=run.end_s <= run.start_s)
    placed = sum(map(whole_gpus, held.values()))
    return Joined(records, held, max(0, (run.gpus or 0) - placed))


def _slots(
    run: Run,
    node: str,
    told: Sequence[Told],
    places: NodePlaces,
    earlier: Sequence[Allocation],
) -> tuple[str, ...]:
    """The prolog's word; slurmctld's, or what was said before, where that names more."""
    claimed = slots_of(one.claim for one in told if by_prolog(one.claim))
    listed = places.slots(node, run.numbers.get(node, ())) or ()
    return max((claimed, listed, slots_of(earlier)), key=whole_gpus)


def slots_of(records: Iterable[Allocation]) -> tuple[str, ...]:
    """All that they name, in order."""
    return tuple(sorted({slot for one in records for each in one.subjects for slot in each.slots}))


def _everything(run: Run, places: NodePlaces) -> dict[str, tuple[str, ...]]:
    """Where a run has as many GPUs as its nodes have, it has these."""
    slots = {node: places.all(node) for node in run.nodes}
    if not all(slots.values()) or sum(map(whole_gpus, slots.values())) != run.gpus:
        return {}
    return slots


def _claimed(told: Sequence[Told], slots: Sequence[str]) -> bool:
    """Whether the agents' claims that stand hold all of it already."""
    return set(slots) <= {slot for one in told if one.stands for slot in slots_of([one.claim])}


def _own(
    run: Run,
    node: str,
    slots: tuple[str, ...],
    told: Sequence[Told],
    source: str,
) -> list[Allocation]:
    """Of this program: one record, and one more for each slot that several jobs share.

    Accounting's word goes before a prolog's.  Those who share a slot must have one precedence,
    and one may be over before another.
    """
    claims = [one.claim for one in told if one.claim.shared and by_prolog(one.claim)]
    shared = {slot: claim for claim in claims for slot in slots_of([claim])}
    alone = tuple(slot for slot in slots if slot not in shared)
    whole = record_of(run, own_id(run, node), Subject(node, alone), source)
    parts = [
        msgspec.structs.replace(
            whole,
            id=f"{whole.id}/{slot}",
            subjects=(Subject(node, (slot,)),),
            precedence=PRECEDENCE["scheduler"],
            shared=True,
            weight=shared[slot].weight,
            parts=shared[slot].parts,
        )
        for slot in slots
        if slot in shared
    ]
    return [whole, *parts] if alone else parts


def record_of(run: Run, name: str, subject: Subject, source: str) -> Allocation:
    """That a run has slots, for its whole time."""
    return Allocation(
        source,
        name,
        tenant=run.account or run.user,
        project="",
        job=run.job,
        subjects=(subject,),
        from_us=run.start_s * 1_000_000,
        to_us=None if run.end_s is None else run.end_s * 1_000_000,
        precedence=PRECEDENCE["scheduler" if run.end_s is None else "accounting"],
        account=run.account,
        user=run.user,
    )


def _taken_away(told: Sequence[Told], slots: Sequence[str], *, empty: bool) -> list[Allocation]:
    """The agents' claims on these slots, deleted."""
    held = set(slots)
    return [
        msgspec.structs.replace(one.claim, deleted=True)
        for one in told
        if empty or set(slots_of([one.claim])) <= held
    ]
