"""From columns of GPUs to columns of their nodes, racks, halls, tenants or the site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.alerts.inputs import Bools, Floats, Tick
from pipeline.watch.layout import FleetLayout

I32 = NDArray[np.int32]


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
        self.size = {
            "gpu": len(node),
            "node": len(layout.nodes),
            "rack": len(layout.racks),
            "hall": len(layout.halls),
            "site": 1,
        }

    def of(self, scope: str, tick: Tick) -> tuple[I32, int]:
        """Each GPU's place of a scope, and how many places there are."""
        if scope == "tenant":
            return tick.owner, len(tick.owners)
        return self.index[scope], self.size[scope]

    def extreme(self, column: Floats, index: I32, n: int, pick: Any) -> Floats:
        """The greatest (np.fmax) or least (np.fmin) known value per place; NaN without any."""
        out = np.full(n, np.nan, column.dtype)
        if not len(column):
            return out
        if np.any(index[1:] < index[:-1]):
            order = np.argsort(index, kind="stable")
            column, index = column[order], index[order]
        starts = np.flatnonzero(np.r_[True, index[1:] != index[:-1]])
        out[index[starts]] = pick.reduceat(column, starts)
        return out

    def sums(self, column: Floats, known: Bools, index: I32, n: int) -> tuple[Any, Any]:
        """Sum and number of known values per place."""
        total = np.bincount(index, np.where(known, column, 0.0), n)
        return total, np.bincount(index, known, n)

    def reduce(
        self, each: str, column: Floats, scope: str, tick: Tick, counted: Callable[[Floats], Bools]
    ) -> Floats:
        """A column of the scope; `counted` says which GPUs count for `count` and `fraction`."""
        index, n = self.of(scope, tick)
        if each in ("max", "min"):
            return self.extreme(column, index, n, np.fmax if each == "max" else np.fmin)
        known = ~np.isnan(column)
        what = column if each == "mean" else counted(column).astype(np.float32)
        total, number = self.sums(what, known, index, n)
        out = total if each == "count" else total / np.maximum(number, 1)
        return np.where(number > 0, out, np.nan).astype(np.float32)


def like_neighbours(column: Floats, power_w: Floats, node: I32, slots: int) -> Floats:
    """Difference from the mean of the GPUs of the same node whose power is within 15 %.

    NaN where there are fewer than two such.  `slots` is the most GPUs of a node.
    """
    n = int(node[-1]) + 1 if len(node) else 0
    within = np.arange(len(node)) - np.searchsorted(node, node)
    value = np.full((n, slots), np.nan, np.float32)
    power = np.full((n, slots), np.nan, np.float32)
    value[node, within], power[node, within] = column, power_w
    span = 0.15 * np.fmax(power[:, :, None], power[:, None, :])
    like = np.abs(power[:, :, None] - power[:, None, :]) <= span
    like &= ~np.isnan(value[:, None, :])
    like[:, np.arange(slots), np.arange(slots)] = False
    count = like.sum(axis=2)
    total = np.where(like, np.nan_to_num(value)[:, None, :], 0).sum(axis=2)
    mean = np.where(count >= 2, total / np.maximum(count, 1), np.nan)
    out: Floats = (value - mean)[node, within].astype(np.float32)
    return out
