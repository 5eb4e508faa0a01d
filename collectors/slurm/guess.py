"""Which GPUs a run is said to have had, where nobody was told: free ones of its nodes.

Slurm counts GPUs that it names to nobody: of jobs that end before their prolog,
and of those that begin in slurmctld's first seconds.  Its accounts must still
come to what its accounting has, so each such GPU is guessed, by a rule that
depends on nothing but what is known: docs/slurm.md has it in words.  Pure
functions over seconds since 1970.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

FOREVER_S = 2**40
"""The end of what has none."""


class Span(NamedTuple):
    """A slot in [from_s, to_s)."""

    slot: str
    from_s: int
    to_s: int


class Wish(NamedTuple):
    """A run of which `gpus` are on no known slot, over [from_s, to_s)."""

    job: str
    from_s: int
    to_s: int
    gpus: int
    nodes: tuple[str, ...]
    known: frozenset[str] = frozenset()
    """Nodes of which other slots of the run are known: they are the less likely."""
    seen: frozenset[tuple[str, str]] = frozenset()
    """(node, slot) on which processes of the job were seen."""

    @property
    def order(self) -> tuple[int, int, str]:
        """Who began first chooses first."""
        return self.from_s, len(self.job), self.job


class Guessed(NamedTuple):
    """Spans by node, and for how many GPUs not all of the time could be placed."""

    spans: Mapping[str, Sequence[Span]]
    unplaced: int


class Board:
    """What is held of the nodes' slots; by node the slots that may be chosen, in order."""

    def __init__(
        self, units: Mapping[str, Sequence[str]], held: Iterable[tuple[str, Span]]
    ) -> None:
        self._units = units
        self._held: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for node, span in held:
            self.hold(node, span)

    def hold(self, node: str, span: Span) -> None:
        """It is free no more."""
        self._held[node, span.slot].append((span.from_s, span.to_s))

    def free_until(self, node: str, slot: str, at_s: int) -> int:
        """Until when a slot that is free stays so; `at_s` where it is held."""
        until_s = FOREVER_S
        for from_s, to_s in self._held.get((node, slot), ()):
            if from_s <= at_s < to_s:
                return at_s
            if from_s > at_s:
                until_s = min(until_s, from_s)
        return until_s

    def is_free(self, node: str, span: Span) -> bool:
        """Whether nobody holds any of it."""
        return span.slot in self._units.get(node, ()) and not any(
            from_s < span.to_s and span.from_s < to_s
            for from_s, to_s in self._held.get((node, span.slot), ())
        )

    def seat(self, wish: Wish, node: str) -> list[Span]:
        """One GPU for a run, as far as one is free at all: the same for as long as may be.

        Of several, one on which the job's processes were seen, then one that is free to the end,
        then the first.
        """
        spans: list[Span] = []
        at_s = wish.from_s
        while at_s < wish.to_s:
            until = {slot: self.free_until(node, slot, at_s) for slot in self._units.get(node, ())}
            until = {slot: min(end_s, wish.to_s) for slot, end_s in until.items() if end_s > at_s}
            if until:
                best = max(
                    until, key=lambda slot: ((node, slot) in wish.seen, until[slot])
                )  # the first of equals
                spans.append(Span(best, at_s, until[best]))
                at_s = until[best]
            else:
                at_s = self._next_end(node, at_s, wish.to_s)
        return spans

    def _next_end(self, node: str, at_s: int, to_s: int) -> int:
        """When a slot of the node is free again at the earliest."""
        ends = (
            end_s
            for slot in self._units.get(node, ())
            for start_s, end_s in self._held.get((node, slot), ())
            if start_s <= at_s < end_s
        )
        return min(ends, default=to_s)


def guess(
    wishes: Iterable[Wish],
    board: Board,
    earlier: Mapping[tuple[str, int], Mapping[str, Sequence[Span]]],
) -> dict[tuple[str, int], Guessed]:
    """The places of all wishes, by (job, start).

    `earlier` is what was guessed before: it stands while nobody else is known to have it.
    """
    found: dict[tuple[str, int], Guessed] = {}
    left: list[Wish] = []
    for wish in sorted(wishes, key=lambda one: one.order):
        before = _clipped(wish, earlier.get((wish.job, wish.from_s), {}))
        if _stands(wish, before, board):
            found[wish.job, wish.from_s] = Guessed(before, 0)
            _hold(board, before)
        else:
            left.append(wish)
    for wish in left:
        found[wish.job, wish.from_s] = _placed(wish, board)
    return found


def _clipped(wish: Wish, spans: Mapping[str, Sequence[Span]]) -> dict[str, list[Span]]:
    """What was guessed while the run's end was another."""
    return {
        node: [
            Span(one.slot, one.from_s, min(one.to_s, wish.to_s))
            for one in some
            if one.from_s < wish.to_s
        ]
        for node, some in spans.items()
    }


def _stands(wish: Wish, before: Mapping[str, Sequence[Span]], board: Board) -> bool:
    spans = [(node, one) for node, some in before.items() for one in some]
    if not all(node in wish.nodes and board.is_free(node, one) for node, one in spans):
        return False
    for (node, one), (beside, other) in pairwise(sorted(spans)):
        if (node, one.slot) == (beside, other.slot) and other.from_s < one.to_s:
            return False
    # So many at each moment, and not only together.
    cuts = sorted({wish.from_s, *(time_s for _, one in spans for time_s in one[1:])})
    return bool(spans) and all(
        sum(one.from_s <= time_s < one.to_s for _, one in spans) == wish.gpus
        for time_s in cuts
        if time_s < wish.to_s
    )


def _hold(board: Board, spans: Mapping[str, Sequence[Span]]) -> None:
    for node, some in spans.items():
        for one in some:
            board.hold(node, one)


def _placed(wish: Wish, board: Board) -> Guessed:
    """One GPU after the other, on the node that has one for longest; of equals on one of which
    nothing is known, then where fewest were placed so far, then on the first."""
    spans: dict[str, list[Span]] = {}
    taken = dict.fromkeys(wish.nodes, 0)
    unplaced = 0
    for _ in range(wish.gpus):
        seats = {node: board.seat(wish, node) for node in wish.nodes}
        lasting = {node: sum(_lasting(seat)) for node, seat in seats.items()}
        ranks = {node: (lasting[node], node not in wish.known, -taken[node]) for node in seats}
        best = max(ranks, key=ranks.__getitem__, default=None)
        unplaced += best is None or lasting[best] < wish.to_s - wish.from_s
        if best is None or not seats[best]:
            continue
        taken[best] += 1
        spans.setdefault(best, []).extend(seats[best])
        _hold(board, {best: seats[best]})
    return Guessed(spans, unplaced)


def _lasting(spans: Iterable[Span]) -> Iterator[int]:
    return (one.to_s - one.from_s for one in spans)
