"""Rows of one tick, a dict per slot, as the columns of a record.

Nearly all slots say nearly the same at each tick, so what all of them have is
looked up, turned round and judged by a few calls for the whole node; what only
some have this time, and what is not as it should be, is looked at singly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, cast

from collectors.contract.catalogue import COUNTER_ABSENT, COUNTER_LIMIT, Kind, Metric

_LARGEST_FLOAT = 3e38
"""Beyond it a 32-bit float overflows."""
_LEARN_ANEW = 16
"""So many metrics that are not among those of all slots, and the usual ones are found anew."""
Row = Mapping[str, float]


class _Usual:
    """Metrics of one kind that every slot has: two at least, else none."""

    def __init__(self, names: Sequence[str], kind: Kind) -> None:
        self.names = names if len(names) > 1 else ()
        self._kind = kind
        self._get: Any = itemgetter(*self.names) if self.names else _nothing

    def columns(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        """Raises KeyError where a slot lacks one of them."""
        got = [self._get(row) for row in rows]
        columns = dict(zip(self.names, map(list, zip(*got, strict=True)), strict=False))
        values = list(chain.from_iterable(got))
        if not values or (_whole(values) if self._kind is Kind.COUNTER else _bounded(values)):
            return columns
        clean = _clean[self._kind]
        return {name: [clean(value) for value in column] for name, column in columns.items()}


class Columns:
    """Keeps which metrics all slots of a node have."""

    def __init__(self, catalogue: Iterable[Metric]) -> None:
        self._kinds = {metric.name: metric.kind for metric in catalogue}
        self._learn(())

    def _learn(self, rows: Sequence[Row]) -> None:
        common = set[str](rows[0]).intersection(*rows[1:]) if rows else set[str]()
        names = [name for name in self._kinds if name in common]
        self._usual = [
            _Usual([name for name in names if self._kinds[name] is kind], kind) for kind in Kind
        ]
        self._names = {name for usual in self._usual for name in usual.names}

    def of(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        """One array per metric that any slot has, absent where a slot has it not."""
        if not rows:
            return {}
        try:
            others = self._others(rows)
            if len(others) > _LEARN_ANEW:
                self._learn(rows)
                others = self._others(rows)
            columns = self._common(rows)
        except KeyError:
            self._learn(rows)
            others, columns = self._others(rows), self._common(rows)
        for name in others:
            clean = _clean[self._kinds[name]]
            columns[name] = [clean(row.get(name)) for row in rows]
        return columns

    def _others(self, rows: Sequence[Row]) -> set[str]:
        """What some slots say beside the usual; names that are no metrics are left out."""
        usual = self._names
        return {
            name
            for row in rows
            if len(row) != len(usual)
            for name in row
            if name not in usual and name in self._kinds
        }

    def _common(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        columns: dict[str, list[float]] = {}
        for usual in self._usual:
            columns |= usual.columns(rows)
        return columns


def _nothing(_row: Row) -> tuple[float, ...]:
    return ()


def _whole(values: Sequence[float]) -> bool:
    return set(map(type, values)) == {int} and min(values) >= 0 and max(values) < COUNTER_LIMIT


def _bounded(values: Sequence[float]) -> bool:
    """Whether none is infinite, none beyond a 32-bit float, and none NaN."""
    return math.hypot(*values) < _LARGEST_FLOAT


def _counter(value: float | None) -> int:
    known = value is not None and 0 <= value < COUNTER_LIMIT
    return int(cast("float", value)) if known else COUNTER_ABSENT


def _gauge(value: float | None) -> float:
    known = value is not None and abs(value) < _LARGEST_FLOAT
    return float(cast("float", value)) if known else math.nan


_clean = {Kind.COUNTER: _counter, Kind.GAUGE: _gauge}
