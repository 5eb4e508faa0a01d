"""From columns of GPUs to columns of their nodes, racks, halls, tenants or the site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.alerts.inputs import Bools, Floats, Tick
from pipeline.watch.layout import FleetLayout

I32 = NDArray[np.int32]
_LIKE = 0.15
"""Difference in power, of the greater, up to which GPUs are alike."""


class Groups:
    """The places of one layout; positions of a place stand together (map order)."""

    def __init__(self, layout: FleetLayout) -> None:
        self.layout = layout
        node = layout.node
        rack = layout.rack_of_node[node] if len(node) else node
        hall = layout.hall_of_rack[rack] if len(node) else node
        self.index: dict[str, I32] = {
            "node": node,
            "rack": rack,
            "hall": hall,
            "site": np.zeros(len(node), np.int32),
        }
        self._starts = {
            scope: np.flatnonzero(np.r_[True, index[1:] != index[:-1]])[: len(index)]
            for scope, index in self.index.items()
        }
        self.size = {
            "gpu": len(node),
            "node": len(layout.nodes),
            "rack": len(layout.racks),
            "hall": len(layout.halls),
            "site": 1,
        }

    def extreme(self, column: Floats, scope: str, pick: Any) -> Floats:
        """The greatest (np.fmax) or least (np.fmin) known value per place; NaN without any."""
        out = np.full(self.size[scope], np.nan, np.float32)
        starts = self._starts[scope]
        if len(starts):
            out[self.index[scope][starts]] = pick.reduceat(column, starts)
        return out

    def _sums(self, column: Any, scope: str) -> Any:
        """Sums per place of a fixed scope."""
        out = np.zeros(self.size[scope], np.float32)
        starts = self._starts[scope]
        if len(starts):
            out[self.index[scope][starts]] = np.add.reduceat(column, starts, dtype=np.float32)
        return out

    def reduce(
        self, each: str, column: Floats, scope: str, tick: Tick, counted: Callable[[Floats], Bools]
    ) -> Floats:
        """A column of the scope; `counted` says which GPUs count for `count` and `fraction`."""
        if scope == "tenant":
            return _by_tenant(each, column, tick, counted)
        if each in ("max", "min"):
            return self.extreme(column, scope, np.fmax if each == "max" else np.fmin)
        known = ~np.isnan(column)
        what = np.where(known, column, 0) if each == "mean" else counted(column)
        total, number = self._sums(what, scope), self._sums(known, scope)
        out = total if each == "count" else total / np.maximum(number, 1)
        out[number == 0] = np.nan
        return out


def _by_tenant(each: str, column: Floats, tick: Tick, counted: Callable[[Floats], Bools]) -> Floats:
    """As `Groups.reduce`, by owner; of the greatest and least only what is known counts."""
    n, known = len(tick.owners), ~np.isnan(column)
    number = np.bincount(tick.owner, known, n)
    if each in ("max", "min"):
        pick = np.maximum if each == "max" else np.minimum
        out = np.full(n, -np.inf if each == "max" else np.inf, np.float32)
        pick.at(out, tick.owner[known], column[known])
    else:
        what = np.where(known, column, 0) if each == "mean" else counted(column)
        total = np.bincount(tick.owner, what, n)
        out = (total if each == "count" else total / np.maximum(number, 1)).astype(np.float32)
    out[number == 0] = np.nan
    return out


def like_neighbours(column: Floats, power_w: Floats, node: I32, slots: int) -> Floats:
    """Difference from the mean of the GPUs of the same node whose power is within 15 %.

    NaN where there are fewer than two such.  `slots` is the most GPUs of a
    node; the GPUs of a node stand together.
    """
    n = int(node[-1]) + 1 if len(node) else 0
    starts = np.flatnonzero(np.r_[True, node[1:] != node[:-1]])[: len(node)]
    within = np.arange(len(node)) - np.repeat(starts, np.diff(np.r_[starts, len(node)]))
    value = np.full((n, slots), np.nan, np.float32)
    power = np.full((n, slots), np.nan, np.float32)
    value[node, within], power[node, within] = column, power_w
    total, count = np.zeros_like(value), np.zeros_like(value)
    for turn in range(1, slots):
        other_w, other = np.roll(power, turn, axis=1), np.roll(value, turn, axis=1)
        like = np.abs(power - other_w) <= np.float32(_LIKE) * np.maximum(power, other_w)
        like &= ~np.isnan(other)
        total += np.where(like, other, 0)
        count += like
    total /= np.maximum(count, 1)
    total[count < 2] = np.nan
    out: Floats = (value - total)[node, within]
    return out
