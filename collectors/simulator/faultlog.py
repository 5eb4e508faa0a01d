"""The truth about faults: when each began, could first be seen, first throttled, and ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from collectors.contract.identity import slot_text
from collectors.contract.inventory import InstalledNode
from collectors.contract.topics import Subject
from collectors.simulator.effects import THERMAL
from collectors.simulator.faults import Family
from collectors.simulator.fleet import Fleet, Moment
from collectors.simulator.scenario import FaultEvent, gpus_of
from collectors.simulator.sites import GPUS_PER_NODE
from collectors.simulator.telemetry import neighbours
from collectors.simulator.truth import Fault

SIGN_K = 3 / 12**0.5
"""A cooling fault can be seen when a core is this much warmer than its power explains: three
times the noise of a sensor that tells whole degrees."""


class _Watched:
    """One event and what has been seen of it."""

    def __init__(self, event: FaultEvent, gpus: NDArray[np.intp], start_us: int) -> None:
        self.event, self.gpus = event, gpus
        self.start_us = start_us + event.at_us
        self.end_us = None if event.end_us is None else start_us + event.end_us
        self.sign_us = None if event.kind.name in THERMAL else self.start_us
        self.throttle_us: int | None = None
        self._hot_anyway = np.zeros(len(gpus), np.bool_)

    def note(self, moment: Moment) -> None:
        """Looks at a tick."""
        if moment.time_us < self.start_us:
            self._hot_anyway |= moment.throttled.heat[self.gpus]
            return
        if self.end_us is not None and moment.time_us >= self.end_us:
            return
        warmer_k = moment.warmer_k
        if self.sign_us is None and warmer_k is not None and warmer_k[self.gpus].max() >= SIGN_K:
            self.sign_us = moment.time_us
        if self.throttle_us is None and self._throttled(moment):
            self.throttle_us = moment.time_us

    def _throttled(self, moment: Moment) -> bool:
        """Whether this fault holds clocks down: not what heat held down before it began."""
        name, gpus = self.event.kind.name, self.gpus
        if name in THERMAL and moment.warmer_k is not None:
            warmer = moment.warmer_k[gpus] >= SIGN_K
            return bool((moment.throttled.heat[gpus] & warmer & ~self._hot_anyway).any())
        throttled = moment.throttled
        column = {"power_brake": throttled.brake, "power_cap_lowered": throttled.limit}.get(name)
        return column is not None and bool(column[gpus].any())


class FaultLog:
    """Watches a fleet's scheduled faults, and names those that it had from the start."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._watched = [
            _Watched(event, np.array(gpus_of(event, fleet.entries), np.intp), fleet.start_us)
            for event in fleet.faults
        ]
        self._hardware = [one for one in self._watched if one.event.kind.family is Family.HARDWARE]
        self._hot_throttled_us: dict[int, int] = {}

    def note(self, moment: Moment) -> None:
        """Takes the tick that the fleet has just made."""
        for one in self._hardware:
            one.note(moment)
        for gpu in np.flatnonzero(moment.throttled.heat & self._fleet.hardware.hot).tolist():
            self._hot_throttled_us.setdefault(gpu, moment.time_us)

    def faults(self, end_us: int) -> list[Fault]:
        """All of them up to the simulation's end: the standing ones first, then by start."""
        out = self._standing()
        for one in self._watched:
            if one.start_us < end_us:
                over = one.end_us if one.end_us is not None and one.end_us <= end_us else None
                subjects = _subjects(one.gpus, self._fleet.entries)
                kind = one.event.kind.name
                if kind == "false_name":
                    subjects += _victims(subjects, self._fleet.entries)
                out.append(
                    Fault(
                        kind, subjects, one.start_us, one.sign_us, one.throttle_us, over,
                        one.event.strength,
                    )
                )  # fmt: skip
        return out

    def _standing(self) -> list[Fault]:
        """What is wrong from the start: these sites are never without it."""
        fleet, start_us = self._fleet, self._fleet.start_us
        hardware = fleet.hardware
        faults = [
            Fault("node_silent", (Subject(fleet.entries[node].name),), start_us, start_us)
            for node in np.flatnonzero(hardware.dark).tolist()
        ]
        for kind, column in (("gpu_down", hardware.down), ("poor_cooling", hardware.hot)):
            for gpu in np.flatnonzero(column).tolist():
                subjects = _subjects(np.array([gpu]), fleet.entries)
                throttled_us = self._hot_throttled_us.get(gpu) if kind == "poor_cooling" else None
                faults.append(Fault(kind, subjects, start_us, start_us, throttled_us))
        return faults


def _victims(subjects: Sequence[Subject], entries: Sequence[InstalledNode]) -> tuple[Subject, ...]:
    """Those under whose names others send."""
    names = neighbours(entries)
    return tuple(Subject(names[one.node]) for one in subjects)


def _subjects(gpus: NDArray[np.intp], entries: Sequence[InstalledNode]) -> tuple[Subject, ...]:
    by_node: dict[int, list[int]] = {}
    for gpu in gpus.tolist():
        by_node.setdefault(gpu // GPUS_PER_NODE, []).append(gpu % GPUS_PER_NODE)
    return tuple(
        Subject(entries[node].name)
        if len(held) == GPUS_PER_NODE
        else Subject(entries[node].name, tuple(slot_text(entries[node].slots[i]) for i in held))
        for node, held in by_node.items()
    )
