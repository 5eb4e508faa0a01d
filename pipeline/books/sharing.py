"""What several hold together is summed as one row, and divided among them here.

With the weights w₁ … wₙ of a set of sharers in order of (source, id), and
cumᵢ = w₁ + … + wᵢ, each figure v of the set in an hour and slot gives sharer i
v·cumᵢ // parts − v·cumᵢ₋₁ // parts; what is left is unallocated.  So the shares
of every figure add up to it, and the states of a share to its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.books.claims import NOBODY, Owner, Sharers
from pipeline.books.places import RowKeys
from pipeline.books.rows import I64


class OwnedRows(NamedTuple):
    """Columns of N; `owner` indexes `owners`, `slot` as in RowKeys."""

    owners: Sequence[Owner]
    hour: Sequence[int]
    slot: Sequence[int]
    owner: Sequence[int]
    figures: Mapping[str, I64]


class _Cut(NamedTuple):
    """From a row of sharers to one of an owner: the parts [low, high) of all."""

    source: int
    row: int
    low: int
    high: int
    parts: int


def divided(keys: RowKeys, figures: Mapping[str, I64]) -> OwnedRows:
    """The rows of owners; one that sharers held goes to each of them, and to nobody what is left.

    Arithmetic in Python's integers: a figure times a weight may be beyond 64 bits.
    """
    holders = list(keys.owners)
    alone = [holder for holder in holders if isinstance(holder, Owner)]
    if len(alone) == len(holders):
        return OwnedRows(alone, keys.hour, keys.slot, keys.owner, figures)
    rows, source, row, cuts = RowKeys(), list[int](), list[int](), list[_Cut]()
    owners: dict[Owner, int] = {}

    def target(index: int, owner: Owner) -> int:
        owners.setdefault(owner, len(owners))
        return rows.row(keys.hour[index], keys.slot[index], owner, 0)

    for index, code in enumerate(keys.owner):
        holder = holders[code]
        if not isinstance(holder, Sharers):
            source.append(index)
            row.append(target(index, holder))
            continue
        for owner, low, high in _shares(holder):
            cuts.append(_Cut(index, target(index, owner), low, high, holder.parts))
    given = {name: np.zeros(len(rows.hour), np.int64) for name in figures}
    for name, column in figures.items():
        given[name][row] = column[source]
        for cut in cuts:
            value = int(column[cut.source])
            share = value * cut.high // cut.parts - value * cut.low // cut.parts
            given[name][cut.row] += share
    return OwnedRows(list(owners), rows.hour, rows.slot, rows.owner, given)


def _shares(holder: Sharers) -> Iterator[tuple[Owner, int, int]]:
    low = 0
    for share in holder.shares:
        yield share.owner, low, low + share.weight
        low += share.weight
    if low < holder.parts:
        yield NOBODY, low, holder.parts
