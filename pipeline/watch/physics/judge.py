"""From residuals to findings: what is out of its place is explained, opened, followed, closed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.causes import CAUSES, Evidence, Explanation, explain
from pipeline.watch.physics.changes import Change, Changes
from pipeline.watch.physics.drift import EVERY_S, Drift
from pipeline.watch.physics.findings import Finding, Findings, Open
from pipeline.watch.physics.inlets import Inlets
from pipeline.watch.physics.layout import Level, ThermalLayout
from pipeline.watch.physics.settings import PhysicsSettings
from pipeline.watch.physics.spans import Drifted

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
State = dict[str, NDArray[Any]]

_MOST_A_TICK = 8
"""Explanations that are sought in a tick at most; the rest waits for the next."""
_AGAIN_US = 2_000_000
"""A rack that was looked at is not looked at again before."""
_FLOOR_C2 = 0.09
_KNOWN_C2, _FORGET_S = 0.8, 60.0
"""A GPU whose expected temperature is known less well is not judged: it never worked so before;
after so long what it was before is forgotten."""
_ALMOST, _NEXT = 0.7, 0.99
"""Of its own level, for a place that explains what another place was found by; and at most, where
evidence has not added up to enough."""
_BESIDE = 0.03
"""Part of what is told at its level that is no fault: 6 of 206 in the sudden benchmarks."""
_REFINED_US = 300_000_000
"""How long after its start a rack's finding may still be told to come with its inlet."""
_BY_INLET = 0.5
"""Of a rack's warmth, from which on its measured inlet explains it."""


class Moment(NamedTuple):
    """A tick, as columns of the sorted GPUs."""

    time_us: int
    step_s: float
    dt_s: Floats | float
    residual_c: Floats
    rise_c: Floats
    trusted: Bools
    variance_c2: Floats
    """Of what is expected."""
    strange_c2: Floats
    """The part of it that is not of lost samples: what is not known of the work."""
    noise_c2: Floats
    known: Bools
    """Whose model was learnt."""
    hidden_c: Floats
    """What lost samples, or work that was never seen, may hide, °C."""
    resistance_variance: Floats
    """Relative to the resistance."""
    unused_c: Floats
    """What work that was not seen for long may hide, °C."""


class Judge:
    """Holds what is out of its place in a fleet, suddenly or creeping."""

    def __init__(self, layout: ThermalLayout, settings: PhysicsSettings) -> None:
        self._settings, self._places = settings, layout.places
        self._changes = Changes(layout.places, settings)
        self._drift = Drift(layout.places, settings)
        self._findings = Findings(layout, settings)
        self._inlets = Inlets(layout.places)
        self._looked_us = np.zeros(layout.places.rack.size, np.int64)
        self._unknown_s: Floats = np.zeros(layout.gpus, np.float32)
        self._since_drift_s = 0.0

    @property
    def held(self) -> Bools:
        """Sorted GPUs that open findings are of."""
        return self._findings.held

    def suspicious(self) -> Bools:
        """Sorted GPUs of which nothing should be learnt now."""
        return self._drift.suspicious()

    def told(self) -> list[Finding]:
        """The open findings."""
        return self._findings.told()

    def by_inlet(self) -> Floats:
        """°C by which a measured inlet makes each sorted GPU warmer than its reference."""
        return self._inlets.beyond()[self._places.rack.of_gpu]

    def forget(self, gpus: Bools) -> None:
        """Some sorted GPUs were silent: their last minute is not known."""
        self._changes.forget(gpus)
        self._drift.forget(gpus)

    def shift(self, rows: slice, expected_c: Floats) -> None:
        """Parameters of some sorted GPUs were renewed: so much more is expected of them now."""
        known = np.nan_to_num(expected_c)
        self._changes.shift(rows, known)
        self._drift.shift(rows, known)

    def follow(self, moment: Moment, inlet_c: Floats) -> None:
        """Takes a tick in."""
        m, changes = moment, self._changes
        self._inlets.follow(inlet_c, m.step_s)
        changes.follow(m.residual_c, m.rise_c, m.trusted & m.known, m.dt_s, self.held)
        known = m.trusted & m.known & (m.variance_c2 < _KNOWN_C2)
        strange = m.trusted & ~(m.known & (m.strange_c2 < _KNOWN_C2))
        self._unknown_s = strange * (self._unknown_s + np.float32(m.step_s))
        self._drift.forget((self._unknown_s >= _FORGET_S) & ~self.held)
        m = m._replace(trusted=known | (m.trusted & self.held))
        found = changes.measure(
            m.rise_c, m.resistance_variance, m.hidden_c, m.trusted, m.step_s, self.held
        )
        self._close(m)
        self._sudden(m, found)
        self._since_drift_s += m.step_s
        if self._since_drift_s >= EVERY_S:
            span_s, self._since_drift_s = self._since_drift_s, 0.0
            doubt = m.variance_c2 + m.unused_c * m.unused_c
            self._drift.follow(changes.fast, doubt, m.rise_c, m.trusted, span_s)
            self._creeping(m, self._drift.measure(m.trusted & ~self.held, span_s))
        self._refine(m.time_us)

    def _close(self, m: Moment) -> None:
        if self._findings.open:
            scopes = {one.scope for one in self._findings.open.values() if not one.sudden}
            creeping = {scope: self._drift.warmer(scope) for scope in scopes}
            sudden = self._changes.change
            over = self._findings.follow(sudden, creeping, m.rise_c, m.trusted, m.step_s)
            self._changes.begin_anew(over)
            self._drift.forget(over)

    def _sudden(self, m: Moment, found: dict[str, Change]) -> None:
        racks = self._racks_of(found, m)
        if not racks.size:
            return
        for rack in racks.tolist():
            self._looked_us[rack] = m.time_us
            self._explain(m, rack, found)

    def _explain(self, m: Moment, rack: int, found: dict[str, Change]) -> None:
        """Opens what explains best that a rack is out of its place."""
        floor = _FLOOR_C2 + 0.25 * m.noise_c2
        evidence = Evidence(self._changes.change, floor, m.rise_c, m.trusted)
        for widest in ("site", "rack"):
            best = explain(self._places, evidence, rack, widest)
            score = self._score(best, found)
            if score >= (1.0 if best.scope in {"gpu", "node"} else _ALMOST):
                self._open(m, best, self._changes.change, score, sudden=True)
                return

    def _racks_of(self, found: dict[str, Change], m: Moment) -> NDArray[np.intp]:
        """The racks in which something is out of its place, the worst first."""
        places = self._places
        part: Floats = np.zeros(places.rack.size, np.float32)
        warm = self._changes.gpu_evidence * ~self.held
        hot = np.flatnonzero(warm >= 1)
        np.maximum.at(part, places.rack.of_gpu[hot], warm[hot])
        for level, change in ((places.node, found["node"]), (places.rack, found["rack"])):
            own = self._parts(level, change)
            hot = np.flatnonzero(own >= 1)
            np.maximum.at(part, places.rack.of_gpu[level.first[hot]], own[hot])
        for level, change in ((places.hall, found["hall"]), (places.site, found["site"])):
            for place in np.flatnonzero(self._parts(level, change) >= 1).tolist():
                mine = np.unique(places.rack.of_gpu[level.members(place)])
                worst = int(mine[np.argmax(found["rack"].sigmas[mine])])
                part[worst] = max(part[worst], 1.0)
        part[m.time_us - self._looked_us < _AGAIN_US] = 0
        worst_first = np.argsort(-part, kind="stable")[:_MOST_A_TICK]
        return worst_first[part[worst_first] >= 1]

    def _parts(self, level: Level, change: Change) -> Floats:
        """How far each place of a level is towards being told of."""
        settings = self._settings
        sigmas = settings.fast_node_sigmas if level.scope == "node" else settings.fast_sigmas
        almost = np.minimum(change.sigmas / np.float32(sigmas), np.float32(_NEXT))
        rise = settings.fast_node_rise_c if level.scope == "node" else settings.fast_rise_c
        warm = np.maximum(change.offset_c, change.carried_c) >= rise
        return np.maximum(change.evidence, almost) * (level.gpus > 1) * warm

    def _score(self, best: Explanation, found: dict[str, Change]) -> float:
        if best.scope == "gpu":
            return float(self._changes.gpu_evidence[best.place])
        level = self._places.level(best.scope)
        return float(self._parts(level, found[best.scope])[best.place])

    def _creeping(self, m: Moment, drifted: dict[str, Drifted]) -> None:
        for scope in ("hall", "rack", "node", "gpu"):
            part = drifted[scope].part * drifted[scope].lasts
            for place in np.argsort(-part, kind="stable")[:_MOST_A_TICK].tolist():
                if part[place] < 1:
                    break
                self._creeps(m, scope, place, drifted)

    def _creeps(self, m: Moment, scope: str, place: int, drifted: dict[str, Drifted]) -> None:
        members = self._findings.members(scope, place)
        if self.held[members].any():
            return
        rack = int(self._places.rack.of_gpu[members.start])
        warmer = self._drift.warmer(scope)
        usable = m.trusted & ~self.held & ~np.isnan(warmer)
        evidence = Evidence(warmer, _FLOOR_C2 + m.variance_c2, m.rise_c, usable)
        widest = {"gpu": "node", "node": "node", "rack": "rack", "hall": "site"}[scope]
        best = explain(self._places, evidence, rack, widest)
        score = float(drifted[scope].part[place])
        # Where one node is all that a rack has, nothing else says which of the two it is.
        narrower = self._findings.members(best.scope, best.place) != members
        if best.scope in drifted and best.scope != scope and narrower:
            score = float(drifted[best.scope].part[best.place])
        if score >= 1.0 or best.scope == "site":
            self._open(m, best, warmer, score, sudden=False)

    def _open(
        self, m: Moment, best: Explanation, warmer: Floats, score: float, *, sudden: bool
    ) -> None:
        members = self._findings.members(best.scope, best.place)
        ok = m.trusted[members]
        if not ok.any():
            return
        warm_c = float(warmer[members][ok].mean())
        rack = int(self._places.rack.of_gpu[members.start])
        before = self._inlets.before(rack, sudden=sudden) if best.scope == "rack" else None
        self._findings.add(
            Open(
                best.scope, best.place, CAUSES[best.scope], sudden, m.time_us,
                best.certainty * (1.0 - _BESIDE**score), score, warm_c,
                float(m.rise_c[members][ok].mean()), warm_c, warm_c, best.carried,
                best.amplitude, best.signature_certainty, before,
            )
        )  # fmt: skip

    def _refine(self, time_us: int) -> None:
        """A measured inlet tells a rack's cooling from what comes into it."""
        for one in self._findings.open.values():
            if one.inlet_before_c is None or time_us - one.since_us > _REFINED_US:
                continue
            rise_c = float(self._inlets.now[one.place]) - one.inlet_before_c
            one.inlet_rise_c = rise_c
            one.cause = (
                "rack_inlet" if rise_c >= _BY_INLET * max(one.now_c, 0.1) else "rack_cooling"
            )

    def parts(self) -> dict[str, State]:
        """All that was learnt and found, as arrays."""
        own: State = {
            "looked_us": self._looked_us, "unknown_s": self._unknown_s, "since_drift_s": np.array([self._since_drift_s]),
            "findings": np.frombuffer(self._findings.saved(), np.uint8),
        }  # fmt: skip
        return {
            "judge": own, "changes": self._changes.state(), "drift": self._drift.state(),
            "inlets": self._inlets.state(),
        }  # fmt: skip

    def load(self, parts: dict[str, State]) -> None:
        """Takes over what `parts` gave."""
        own = parts["judge"]
        self._looked_us = own["looked_us"]
        self._unknown_s = own["unknown_s"]
        self._since_drift_s = float(own["since_drift_s"][0])
        self._findings.load(own["findings"].tobytes())
        self._changes.load(parts["changes"])
        self._drift.load(parts["drift"])
        self._inlets.load(parts["inlets"])
