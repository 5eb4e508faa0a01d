"""Who is affected, and how: which of a few explanations fits residuals best.

An explanation is a place (one GPU, a node, a rack, a hall, the site) and a
signature (the same for all, or a part of each GPU's rise).  Its gain is the
part of Σ(d/σ)² that it takes away: (Σ s·d/σ²)²/(Σ s²/σ²), positive amplitudes
alone.  What explains most is taken; the next best place says how sure that is:
half of what it explains less is the logarithm of the odds (normal noise).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.layout import SCOPES, Level, Places

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

CAUSES = {
    "gpu": "gpu_interface", "node": "node_cooling", "rack": "rack_cooling",
    "hall": "hall_inlet", "site": "site_inlet",
}  # fmt: skip
"""What a place's heat comes from, as far as temperature and power tell it."""
_UNEVEN = 0.25
"""Members of one fault are hit unequally, by so much of its size."""
_NARROWER = 0.85
"""A narrower place with so much of a wider one's gain is not beaten by it: nothing else is hit."""

_MOST_MARGIN = 9.2
"""Surer than 99 % is nobody: so many of a hundred places told in the benchmarks are right."""


class Explanation(NamedTuple):
    """A place with the amplitude of its best signature: °C, or relative to the rise."""

    scope: str
    place: int
    carried: bool
    amplitude: float
    gain: float
    certainty: float
    """0–1: that it is this place rather than the next best of other GPUs."""
    signature_certainty: float
    """0–1: that it is this signature rather than the other."""
    gpus: int
    """GPUs of the place that said something."""


class Evidence(NamedTuple):
    """Columns over the sorted GPUs: what they are warmer by, each one's variance, its rise."""

    warmer_c: Floats
    variance_c2: Floats
    rise_c: Floats
    ok: Bools


class _Sums(NamedTuple):
    """Of one level: Σ s·d/σ² and Σ s²/σ² for both signatures, [2, places]; and how many GPUs say
    something, [places]."""

    cross: Floats
    square: Floats
    gpus: Floats

    def gains(self) -> Floats:
        positive = np.maximum(self.cross, 0)
        return positive * positive / np.maximum(self.square, 1e-9)


def explain(places: Places, evidence: Evidence, within: int, widest: str) -> Explanation:
    """The best explanation of what the GPUs of a rack show, in scopes up to `widest`."""
    here = np.nan_to_num(evidence.warmer_c[_rack(places, within)])
    amplitude = max(0.5, float(np.percentile(here, 95)))
    variance = evidence.variance_c2 + (_UNEVEN * amplitude) ** 2
    # Of who never spoke the variance is not known either.
    weight: Floats = np.where(evidence.ok, 1 / variance, np.float32(0))
    warmer: Floats = np.where(evidence.ok, evidence.warmer_c, np.float32(0))
    rise: Floats = np.where(evidence.ok, np.maximum(evidence.rise_c, 0), np.float32(0))
    one = weight * warmer
    says: Floats = (weight > 0).astype(np.float32)
    table: Floats = np.stack([one, one * rise, weight, weight * rise * rise, says])
    found: list[Explanation] = [_best("gpu", _sums(table), _rack(places, within))]
    for level in places.levels:
        table = level.add(table)
        place = _here(places, level, within)
        found.append(_best(level.scope, _sums(table), place))
        if level.scope == widest:
            break
    return _choose(found)


def _sums(table: Floats) -> _Sums:
    return _Sums(table[:2], table[2:4], table[4])


def _rack(places: Places, rack: int) -> slice:
    return places.rack.members(rack)


def _here(places: Places, level: Level, rack: int) -> slice:
    """The places of a level that lie in a rack, or the one that the rack lies in."""
    members = level.of_gpu[_rack(places, rack)]
    return slice(int(members[0]), int(members[-1]) + 1)


def _best(scope: str, sums: _Sums, among: slice) -> Explanation:
    gains = sums.gains()[:, among]
    which, at = (int(one) for one in np.unravel_index(int(np.argmax(gains)), gains.shape))
    place = at + among.start
    gain, other = float(gains[which, at]), float(gains[1 - which, at])
    amplitude = float(sums.cross[which, place] / max(float(sums.square[which, place]), 1e-9))
    sure = 1.0 - float(np.exp(-(gain - other) / 2))
    gpus = int(sums.gpus[place])
    return Explanation(scope, place, which == 1, amplitude, gain, 0.0, sure, gpus)


def _choose(found: list[Explanation]) -> Explanation:
    """The widest that explains clearly more than the narrower ones."""
    best = found[0]
    for one in found[1:]:
        if one.gain * _NARROWER > best.gain:
            best = one
    # Places hold one another: those of as many GPUs are of the same ones, and no rivals.
    margins = [_margin(best, one) for one in found if one.gpus != best.gpus]
    margin = min(margins, default=best.gain)
    certainty = 1.0 / (1.0 + float(np.exp(-min(max(margin, 0.0), _MOST_MARGIN) / 2)))
    return best._replace(certainty=certainty)


def _margin(best: Explanation, other: Explanation) -> float:
    """By how much one explains more, where the wider of the two has to explain clearly more."""
    if wider(best.scope, other.scope):
        return _NARROWER * best.gain - other.gain
    return best.gain - _NARROWER * other.gain


def wider(scope: str, other: str) -> bool:
    """Whether a scope is wider than another."""
    return SCOPES.index(scope) > SCOPES.index(other)
