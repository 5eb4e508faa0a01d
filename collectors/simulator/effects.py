"""What the hardware faults of a scenario do to the GPUs now, as columns of G.

`advance` costs nothing while no fault begins, ends or grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collectors.contract.inventory import InstalledNode
from collectors.simulator.faults import Family
from collectors.simulator.hardware import F64, Bool
from collectors.simulator.scenario import FaultEvent, gpus_of, of_family
from collectors.simulator.sites import GPUS_PER_NODE

_REFRESH_US = 1_000_000
"""A fault that grows is brought up to date this often."""
THERMAL = frozenset(
    ("rack_pump_failure", "rack_cdu_failure", "rack_airflow_blocked", "hot_inlet",
     "cold_plate_fouling", "thermal_interface_ageing", "fan_failure")
)  # fmt: skip
"""Kinds whose first sign is a temperature."""
_PUMP_RESISTANCE, _PUMP_INLET_K = 1.2, 12.0
"""Of a pump that stands still: added resistance as a ratio, and the coolant's rise."""


class Happening(NamedTuple):
    """Something that happens at one moment: `kind` is `xid`, `agent_crash`, `gpu_off_bus`,
    `ecc_uncorrected`, `remap_failure`, `power_lost`; `code` an XID, or seconds; `until_us` the
    fault's end, None where it has none."""

    time_us: int
    kind: str
    gpu: int
    code: int
    until_us: int | None = None


class _Active(NamedTuple):
    event: FaultEvent
    gpus: NDArray[np.intp]


class Effects:
    """The columns; times are µs after the site's start.

    Neutral is 0 for `inlet_k`, 1 for the factors `resistance`, `limit` and
    `clock`, False for the rest.
    """

    def __init__(self, events: Sequence[FaultEvent], entries: Sequence[InstalledNode]) -> None:
        g = len(entries) * GPUS_PER_NODE
        self._faults = [
            _Active(event, np.array(gpus_of(event, entries), np.intp))
            for event in of_family(events, Family.HARDWARE)
        ]
        self.thermal = any(fault.event.kind.name in THERMAL for fault in self._faults)
        """Whether there are cooling faults among them."""
        self.inlet_k: F64 = np.zeros(g)
        self.resistance: F64 = np.ones(g)
        self.limit: F64 = np.ones(g)
        self.clock: F64 = np.ones(g)
        self.ecc_per_s: F64 = np.zeros(g)
        self.brake: Bool = np.zeros(g, np.bool_)
        self.off_bus: Bool = np.zeros(g, np.bool_)
        self.hung: Bool = np.zeros(g, np.bool_)
        self.dead: Bool = np.zeros(g, np.bool_)
        """Without power."""
        self.remap_failed: Bool = np.zeros(g, np.bool_)
        self.any = False
        """Whether a fault is there at all now."""
        self._next_us = min((fault.event.at_us for fault in self._faults), default=None)
        self._begun: set[int] = set()
        self._ended: set[int] = set()

    def advance(self, now_us: int) -> list[Happening]:
        """Brings the columns up to a time that does not fall; returns what has happened since."""
        if self._next_us is None or now_us < self._next_us:
            return []
        self._clear()
        happened: list[Happening] = []
        following: list[int] = []
        for number, fault in enumerate(self._faults):
            event = fault.event
            if event.at_us > now_us:
                following.append(event.at_us)
                continue
            if number not in self._begun:
                self._begun.add(number)
                happened += _at_start(fault)
            if event.end_us is not None and event.end_us <= now_us:
                if number not in self._ended:
                    self._ended.add(number)
                    happened += _at_end(fault)
                continue
            self._apply(fault, _level(event, now_us))
            following.append(_next_change(event, now_us))
        self._next_us = min(following, default=None)
        return happened

    def _clear(self) -> None:
        self.any = False
        for column in (self.inlet_k, self.ecc_per_s):
            column[:] = 0.0
        for column in (self.resistance, self.limit, self.clock):
            column[:] = 1.0
        for column in (self.brake, self.off_bus, self.hung, self.dead, self.remap_failed):
            column[:] = False

    def _apply(self, fault: _Active, level: float) -> None:
        self.any = True
        apply = _APPLY.get(fault.event.kind.name)
        if apply is not None:
            apply(self, fault.gpus, level * fault.event.strength)


def _level(event: FaultEvent, now_us: int) -> float:
    ramp_us = event.ramp_us
    return 1.0 if ramp_us <= 0 else min(1.0, (now_us - event.at_us) / ramp_us)


def _next_change(event: FaultEvent, now_us: int) -> int:
    end_us = event.end_us if event.end_us is not None else 1 << 62
    growing = now_us < event.at_us + event.ramp_us
    return min(now_us + _REFRESH_US, end_us) if growing else end_us


def _at_start(fault: _Active) -> list[Happening]:
    event = fault.event
    kind = {
        "xid": "xid", "agent_crash": "agent_crash", "gpu_off_bus": "gpu_off_bus",
        "row_remap_failure": "remap_failure", "node_dark": "power_lost", "rack_dark": "power_lost",
    }.get(event.kind.name)  # fmt: skip
    if kind is None:
        return []
    gpus = fault.gpus if kind != "agent_crash" else fault.gpus[::GPUS_PER_NODE]
    code = 79 if kind == "gpu_off_bus" else 64 if kind == "remap_failure" else int(event.strength)
    return [Happening(event.at_us, kind, int(gpu), code, event.end_us) for gpu in gpus]


def _at_end(fault: _Active) -> list[Happening]:
    event = fault.event
    if event.kind.name != "ecc_storm" or event.end_us is None:
        return []
    return [Happening(event.end_us, "ecc_uncorrected", int(gpu), 48) for gpu in fault.gpus]


def _pump(effects: Effects, gpus: NDArray[np.intp], strength: float) -> None:
    effects.resistance[gpus] *= 1.0 + _PUMP_RESISTANCE * strength
    effects.inlet_k[gpus] += _PUMP_INLET_K * strength


def _warm(effects: Effects, gpus: NDArray[np.intp], strength: float) -> None:
    effects.inlet_k[gpus] += strength


def _resist(effects: Effects, gpus: NDArray[np.intp], strength: float) -> None:
    effects.resistance[gpus] *= 1.0 + strength


def _cap(effects: Effects, gpus: NDArray[np.intp], strength: float) -> None:
    effects.limit[gpus] = np.minimum(effects.limit[gpus], strength)


def _brake(effects: Effects, gpus: NDArray[np.intp], strength: float) -> None:
    effects.brake[gpus] = True
    effects.clock[gpus] = np.minimum(effects.clock[gpus], strength)


def _ecc(effects: Effects, gpus: NDArray[np.intp], strength: float) -> None:
    effects.ecc_per_s[gpus] += strength


def _mark(name: str) -> Callable[[Effects, NDArray[np.intp], float], None]:
    def apply(effects: Effects, gpus: NDArray[np.intp], _: float) -> None:
        column: Bool = getattr(effects, name)
        column[gpus] = True

    return apply


_APPLY: dict[str, Callable[[Effects, NDArray[np.intp], float], None]] = {
    "rack_pump_failure": _pump,
    "rack_cdu_failure": _warm,
    "hot_inlet": _warm,
    "rack_airflow_blocked": _resist,
    "cold_plate_fouling": _resist,
    "thermal_interface_ageing": _resist,
    "fan_failure": _resist,
    "power_brake": _brake,
    "power_cap_lowered": _cap,
    "ecc_storm": _ecc,
    "row_remap_failure": _mark("remap_failed"),
    "gpu_off_bus": _mark("off_bus"),
    "driver_hung": _mark("hung"),
    "node_dark": _mark("dead"),
    "rack_dark": _mark("dead"),
}
