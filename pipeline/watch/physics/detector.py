"""Thermal physics of a fleet: what each GPU's temperature should be, and who departs from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.brake import Brake
from pipeline.watch.physics.findings import Finding
from pipeline.watch.physics.judge import Judge, Moment
from pipeline.watch.physics.layout import ThermalLayout
from pipeline.watch.physics.model import NEW_C, HeatModel
from pipeline.watch.physics.outliers import Outliers
from pipeline.watch.physics.saving import State, StateError, pack, unpack
from pipeline.watch.physics.settings import PhysicsSettings

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

_FORGET_S = 120.0
"""A GPU that was silent for longer is met as a new one."""
_RATIO_EVERY_S = 60.0
_GAP_S = 40.0
_SUSPICIOUS = 0.05
"""Part of what a suspicious GPU shows that is learnt all the same: its work may be new."""
_FROZEN_S, _HELD_S = 2 * 86_400.0, 7 * 86_400.0
"""How long nothing is learnt of a GPU that is suspicious, or that was told of: then it is so."""


class Readings(NamedTuple):
    """What the GPUs said; columns of G float32 over the layout, NaN where they said nothing.

    Throttled and braked are µs of it per s; `inlet_c` is per rack of the layout.
    """

    power_w: Floats
    temperature_c: Floats
    memory_temperature_c: Floats
    margin_c: Floats
    inlet_c: Floats
    throttled_us_per_s: Floats
    brake_us_per_s: Floats
    sm_clock_mhz: Floats
    utilization: Floats
    fresh: Bools


@dataclass(frozen=True, slots=True)
class Derived:
    """Columns of G float32 over the layout, NaN where unknown; `findings` are those open now."""

    expected_temperature_c: Floats
    thermal_residual_c: Floats
    """Measured less expected."""
    thermal_resistance_c_per_w: Floats
    thermal_resistance_ratio: Floats
    """To the median of the GPUs of its model."""
    findings: list[Finding] = field(default_factory=list[Finding])


class ThermalDetector:
    """Takes one tick after another, in order of time."""

    def __init__(self, layout: ThermalLayout, settings: PhysicsSettings | None = None) -> None:
        self._settings = settings or PhysicsSettings()
        self._layout = layout
        self._sorted = bool((layout.order == np.arange(layout.gpus)).all())
        g = layout.gpus
        self._model = HeatModel(layout.model[layout.order], self._settings)
        self._judge = Judge(layout, self._settings)
        self._outliers = Outliers(layout, self._settings)
        self._brake = Brake(layout, self._settings)
        self._age_s: Floats = np.full(g, np.nan, np.float32)
        """Since the last sample; NaN before the first."""
        self._usual_s: Floats = np.full(g, np.nan, np.float32)
        """Between samples."""
        self._power_w: Floats = np.full(g, np.nan, np.float32)
        self._swing_w: Floats = np.zeros(g, np.float32)
        """How far power goes from sample to sample."""
        self._gap_c: Floats = np.zeros(g, np.float32)
        """What lost samples may have hidden, °C."""
        self._unsettled_s: Floats = np.zeros(g, np.float32)
        """Until the lags of a GPU's power are known."""
        self._frozen_s: Floats = np.zeros(g, np.float32)
        self._time_us = np.zeros(1, np.int64)
        self._ratio: Floats = np.full(g, np.nan, np.float32)
        self._ratio_due_s = 0.0

    def update(self, time_us: int, said: Readings) -> Derived:
        """Takes the tick of a time in, which is later than the last one's.

        Raises ValueError for one that is not.
        """
        before = int(self._time_us[0])
        if time_us <= before:
            raise ValueError(f"time goes forward: {time_us} µs comes after {before} µs")
        step_s = (time_us - before) / 1e6 if before else 0.0
        self._time_us[0] = time_us
        power, core = self._in(said.power_w), self._in(said.temperature_c)
        valid = self._in(said.fresh) & ~np.isnan(power) & ~np.isnan(core)
        dt_s = self._pass(valid, step_s)
        power = self._bridge(power, dt_s, valid)
        new = self._model.observe(power, dt_s, valid)
        self._unsettled_s[new] = self._settings.settle_s
        rise = self._model.rise()
        residual = core - self._model.theta[0] - rise
        trusted = valid & (self._unsettled_s <= 0)
        beyond, of_model = self._model.beyond(rise), self._model.variance(rise)
        hidden = self._gap_c + beyond
        variance: Floats = of_model + hidden * hidden
        strange: Floats = of_model + beyond * beyond
        moment = Moment(
            time_us, step_s, dt_s, residual, rise, trusted, variance, strange, self._model.noise,
            self._model.known(), hidden, self._model.doubt[2], self._model.unused(rise),
        )  # fmt: skip
        self._judge.follow(moment, said.inlet_c)
        self._learn(core, moment)
        self._outliers.follow(self._model, self._judge.held, step_s, time_us)
        braked = self._brake.follow(time_us, said.brake_us_per_s, said.fresh)
        findings = [*self._judge.told(), *braked, *self._outliers.told()]
        return self._derived(residual, core, valid, step_s, findings)

    def _in(self, column: NDArray[Any]) -> NDArray[Any]:
        return column if self._sorted else column[self._layout.order]

    def _out(self, column: Floats) -> Floats:
        if self._sorted:
            return column
        out = np.empty_like(column)
        out[self._layout.order] = column
        return out

    def _pass(self, valid: Bools, step_s: float) -> Floats | float:
        """Time goes on; returns s since each GPU's last sample, as one figure where it is one.

        After a gap the lags of power are not known for about three times as long.
        """
        self._age_s += np.float32(step_s)
        age = self._age_s[valid]
        if not age.size:
            return 0.0
        alike = bool(age[0] == age.min() == age.max())
        dt = np.nan_to_num(self._age_s)
        usual = np.where(np.isnan(self._usual_s), dt, self._usual_s)
        long = np.minimum(dt, 3 * usual)
        self._usual_s = np.where(valid & (dt > 0), usual + (long - usual) / 8, self._usual_s)
        gap = valid & (dt > 2.5 * usual) & (usual > 0)
        self._unsettled_s -= valid * dt
        if gap.any():
            wait = np.minimum(3 * dt, np.float32(self._settings.settle_s))
            self._unsettled_s[gap] = np.maximum(self._unsettled_s, wait)[gap]
            self._judge.forget(gap & (dt > _FORGET_S))
        np.maximum(self._unsettled_s, np.float32(0), out=self._unsettled_s)
        self._age_s[valid] = 0.0
        return float(age[0]) if alike else dt

    def _bridge(self, power_w: Floats, dt_s: Floats | float, valid: Bools) -> Floats:
        """Power since each GPU's last sample.

        What was lost in between lay halfway; what that may be wrong by fades with the lags.
        """
        self._gap_c *= np.float32(np.exp(-float(np.max(dt_s, initial=0.0)) / _GAP_S))
        before, self._power_w = self._power_w, np.where(valid, power_w, self._power_w)
        step_w = np.abs(np.where(np.isnan(before), 0, self._power_w - before))
        self._swing_w += valid * np.float32(1 / 16) * (step_w - self._swing_w)
        lost = np.where(valid & ~np.isnan(before), dt_s - self._usual_s, 0)
        some = np.flatnonzero(lost > 0.5 * self._usual_s)
        if some.size:
            step_w = power_w[some] - before[some]
            part = lost[some] / (lost[some] + self._usual_s[some])
            swing_w = np.maximum(np.abs(step_w), self._swing_w[some])
            rise = swing_w * self._model.resistance[some]
            self._gap_c[some] += rise * part
            power_w = power_w.copy()
            power_w[some] -= step_w * part / 2
        return power_w

    def _learn(self, core: Floats, moment: Moment) -> None:
        """Learns of those who are as they should be, or have been otherwise for long."""
        held = self._judge.held
        odd = held | (self._judge.suspicious() & ~(moment.unused_c > NEW_C))
        self._model.drop(odd & (self._frozen_s <= 0))
        self._frozen_s = odd * (self._frozen_s + np.float32(moment.step_s))
        limit = np.where(held, np.float32(_HELD_S), np.float32(_FROZEN_S))
        share = np.where(held, np.float32(0), np.float32(_SUSPICIOUS))
        share = np.where(odd & (self._frozen_s <= limit), share, np.float32(1))
        counts: Floats = moment.trusted.astype(np.float32) * share
        model = self._model
        at = model.next()
        before = model.expected(at)
        model.learn(core, moment.residual_c, moment.variance_c2, counts, moment.step_s)
        self._judge.shift(at, model.expected(at) - before)

    def _derived(
        self, residual: Floats, core: Floats, valid: Bools, step_s: float, findings: list[Finding]
    ) -> Derived:
        by_inlet = self._judge.by_inlet()
        off = np.where(valid, residual - by_inlet, np.float32(np.nan))
        resistance = np.where(self._model.known(), self._model.resistance, np.float32(np.nan))
        self._ratio_due_s -= step_s
        if self._ratio_due_s <= 0:
            self._ratio_due_s = _RATIO_EVERY_S
            self._ratio = self._outliers.ratio(resistance)
        return Derived(
            self._out(core - off), self._out(off), self._out(resistance), self._out(self._ratio),
            findings,
        )  # fmt: skip

    def save(self) -> bytes:
        """All that was learnt and found, for `restore`."""
        return pack(self._parts(), self._layout.name)

    def _parts(self) -> dict[str, State]:
        own: State = {
            "age_s": self._age_s, "usual_s": self._usual_s, "unsettled_s": self._unsettled_s,
            "power_w": self._power_w, "swing_w": self._swing_w, "gap_c": self._gap_c,
            "frozen_s": self._frozen_s, "time_us": self._time_us, "ratio": self._ratio,
            "ratio_due_s": np.array([self._ratio_due_s]),
        }  # fmt: skip
        return {
            "own": own, "model": self._model.state(), "outliers": self._outliers.state(),
            "brake": self._brake.state(), **self._judge.parts(),
        }  # fmt: skip

    def restore(self, data: bytes) -> None:
        """Goes on where `save` was called.  Raises StateError for another fleet's state and for
        that of a version which learnt something else; nothing is taken over then."""
        parts = unpack(data, self._layout.name)
        mine = _names(self._parts())
        if _names(parts) != mine:
            other = ", ".join(sorted(_names(parts) ^ mine))
            raise StateError(f"a state of another version, which differs in {other}")
        own = parts["own"]
        self._age_s, self._usual_s = own["age_s"], own["usual_s"]
        self._unsettled_s, self._frozen_s = own["unsettled_s"], own["frozen_s"]
        self._power_w, self._swing_w, self._gap_c = own["power_w"], own["swing_w"], own["gap_c"]
        self._time_us, self._ratio = own["time_us"], own["ratio"]
        self._ratio_due_s = float(own["ratio_due_s"][0])
        self._model.load(parts["model"])
        self._outliers.load(parts["outliers"])
        self._brake.load(parts["brake"])
        self._judge.load(parts)


def _names(parts: Mapping[str, State]) -> set[str]:
    return {f"{part}/{name}" for part, state in parts.items() for name in state}
