"""The runs with GPUs on no known slot, and what is guessed of them until more is known.

A guess has the least precedence of all that says who was where, so that it
never takes anything from anybody; it is made anew when a slot that it names
turns out to be another's, and taken back when the run's own becomes known.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from collectors.contract.topics import PRECEDENCE, Allocation, Subject
from collectors.slurm.guess import FOREVER_S, Board, Guessed, Span, Wish, guess
from collectors.slurm.join import Joined, Told, by_prolog, own_id, record_of, slots_of
from collectors.slurm.places import NodePlaces, short
from collectors.slurm.runs import Key, Run

_LATE_S = 120
"""So long after a run's start its agents have told of it, if they ever will."""


class Placed(NamedTuple):
    """What is known of one run's slots; the agents' claims only where something is missing."""

    run: Run
    slots: Mapping[str, tuple[str, ...]]
    unplaced: int
    told: Sequence[Told]


def is_guess(one: Allocation) -> bool:
    """Whether a record of this program says what nobody knows."""
    return one.precedence == PRECEDENCE["guess"]


class Unplaced:
    """All runs by where they are known to have been; of some it is not known."""

    def __init__(self, places: NodePlaces) -> None:
        self._places = places
        self._placed: dict[str, list[Placed]] = {}
        self._at: dict[str, set[str]] = defaultdict(set)
        """By node the jobs with runs there."""
        self._short: set[str] = set()
        """Jobs with runs of which something is missing."""
        self._wished = Counter[str]()
        """By node how many such runs it has."""
        self._due: set[str] = set()
        """Nodes where something changed that can make a difference to guesses."""
        self._found: dict[Key, Guessed] = {}
        self.left: dict[Key, int] = {}
        """By run how many of its GPUs are nowhere, for all of its time or some: nobody is billed."""
        self.guessed: dict[Key, int] = {}
        """By run for how many of its GPUs a slot was guessed."""

    def take(
        self,
        job: str,
        runs: Sequence[tuple[Run, Joined, Sequence[Told]]],
        claimed: Iterable[str] = (),
        *,
        guessing: bool = False,
    ) -> None:
        """All that is known of a job now, on which nodes agents have `claimed` something for it,
        and whether a guess of it is on the bus."""
        was_short = job in self._short
        before = {node for one in self._placed.get(job, ()) for node in one.slots}
        self.forget(job)
        placed = [
            Placed(run, joined.slots, joined.unplaced, told if joined.unplaced else ())
            for run, joined, told in runs
        ]
        if placed:
            self._placed[job] = placed
        nodes = {node for one in placed for node in one.slots}
        for node in nodes:
            self._at[node].add(job)
        missing = [one for one in placed if one.unplaced]
        if missing:
            self._short.add(job)
            self._wished.update(node for one in missing for node in one.slots)
        touched = {*before, *nodes, *map(short, claimed)}
        is_whole = was_short or guessing
        self._due |= touched if is_whole else {one for one in touched if one in self._wished}

    def forget(self, job: str) -> None:
        """Nothing is known of the job any more."""
        for one in self._placed.pop(job, ()):
            for node in one.slots:
                self._at[node].discard(job)
                if not self._at[node]:
                    del self._at[node]
            if one.unplaced:
                self._wished.subtract(one.slots.keys())
                self._wished = +self._wished
            for kept in (self._found, self.left, self.guessed):
                kept.pop(one.run.key, None)
        self._short.discard(job)

    @property
    def jobs(self) -> frozenset[str]:
        """Those of which something is missing."""
        return frozenset(self._short)

    def wait(self) -> None:
        """Some time went by, and those that run may have waited long enough."""
        for job in self._short:
            for one in self._placed[job]:
                if one.unplaced and one.run.end_s is None:
                    self._due |= one.slots.keys()

    @property
    def concerned(self) -> frozenset[str]:
        """The jobs of which guesses may have to change; none where nothing did."""
        return frozenset(job for node in self._due for job in self._at.get(node, ()))

    @property
    def behind(self) -> bool:
        """Whether something changed since `records`."""
        return bool(self._due)

    def records(
        self,
        source: str,
        before: Sequence[Allocation],
        standing: Iterable[Allocation],
        now_s: int,
        renamed: Collection[Key] = (),
    ) -> list[Allocation]:
        """What should stand in place of what is not known, and of the agents' claims what goes.

        Of the jobs that are `concerned`, once; of others nothing changes.  `before` are this
        program's guesses of them on the bus, `standing` the agents' claims that stand
        there.  A guess of a run of which nothing is known now stays, unless it is among the `renamed`.
        """
        missing = {
            one.run.key: one
            for job in sorted(self.concerned & self._short)
            for one in self._placed[job]
            if one.unplaced and _is_due(one.run, now_s)
        }
        self._due = set()
        for key in missing:
            self._found.pop(key, None)
        earlier = _spans_by_run(before)
        wishes = {key: self._wish(one) for key, one in missing.items()}
        board = self._board({node for wish in wishes.values() for node in wish.nodes}, standing)
        found = guess(wishes.values(), board, earlier)
        self._note(missing, found)
        wanted = [
            record
            for key, guessed in found.items()
            for record in self._said(missing[key], guessed, source)
        ]
        keys = {one.key for one in wanted}
        return wanted + [
            msgspec.structs.replace(one, deleted=True)
            for one in before
            if one.key not in keys and (self._knows(_run_key(one)) or _run_key(one) in renamed)
        ]

    def _knows(self, key: Key) -> bool:
        return any(one.run.key == key for one in self._placed.get(key[0], ()))

    def _note(self, missing: Mapping[Key, Placed], found: Mapping[Key, Guessed]) -> None:
        self._found.update(found)
        for key, one in found.items():
            placed = missing[key].unplaced - one.unplaced
            for kept, count in ((self.left, one.unplaced), (self.guessed, placed)):
                if count:
                    kept[key] = count
                else:
                    kept.pop(key, None)

    def _wish(self, one: Placed) -> Wish:
        run = one.run
        seen = {
            (short(told.claim.subjects[0].node), slot)
            for told in one.told
            if not by_prolog(told.claim)
            for slot in slots_of([told.claim])
        }
        return Wish(
            run.job,
            run.start_s,
            FOREVER_S if run.end_s is None else run.end_s,
            one.unplaced,
            tuple(one.slots),
            frozenset(node for node, slots in one.slots.items() if slots),
            frozenset(seen),
        )

    def _board(self, nodes: Iterable[str], standing: Iterable[Allocation]) -> Board:
        units = {node: self._places.units(node) for node in nodes}
        held: list[tuple[str, Span]] = []
        for node in units:
            for one in (one for job in self._at.get(node, ()) for one in self._placed[job]):
                end_s = FOREVER_S if one.run.end_s is None else one.run.end_s
                slots = one.slots.get(node, ())
                held += [(node, Span(slot, one.run.start_s, end_s)) for slot in slots]
                # Those that are guessed again have none now.
                guessed = self._found.get(one.run.key)
                held += (
                    []
                    if guessed is None
                    else [(node, span) for span in guessed.spans.get(node, ())]
                )
        for claim in standing:
            node = short(claim.subjects[0].node)
            if node in units and not self._is_known(claim):
                held += [(node, span) for span in _spans_of(claim)]
        return Board(units, held)

    def _is_known(self, claim: Allocation) -> bool:
        """Whether a claim is of a job that is on the board with what is known of it, or wishes."""
        return claim.job in self._placed and (by_prolog(claim) or claim.job in self._short)

    def _said(self, one: Placed, guessed: Guessed, source: str) -> list[Allocation]:
        records: list[Allocation] = []
        for node, spans in guessed.spans.items():
            name = self._places.name(node)
            for span in spans:
                whole = record_of(
                    one.run,
                    f"{own_id(one.run, node)}/{span.slot}@{span.from_s}",
                    Subject(name, (span.slot,)),
                    source,
                )
                records.append(
                    msgspec.structs.replace(
                        whole,
                        from_us=span.from_s * 1_000_000,
                        to_us=None if span.to_s == FOREVER_S else span.to_s * 1_000_000,
                        precedence=PRECEDENCE["guess"],
                    )
                )
            if one.run.end_s is not None:
                records += _replaced(one.told, node, {span.slot for span in spans})
        return records


def _is_due(run: Run, now_s: int) -> bool:
    if run.end_s is None:
        return now_s - run.start_s > _LATE_S
    return run.end_s > run.start_s


def _replaced(told: Iterable[Told], node: str, slots: set[str]) -> list[Allocation]:
    """What processes showed of a run that is over, deleted: its end is Slurm's."""
    return [
        msgspec.structs.replace(one.claim, deleted=True)
        for one in told
        if short(one.claim.subjects[0].node) == node and set(slots_of([one.claim])) <= slots
    ]


def _run_key(one: Allocation) -> Key:
    start = one.id.partition("@")[2].partition("/")[0]
    return one.job, int(start) if start.isdecimal() else -1


def _spans_by_run(records: Iterable[Allocation]) -> dict[Key, dict[str, list[Span]]]:
    found: dict[Key, dict[str, list[Span]]] = defaultdict(lambda: defaultdict(list))
    for one in records:
        for subject in one.subjects:
            found[_run_key(one)][short(subject.node)] += _spans_of(one)
    return found


def _spans_of(one: Allocation) -> list[Span]:
    """In whole seconds, outwards; of an instance its GPU."""
    from_s = one.from_us // 1_000_000
    to_s = FOREVER_S if one.to_us is None else math.ceil(one.to_us / 1e6)
    return [Span(slot.partition("/")[0], from_s, to_s) for slot in slots_of([one])]
