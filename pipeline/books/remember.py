"""What the books keep in memory between computations: spans of series, and the edges of hours.

Spans are kept in the database too, but not at every step: of an hour that
goes on, the last points are found again when it is next computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.books.progress import NodeHour
from pipeline.books.rows import HOUR_US
from pipeline.books.spans import Spans

Edges = tuple[int, int]
"""Digests of the first and of the last points in a node-hour."""

_KEEP_US = 100 * 24 * HOUR_US
"""Series silent for longer than any minutes are kept have no neighbours to look for."""
_MOST_EDGES = 200_000


def edges_of(inside: Spans) -> Edges:
    """Digests of one node's points in an hour."""
    series = (tuple(inside.counters), inside.slot.tobytes(), inside.counter.tobytes())
    ids = inside.id.tobytes()
    first = hash((series, ids, inside.first_us.tobytes()))
    return first, hash((series, ids, inside.last_us.tobytes()))


class Memory:
    """Spans by node, as they are and as the database has them; edges by node-hour."""

    def __init__(self, spans: Mapping[str, Spans] | None = None) -> None:
        self._spans = dict(spans or {})
        self._kept = dict(self._spans)
        self._edges: dict[NodeHour, Edges] = {}

    def known(self, nodes: Iterable[str]) -> list[Spans]:
        """The spans of nodes."""
        return [self._spans[node] for node in nodes if node in self._spans]

    def to_keep(self, spans: Mapping[str, Spans], *, complete: bool) -> dict[str, Spans]:
        """Which of these the database must have: all at the end of an hour, else those with a
        new series, an earlier first point, or a last point in another hour."""
        return {
            node: one
            for node, one in spans.items()
            if _differs(self._kept.get(node), one, exactly=complete)
        }

    def remember(self, spans: Mapping[str, Spans], kept: Mapping[str, Spans]) -> None:
        """Takes spans over, of which the database now has `kept`."""
        self._spans.update(spans)
        self._kept.update(kept)

    def moved(self, hour: int, node: str, edges: Edges) -> tuple[bool, bool]:
        """Whether an hour's first and last points are others than when it was last computed."""
        before = self._edges.get((hour, node))
        return (True, True) if before is None else (before[0] != edges[0], before[1] != edges[1])

    def remember_edges(self, edges: Mapping[NodeHour, Edges]) -> None:
        """Takes edges over; the oldest are forgotten, which costs a computation at most."""
        for key, one in edges.items():
            self._edges.pop(key, None)
            self._edges[key] = one
        while len(self._edges) > _MOST_EDGES:
            del self._edges[next(iter(self._edges))]


def _differs(kept: Spans | None, now: Spans, *, exactly: bool) -> bool:
    if kept is None or len(kept) != len(now) or list(kept.counters) != list(now.counters):
        return True
    columns: Sequence[tuple[NDArray[np.generic], NDArray[np.generic]]] = (
        (kept.slot, now.slot),
        (kept.counter, now.counter),
        (kept.id, now.id),
        (kept.first_us, now.first_us),
        (kept.last_us, now.last_us)
        if exactly
        else (kept.last_us // HOUR_US, now.last_us // HOUR_US),
    )
    return not all(np.array_equal(old, new) for old, new in columns)


def fresh(spans: Spans, until_us: int) -> Spans:
    """Without the series that ended too long ago to matter."""
    return spans.select(np.flatnonzero(spans.last_us > until_us - _KEEP_US))
