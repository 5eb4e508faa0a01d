"""What was found, from its first moment until it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.layout import Places, ThermalLayout
from pipeline.watch.physics.settings import PhysicsSettings

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

_PEAK = 0.15
"""Of the most it ever was, below which a finding may be over too."""
_SAME_WORK = 0.5
"""Of the rise at which something was found: with less, its absence says nothing."""
_YOUNG_US = 600_000_000
"""A narrower finding of so late a start may turn out to be a part of a wider one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A suspicion that is open now.

    `index` is the place's number in the fleet's layout (of the GPU, node, rack,
    hall; 0 for the site), `gpus` are positions in it.  `cause` is one of
    `causes.CAUSES`, or `rack_inlet`, `power_brake`, `outlier`.
    """

    scope: str
    index: int
    cause: str
    confidence: float
    score: float
    """How many times what it takes to be told of."""
    since_us: int
    gpus: NDArray[np.intp]
    evidence: Mapping[str, float] = field(default_factory=dict[str, float])
    text: str = ""


class Open(msgspec.Struct):
    """A finding as it is kept: places are those of the sorted layout."""

    scope: str
    place: int
    cause: str
    sudden: bool
    since_us: int
    confidence: float
    score: float
    began_c: float
    """How warm it was when it was found, in the mean of its GPUs."""
    began_rise_c: float
    peak_c: float
    now_c: float
    carried: bool
    amplitude: float
    certainty: float
    inlet_before_c: float | None = None
    """Of the rack's measured inlet."""
    inlet_rise_c: float | None = None
    below_s: float = 0.0


class Findings:
    """The open ones of a fleet, by (scope, place)."""

    def __init__(self, layout: ThermalLayout, settings: PhysicsSettings) -> None:
        self._layout, self._settings = layout, settings
        self._places: Places = layout.places
        self.open: dict[tuple[str, int], Open] = {}
        self.held: Bools = np.zeros(layout.gpus, np.bool_)
        """Sorted GPUs of the open ones."""

    def members(self, scope: str, place: int) -> slice:
        """The sorted GPUs of a place."""
        if scope == "gpu":
            return slice(place, place + 1)
        return self._places.level(scope).members(place)

    def add(self, found: Open) -> bool:
        """Opens a finding, and takes in what turns out to be a part of it; False where it is
        known, or is a part of a known one."""
        mine = self.members(found.scope, found.place)
        if self.held[mine].all() and any(self._holds(one, mine) for one in self.open.values()):
            return False
        for key, one in list(self.open.items()):
            theirs = self.members(one.scope, one.place)
            inside = mine.start <= theirs.start and theirs.stop <= mine.stop
            if inside and found.since_us - one.since_us < _YOUNG_US:
                found.since_us = min(found.since_us, one.since_us)
                del self.open[key]
        self.open[found.scope, found.place] = found
        self._hold()
        return True

    def _holds(self, one: Open, mine: slice) -> bool:
        theirs = self.members(one.scope, one.place)
        return theirs.start <= mine.start and mine.stop <= theirs.stop

    def _hold(self) -> None:
        self.held = np.zeros(self._layout.gpus, np.bool_)
        for one in self.open.values():
            self.held[self.members(one.scope, one.place)] = True

    def follow(
        self,
        sudden_c: Floats,
        creeping_c: Mapping[str, Floats],
        rise_c: Floats,
        ok: Bools,
        step_s: float,
    ) -> Bools:
        """How warm the open ones are now, creeping ones against what a place of their scope
        (a key) is compared with; closes those that are over; returns the sorted GPUs of those closed."""
        over = np.zeros(len(ok), np.bool_)
        for key, one in list(self.open.items()):
            mine = self.members(one.scope, one.place)
            column = sudden_c if one.sudden else creeping_c[one.scope]
            seen = ok[mine] & ~np.isnan(column[mine])
            if not seen.any():
                continue
            one.now_c = float(column[mine][seen].mean())
            one.peak_c = max(one.peak_c, one.now_c)
            one.below_s = one.below_s + step_s if self._low(one, rise_c[mine][seen]) else 0.0
            if one.below_s >= self._settings.clear_s:
                del self.open[key]
                over[mine] = True
        if over.any():
            self._hold()
        return over

    def _low(self, one: Open, rise_c: Floats) -> bool:
        works = not one.carried or float(rise_c.mean()) >= _SAME_WORK * one.began_rise_c
        level = max(self._settings.clear_ratio * one.began_c, _PEAK * one.peak_c)
        return works and one.now_c < level

    def told(self) -> list[Finding]:
        """As others see them: the widest first, then by place."""
        return [self._told(one) for _, one in sorted(self.open.items(), reverse=True)]

    def _told(self, one: Open) -> Finding:
        mine = self.members(one.scope, one.place)
        if one.scope == "gpu":
            index = int(self._layout.order[one.place])
        else:
            index = int(self._places.level(one.scope).number[one.place])
        evidence = {
            "warmer_c": round(one.now_c, 2), "warmest_c": round(one.peak_c, 2),
            "score": round(one.score, 2), "signature_certainty": round(one.certainty, 2),
            ("resistance_ratio" if one.carried else "offset_c"): round(
                1 + one.amplitude if one.carried else one.amplitude, 3
            ),
        }  # fmt: skip
        if one.inlet_rise_c is not None:
            evidence["inlet_rise_c"] = round(one.inlet_rise_c, 2)
        gpus = np.sort(self._layout.order[mine])
        return Finding(
            one.scope, index, one.cause, round(one.confidence, 2), round(one.score, 2),
            one.since_us, gpus, evidence, sentence(one, len(gpus)),
        )  # fmt: skip

    def saved(self) -> bytes:
        """The open ones."""
        return msgspec.msgpack.encode(list(self.open.values()))

    def load(self, saved: bytes) -> None:
        """Takes over what `saved` gave."""
        for one in msgspec.msgpack.decode(saved, type=list[Open]):
            self.open[one.scope, one.place] = one
        self._hold()


_WHO = {"gpu": "The GPU is", "node": "GPUs of the node are", "rack": "GPUs of the rack are",
        "hall": "GPUs of the hall are", "site": "GPUs of the site are"}  # fmt: skip
_STEADY_C = 0.5
"""An inlet that differs by less is as before."""
_WHAT = {
    "gpu_interface": "its own thermal interface or cold plate",
    "node_cooling": "the node's cooling (fan, cold plates or their supply)",
    "rack_cooling": "rack cooling",
    "rack_inlet": "what comes into the rack is too warm",
    "hall_inlet": "what comes into the hall is too warm, or too little of it",
    "site_inlet": "what comes into the site's racks is too warm, or too little of it",
}


def sentence(one: Open, gpus: int) -> str:
    """What was found, for people."""
    who = _WHO[one.scope] if one.scope == "gpu" else f"{gpus} {_WHO[one.scope]}"
    how = "in proportion to power" if one.carried else "whatever their power"
    if one.certainty < 0.9:
        how = "by power or by inlet, which cannot be told apart yet"
    inlet = "" if one.inlet_rise_c is None else f"; {_inlet(one.inlet_rise_c)}"
    return f"{who} {one.now_c:.1f} °C warmer than power explains, {how}{inlet}: {_WHAT[one.cause]}."


def _inlet(rise_c: float) -> str:
    if abs(rise_c) < _STEADY_C:
        return "the measured inlet is as before"
    return f"the measured inlet {'rose' if rise_c > 0 else 'fell'} by {abs(rise_c):.1f} °C"
