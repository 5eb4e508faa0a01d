"""Creeping changes: a quarter of an hour's residual against the reference of days.

A GPU is compared with its rack, a rack with its hall, a hall with its own past,
so that what many share (a day's swing) is not told of each.  What many share is
a Huber mean: a few that are ill do not move it.  In that quarter of an hour work
counts more than rest: Σ w·r / Σ w with w = rise² + (10 °C)², near least squares
of a resistance that grew, which at rest is hardly seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.layout import Places
from pipeline.watch.physics.settings import PhysicsSettings
from pipeline.watch.physics.spans import Drifted, Span, Spans

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
State = dict[str, NDArray[Any]]

EVERY_S = 20.0
_CLIP_C = 1.5
_HALF = 0.5
"""Of its level: what makes a place suspicious."""
_QUORUM = 0.4
"""Of a place's GPUs must be known, or it is not judged as a whole."""
_SIBLINGS = 3
"""A place is compared with its siblings where there are so many."""
_REST_C, _MOST_PULL = 10.0, 4.0
"""A rise that counts twice as much as none, and how many usual samples one counts for at most."""
_RENEWED_C = 1.0
"""A model that changes by more is another one: what was seen by the old one is forgotten."""
_BEGUN_S = 300.0
"""Of so much at least a mean is looked at."""
_LEAST_C2 = {"gpu": 0.09, "node": 0.09, "rack": 0.03, "hall": 0.03}
"""Variance of what places usually are off by, at least: whole degrees, of one GPU or of many."""
_SURE = {"gpu": 6.0, "node": 6.0, "rack": 5.0, "hall": 5.0}
"""A residual counts only beyond so many deviations of what is not known of the model: what one
node's GPUs are not known by is alike."""


def _spans(settings: PhysicsSettings) -> dict[str, list[Span]]:
    """What wanders by itself, an inlet, is looked at for longer too."""
    sigmas, lasts_s = settings.slow_sigmas, settings.slow_lasts_s
    least_c = {
        "gpu": settings.slow_gpu_rise_c, "node": settings.slow_node_rise_c,
        "rack": settings.slow_rack_rise_c, "hall": settings.slow_hall_rise_c,
    }  # fmt: skip
    spans = {scope: [Span(0.0, rise_c, sigmas, lasts_s)] for scope, rise_c in least_c.items()}
    for scope, rise_c in (("rack", settings.hour_rack_rise_c), ("hall", settings.hour_hall_rise_c)):
        longer = (settings.hour_s - settings.slow_s, rise_c, settings.hour_sigmas)
        spans[scope].append(Span(*longer, settings.hour_lasts_s))
    return spans


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
        self._heft: Floats = np.zeros(g, np.float32)
        """What a sample of each GPU weighs in the mean, °C²."""
        self._since_s: Floats = np.zeros(g, np.float32)
        """How much of each GPU the mean is of, s."""
        sizes = {"gpu": g, **{level.scope: level.size for level in places.levels}}
        self._off = {
            scope: Spans(sizes[scope], spans, _LEAST_C2[scope], _SURE[scope])
            for scope, spans in _spans(settings).items()
        }
        self._suspicious: Bools = np.zeros(g, np.bool_)

    def follow(
        self,
        residual_c: Floats,
        variance_c2: Floats,
        rise_c: Floats,
        trusted: Bools,
        span_s: float,
    ) -> None:
        """Takes in what was seen over the last `span_s`; what little is expected of a GPU that is
        not known counts little."""
        zero = np.float32(0)
        pull = np.float32(_REST_C**2) + np.square(np.where(trusted, rise_c, zero))
        new = trusted & np.isnan(self.mean)
        self.mean[new], self._doubt[new] = residual_c[new], variance_c2[new]
        self._heft[new], self._since_s[new] = pull[new], 0.0
        self._since_s += trusted * np.float32(span_s)
        # Until there is enough to forget it is the plain mean: one sample is no quarter of an hour.
        least = np.float32(-np.expm1(-span_s / self._settings.slow_s))
        begun = np.float32(span_s) / np.maximum(self._since_s, np.float32(span_s))
        gain = trusted * np.maximum(least, begun)
        self._heft += gain * (pull - self._heft)
        gain *= np.minimum(pull / np.maximum(self._heft, np.float32(1)), np.float32(_MOST_PULL))
        np.minimum(gain, np.float32(1), out=gain)
        doubt = np.where(trusted, variance_c2, zero)
        self._doubt += gain * (doubt - self._doubt)
        gain /= 1 + doubt
        self.mean += gain * (np.where(trusted, residual_c, self.mean) - self.mean)

    def shift(self, rows: slice, expected_c: Floats) -> None:
        """Some GPUs are expected to be warmer by so much from now on, at the work that they do now:
        of what they did before that says little where it is much."""
        self.mean[rows] -= expected_c
        great = np.abs(expected_c) > _RENEWED_C
        if great.any():
            gpus = np.zeros(len(self.mean), np.bool_)
            gpus[rows] = great
            self.forget(gpus)

    def forget(self, gpus: Bools) -> None:
        """The past of some GPUs holds no longer, nor that of places of which nobody else is."""
        if not gpus.any():
            return
        self.mean[gpus] = np.nan
        self._off["gpu"].forget(gpus)
        nothing = np.isnan(self.mean).astype(np.float32)
        for level in self._places.levels[:3]:
            nothing = level.add(nothing)
            self._off[level.scope].forget(nothing == level.gpus)

    def measure(self, usable: Bools, span_s: float) -> dict[str, Drifted]:
        """The drift of all levels over the GPUs that are `usable`, `span_s` after the last time."""
        places = self._places
        ok = usable & ~np.isnan(self.mean) & (self._since_s >= _BEGUN_S)
        mean = np.where(ok, self.mean, np.float32(0))
        doubt = np.where(ok, self._doubt, np.float32(0))
        weight = ok.astype(np.float32) / (np.float32(0.3) + doubt)
        self._share(mean, weight)
        own = ok * (mean - self._rack[places.rack.of_gpu])
        doubt_c = np.sqrt(doubt)
        sums = np.stack([weight, weight * own, weight * doubt_c, ok.astype(np.float32)])
        node = places.node.add(sums)
        rack = places.rack.add(node)
        hall = places.hall.add(rack)
        out = {
            "gpu": self._off["gpu"].follow(own, doubt_c, ok, span_s),
            "node": self._of("node", node, node[1], span_s),
            "rack": self._of("rack", rack, rack[0] * self._beyond_hall(), span_s),
            "hall": self._of("hall", hall, hall[0] * self._hall, span_s),
        }
        self._suspect(out)
        return out

    def _suspect(self, drifted: dict[str, Drifted]) -> None:
        odd = drifted["gpu"].part > _HALF
        for level in self._places.levels[:3]:
            odd |= (drifted[level.scope].part > _HALF)[level.of_gpu]
        self._suspicious = odd

    def _of(self, scope: str, sums: Floats, total: Floats, span_s: float) -> Drifted:
        weight = np.maximum(sums[0], np.float32(1e-9))
        enough = sums[3] >= _QUORUM * self._places.level(scope).gpus
        return self._off[scope].follow(total / weight, sums[2] / weight, enough, span_s)

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

    def warmer(self, scope: str) -> Floats:
        """By how much each GPU is warmer than what a place of this scope is compared with, °C."""
        return self.mean - self._background(scope)

    def _background(self, scope: str) -> Floats:
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
            "mean": self.mean, "doubt": self._doubt, "heft": self._heft,
            "since_s": self._since_s, "rack": self._rack,
            "hall": self._hall, "suspicious": self._suspicious,
        }  # fmt: skip
        for scope, spans in self._off.items():
            kept |= {f"{scope}_{name}": column for name, column in spans.state().items()}
        return kept

    def load(self, state: State) -> None:
        """Takes a state over that `state` gave."""
        for name, column in self.state().items():
            column[...] = state[name]
