"""Creeping changes: a quarter of an hour's residual against the reference of days.

A GPU is compared with its rack, a rack with its hall, a hall with its own past,
so that what many share (a day's swing) is not told of each.  What many share is
a Huber mean: a few that are ill do not move it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.layout import Places
from pipeline.watch.physics.settings import PhysicsSettings

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
State = dict[str, NDArray[Any]]

EVERY_S = 20.0
_CLIP_C = 1.5
_SPREAD_S, _SPREAD_FIRST_S = 7 * 86_400.0, 43_200.0
"""How long what a GPU usually is off by is remembered, and at first."""
_FIRST_C2, _LEAST_C2, _LOUD = 0.25, 0.09, 4.0
"""Variance at first, and at least (that of whole degrees); a square counts for so many of it."""
_HALF, _STILL, _CLEAR = 0.5, 0.7, 3.0
"""Of its level: what makes a place suspicious, what is not over yet, and what counts thrice."""
_SURE = 5.0
"""A residual counts only beyond so many deviations of what is not known of the model."""
_QUORUM = 0.4
"""Of a place's GPUs must be known, or it is not judged as a whole."""
_SIBLINGS = 3
"""A place is compared with its siblings where there are so many."""


class Drifted(NamedTuple):
    """Per place of a level: °C over what it is compared with, as a part of its own level."""

    rise_c: Floats
    part: Floats


class Drift:
    """Of G sorted GPUs and of the levels over them."""

    def __init__(self, places: Places, settings: PhysicsSettings) -> None:
        g = len(places.node.of_gpu)
        self._places, self._settings = places, settings
        self.mean: Floats = np.full(g, np.nan, np.float32)
        """Of each GPU's residual, °C."""
        self._doubt: Floats = np.zeros(g, np.float32)
        """Variance of what was expected while that was seen, °C²."""
        self._rack: Floats = np.zeros(places.rack.size, np.float32)
        self._hall: Floats = np.zeros(places.hall.size, np.float32)
        sizes = {"gpu": g, **{level.scope: level.size for level in places.levels}}
        self._spread = {
            scope: np.full(size, _FIRST_C2, np.float32) for scope, size in sizes.items()
        }
        """Variance of what each place usually is off by, °C²."""
        self._seen_s = {scope: np.zeros(size, np.float32) for scope, size in sizes.items()}
        self._above_s = {scope: np.zeros(size, np.float32) for scope, size in sizes.items()}
        """For how long each place has been beyond its level."""
        self._span_s = 0.0
        self.level: Floats = np.full(g, np.inf, np.float32)
        """From which °C on a GPU is told of."""
        self._suspicious: Bools = np.zeros(g, np.bool_)

    def follow(
        self, residual_c: Floats, variance_c2: Floats, trusted: Bools, span_s: float
    ) -> None:
        """Takes in what was seen over the last `span_s`; what little is expected of a GPU that is
        not known counts little."""
        new = trusted & np.isnan(self.mean)
        self.mean[new], self._doubt[new] = residual_c[new], variance_c2[new]
        gain = np.where(trusted, np.float32(-np.expm1(-span_s / self._settings.slow_s)), 0)
        doubt = np.where(trusted, variance_c2, np.float32(0))
        self._doubt += gain * (doubt - self._doubt)
        gain /= 1 + doubt
        self.mean += gain * (np.where(trusted, residual_c, self.mean) - self.mean)

    def shift(self, rows: slice, expected_c: Floats) -> None:
        """Some GPUs are expected to be warmer by so much from now on."""
        self.mean[rows] -= expected_c

    def forget(self, gpus: Bools) -> None:
        """The past of some GPUs holds no longer."""
        self.mean[gpus] = np.nan

    def measure(self, usable: Bools, span_s: float) -> dict[str, Drifted]:
        """The drift of all levels over the GPUs that are `usable`."""
        settings, places = self._settings, self._places
        self._span_s = span_s
        ok = usable & ~np.isnan(self.mean)
        mean = np.where(ok, self.mean, np.float32(0))
        doubt = np.where(ok, self._doubt, np.float32(0))
        weight = ok.astype(np.float32) / (np.float32(0.3) + doubt)
        self._share(mean, weight)
        of_rack = self._rack[places.rack.of_gpu]
        own = ok * (mean - of_rack)
        self.level = self._level("gpu", settings.slow_gpu_rise_c, np.sqrt(doubt))
        self._note("gpu", own, ok)
        sums = np.stack([weight, weight * own, weight * np.sqrt(doubt), ok.astype(np.float32)])
        node = places.node.add(sums)
        rack = places.rack.add(node)
        hall = places.hall.add(rack)
        out = {
            "gpu": Drifted(own, own / self.level),
            "node": self._of("node", node, node[1], settings.slow_node_rise_c),
            "rack": self._of(
                "rack", rack, rack[0] * self._beyond_hall(), settings.slow_rack_rise_c
            ),
            "hall": self._of("hall", hall, hall[0] * self._hall, settings.slow_hall_rise_c),
        }
        self._suspect(out)
        return out

    def _suspect(self, drifted: dict[str, Drifted]) -> None:
        odd = drifted["gpu"].part > _HALF
        for level in self._places.levels[:3]:
            odd |= (drifted[level.scope].part > _HALF)[level.of_gpu]
        self._suspicious = odd

    def lasting(self, scope: str, drifted: Drifted) -> Bools:
        """Places that have been beyond their level for long: work that was never seen before is
        learnt meanwhile, a fault is not.  To be asked once after each `measure`."""
        above, part = self._above_s[scope], drifted.part
        above *= part >= _STILL
        above += (part >= 1) * np.float32(self._span_s) * np.clip(part, 1, _CLEAR)
        return above >= self._settings.slow_lasts_s

    def _of(self, scope: str, sums: Floats, total: Floats, least_c: float) -> Drifted:
        weight = np.maximum(sums[0], np.float32(1e-9))
        rise = total / weight
        level = self._level(scope, least_c, sums[2] / weight)
        enough = sums[3] >= _QUORUM * self._places.level(scope).gpus
        self._note(scope, rise, enough)
        return Drifted(rise, rise / level * enough)

    def _level(self, scope: str, least_c: float, doubt_c: Floats) -> Floats:
        """°C from which on places are told of: more than they usually are off by, and than is not
        known of them."""
        usual = np.float32(self._settings.slow_sigmas) * np.sqrt(self._spread[scope])
        return np.maximum(np.float32(least_c), np.maximum(usual, np.float32(_SURE) * doubt_c))

    def _share(self, mean: Floats, weight: Floats) -> None:
        """A step of the Huber means of racks and halls towards what they are now."""
        places = self._places
        off = np.clip(mean - self._rack[places.rack.of_gpu], -_CLIP_C, _CLIP_C)
        sums = places.rack.add(places.node.add(np.stack([weight, weight * off])))
        self._rack += sums[1] / np.maximum(sums[0], np.float32(1e-9))
        known = sums[0] > 0
        off = np.clip(self._rack - self._hall[places.rack.parent], -_CLIP_C, _CLIP_C) * known
        halls = places.hall.add(np.stack([known.astype(np.float32), off]))
        self._hall += halls[1] / np.maximum(halls[0], np.float32(1))

    def _beyond_hall(self) -> Floats:
        halls = self._places.hall
        enough = halls.parts[self._places.rack.parent] >= _SIBLINGS
        return self._rack - self._hall[self._places.rack.parent] * enough

    def _note(self, scope: str, off_c: Floats, ok: Bools) -> None:
        spread, seen = self._spread[scope], self._seen_s[scope]
        # A fault grows as slowly as this is learnt, and must not become what is usual.
        square = np.minimum(off_c * off_c, _LOUD * spread)
        seen += ok * np.float32(self._span_s)
        first = np.clip(seen, _SPREAD_FIRST_S / 3, _SPREAD_FIRST_S)
        over_s = np.where(seen < _SPREAD_FIRST_S, first, np.float32(_SPREAD_S))
        gain = ok * np.float32(self._span_s) / over_s
        spread += gain * (square - spread)
        np.maximum(spread, np.float32(_LEAST_C2), out=spread)

    def background(self, scope: str) -> Floats:
        """What GPUs of a place of this scope share with what it is compared with, per GPU."""
        places = self._places
        if scope in {"gpu", "node"}:
            return self._rack[places.rack.of_gpu]
        if scope == "rack":
            return (self._rack - self._beyond_hall())[places.rack.of_gpu]
        return np.zeros(len(self.mean), np.float32)

    def suspicious(self) -> Bools:
        """GPUs that are, or are in a place that is, halfway to being told of: nothing is learnt of
        them."""
        return self._suspicious

    def state(self) -> State:
        """All that was learnt, as arrays."""
        kept: State = {
            "mean": self.mean, "doubt": self._doubt, "rack": self._rack, "hall": self._hall,
            "level": self.level, "suspicious": self._suspicious,
        }  # fmt: skip
        for scope, above in self._above_s.items():
            kept[f"{scope}_above_s"] = above
            kept[f"{scope}_spread"], kept[f"{scope}_seen_s"] = (
                self._spread[scope],
                self._seen_s[scope],
            )
        return kept

    def load(self, state: State) -> None:
        """Takes a state over that `state` gave."""
        for name, column in self.state().items():
            column[...] = state[name]
