"""Reduces many records of the same blocks to one set of points, so that merging is done once.

A block is what shares state rows: (place, minute, run, label epoch).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import COUNTER_ABSENT
from pipeline.decode.batch import Group
from pipeline.store.rows import Points

Starts = NDArray[np.intp]


def points_of(group: Group) -> Points:
    """The points of records of distinct blocks, as they are."""
    time_us = np.repeat(group.time_us, group.slots)
    counters = group.counters.reshape(len(group.counters), -1)
    gauges = group.gauges.reshape(len(group.gauges), -1)
    epochs = group.energy_epoch.reshape(-1)
    return Points(time_us, counters, time_us, counters, gauges, gauges, gauges, epochs)


def reduce_blocks(
    group: Group, block: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], Points]]:
    """Yields (blocks [b] in order, their points [b · G]); blocks are distinct within each.

    Where a block has a value in some of its records only, or two records at
    one time, first and last are not those of its first and last record: such
    blocks come in rounds of one record each.
    """
    order = np.lexsort((group.sequence, group.time_us, block))
    if not (order[1:] > order[:-1]).all():
        block, group = block[order], group.take(order)
    starts = np.flatnonzero(np.r_[True, block[1:] != block[:-1]])
    if len(starts) == len(block):
        yield block, points_of(group)
        return
    ends = np.r_[starts[1:], len(block)]
    uneven = _uneven(group, block, starts)
    if not uneven.any():
        yield block[starts], _reduced(group, starts, ends)
        return
    in_uneven = np.repeat(uneven, ends - starts)
    if not uneven.all():
        even = group.take(~in_uneven)
        kept = block[~in_uneven]
        at = np.flatnonzero(np.r_[True, kept[1:] != kept[:-1]])
        yield kept[at], _reduced(even, at, np.r_[at[1:], len(kept)])
    yield from _rounds(group.take(in_uneven), block[in_uneven])


def _uneven(group: Group, block: NDArray[np.intp], starts: Starts) -> NDArray[np.bool_]:
    """Which blocks have two records at one time, or values that come and go; bool[b]."""
    tied = np.zeros(len(block), bool)
    tied[1:] = (group.time_us[1:] == group.time_us[:-1]) & (block[1:] == block[:-1])
    uneven = np.logical_or.reduceat(tied, starts)
    for absent in (group.counters == COUNTER_ABSENT, np.isnan(group.gauges)):
        if absent.any():
            changes = np.zeros(len(block), bool)
            changes[1:] = (absent[:, 1:] != absent[:, :-1]).any(axis=(0, 2))
            changes[starts] = False
            uneven |= np.logical_or.reduceat(changes, starts)
    changes = np.zeros(len(block), bool)
    changes[1:] = (group.energy_epoch[1:] != group.energy_epoch[:-1]).any(axis=1)
    changes[starts] = False
    return uneven | np.logical_or.reduceat(changes, starts)


def _reduced(group: Group, starts: Starts, ends: Starts) -> Points:
    last = ends - 1
    slots, c, q = group.slots, len(group.counters), len(group.gauges)
    return Points(
        np.repeat(group.time_us[starts], slots),
        group.counters[:, starts].reshape(c, -1),
        np.repeat(group.time_us[last], slots),
        group.counters[:, last].reshape(c, -1),
        np.fmin.reduceat(group.gauges, starts, axis=1).reshape(q, -1),
        np.fmax.reduceat(group.gauges, starts, axis=1).reshape(q, -1),
        group.gauges[:, last].reshape(q, -1),
        group.energy_epoch[starts].reshape(-1),
    )


def _rounds(group: Group, block: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], Points]]:
    """One record of each block at a time; `block` is sorted."""
    starts = np.flatnonzero(np.r_[True, block[1:] != block[:-1]])
    nth = np.arange(len(block)) - np.repeat(starts, np.diff(np.r_[starts, len(block)]))
    for turn in range(int(nth.max(initial=-1)) + 1):
        rows = nth == turn
        yield block[rows], points_of(group.take(rows))
