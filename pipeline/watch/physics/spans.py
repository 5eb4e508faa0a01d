"""How far the places of a scope are off, over a quarter of an hour and over longer.

What each place usually is off by is learnt, per span.  Longer means see less of
what wanders, and see it later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
State = dict[str, NDArray[Any]]

_SPREAD_S, _SPREAD_FIRST_S = 7 * 86_400.0, 43_200.0
"""How long what a place usually is off by is remembered, and at first."""
_FIRST_C2, _LOUD = 0.25, 4.0
"""Variance at first; a square counts for so many of it."""
_STILL, _CLEAR = 0.7, 3.0
"""Parts of the level: what is not over yet, and from where on being farther off tells no sooner."""


class Span(NamedTuple):
    """A mean of what comes in over `mean_s` (0: as it comes): from which °C on, and from how many
    usual deviations on, it is told of, after how long."""

    mean_s: float
    rise_c: float
    sigmas: float
    lasts_s: float


class Drifted(NamedTuple):
    """Per place of a scope: as a part of its own level, and whether that has been for long."""

    part: Floats
    lasts: Bools


class Spans:
    """Of the places of one scope, S spans.

    `least_c2` is the least usual variance, °C²; beyond `sure` deviations of what
    is not known a place is told of.
    """

    def __init__(self, size: int, spans: Sequence[Span], least_c2: float, sure: float) -> None:
        self._mean_s, self._rise_c, self._sigmas, self._lasts_s = (
            np.array(column, np.float32)[:, None] for column in zip(*spans, strict=True)
        )
        self._least_c2, self._sure = np.float32(least_c2), np.float32(sure)
        shape = (len(spans), size)
        self._new: Bools = np.ones(size, np.bool_)
        """Places of which nothing was seen lately."""
        self._off: Floats = np.zeros(shape, np.float32)
        self._doubt: Floats = np.zeros(shape, np.float32)
        self._spread: Floats = np.full(shape, _FIRST_C2, np.float32)
        """Variance of what each place usually is off by, °C²."""
        self._above_s: Floats = np.zeros(shape, np.float32)
        """For how long each place has been beyond its level, s; twice as far off counts four times."""
        self._seen_s: Floats = np.zeros(size, np.float32)

    def follow(self, off_c: Floats, doubt_c: Floats, ok: Bools, step_s: float) -> Drifted:
        """Takes in what was seen over the last `step_s` of those that are `ok`; of the others what
        was seen before stands still."""
        new = ok & self._new
        self._new &= ~ok
        self._off[:, new], self._doubt[:, new] = off_c[new], doubt_c[new]
        gain = ok * -np.expm1(-np.float32(step_s) / np.maximum(self._mean_s, np.float32(1e-3)))
        self._off += gain * (off_c - self._off)
        self._doubt += gain * (doubt_c - self._doubt)
        part = ok * self._off / self._levels()
        self._above_s *= (part >= _STILL) | ~ok
        self._above_s += (part >= 1) * np.square(np.clip(part, 1, _CLEAR)) * np.float32(step_s)
        self._note(ok, step_s)
        lasts: Bools = (part >= 1) & (self._above_s >= self._lasts_s)
        return Drifted(part.max(axis=0), np.logical_or.reduce(lasts, axis=0))

    def forget(self, places: Bools) -> None:
        """What was seen of some places lately holds no longer."""
        self._above_s[:, places] = 0
        self._new[places] = True

    def _levels(self) -> Floats:
        """°C from which on places are told of: more than they usually are off by, and than is not
        known of them."""
        usual = self._sigmas * np.sqrt(self._spread)
        return np.maximum(self._rise_c, np.maximum(usual, self._sure * self._doubt))

    def _note(self, ok: Bools, step_s: float) -> None:
        # A fault grows as slowly as this is learnt, and must not become what is usual.
        square = np.minimum(self._off * self._off, _LOUD * self._spread)
        self._seen_s += ok * np.float32(step_s)
        first = np.clip(self._seen_s, _SPREAD_FIRST_S / 3, _SPREAD_FIRST_S)
        over_s = np.where(self._seen_s < _SPREAD_FIRST_S, first, np.float32(_SPREAD_S))
        self._spread += ok * np.float32(step_s) / over_s * (square - self._spread)
        np.maximum(self._spread, self._least_c2, out=self._spread)

    def state(self) -> State:
        """All that was learnt, as arrays."""
        return {
            "new": self._new, "off": self._off, "doubt": self._doubt, "spread": self._spread,
            "above_s": self._above_s, "seen_s": self._seen_s,
        }  # fmt: skip
