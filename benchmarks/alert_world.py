"""Random faults of a simulated site, driven as arrays: what was injected, and what detectors see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.inventory import InstalledNode
from collectors.contract.topics import Allocation, Event, FacilityReading
from collectors.simulator.faultlog import FaultLog
from collectors.simulator.faults import FAULTS
from collectors.simulator.fleet import Fleet, Tick
from collectors.simulator.scenario import FaultEvent, gpus_of
from collectors.simulator.sites import make_site
from collectors.simulator.truth import Fault
from pipeline.watch.layout import FleetLayout
from pipeline.watch.physics.detector import Readings

SITE = "aisc-phase2"
START_US = 1_800_000_000_000_000
HOUR_S, DAY_S = 3_600.0, 86_400.0
Bools = NDArray[np.bool_]
Rng = np.random.Generator
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Kind:
    """What may be drawn: its odds, places, strengths, and how long it grows, in s (None: as it
    does)."""

    fault: str
    odds: float
    places: tuple[str, ...]
    strength: tuple[float, float]
    grows_s: tuple[float, float] | None = None


FAST = (
    Kind("rack_pump_failure", 3, ("rack",), (0.3, 1.0)),
    Kind("rack_cdu_failure", 2, ("rack",), (12.0, 35.0)),
    Kind("rack_airflow_blocked", 2, ("rack",), (0.25, 1.5)),
    Kind("fan_failure", 3, ("node",), (0.2, 1.5)),
    Kind("power_brake", 2, ("node", "rack"), (0.3, 0.8)),
)
SLOW = (
    Kind("cold_plate_fouling", 3, ("node", "gpu"), (0.3, 2.0), (0.4 * DAY_S, 2 * DAY_S)),
    Kind("thermal_interface_ageing", 3, ("gpu",), (0.4, 2.0), (0.4 * DAY_S, 2 * DAY_S)),
    Kind("hot_inlet", 2, ("rack",), (6.0, 30.0), (6 * HOUR_S, 2 * DAY_S)),
)
WIDE = (Kind("hot_inlet", 1, ("hall", "hall", "site"), (6.0, 30.0), (6 * HOUR_S, DAY_S)),)
"""What hits so much that nothing else can be in the same run."""


class World(Fleet):
    """A fleet whose records nobody sends: its columns are read as arrays."""

    def _records(
        self,
        time_us: I64,
        allocations: list[Allocation],
        events: list[Event],
        facility: list[FacilityReading],
    ) -> Tick:
        del time_us  # records carry it, arrays do not
        return Tick(self._tick, [], [], [], allocations, events, facility)


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault with what it hits: its truth, the sorted GPUs, and the place's name."""

    event: FaultEvent
    truth: Fault
    gpus: NDArray[np.intp]


class Run:
    """A site over some time, tick by tick, with faults and their truth.

    `silent` is the share of samples that are lost, by GPU; `inlet` whether racks
    have sensors.
    """

    def __init__(
        self, seed: int, step_s: float, faults: Sequence[FaultEvent] = (), *,
        silent: float = 0.0, inlet: bool = False, site: str = SITE,
    ) -> None:  # fmt: skip
        inventory = make_site(site)
        self.step_us = round(step_s * 1e6)
        self.layout = FleetLayout.of(inventory, START_US)
        self.world = World(inventory, seed, START_US, step_s, faults)
        self.entries: Sequence[InstalledNode] = self.world.entries
        self._log = FaultLog(self.world)
        self._rng = np.random.default_rng([seed, 77])
        self._silent, self._inlet = silent, inlet
        self._inlet_c = np.full(len(self.layout.racks), np.nan, np.float32)
        self._braked_us: NDArray[np.int64] | None = None
        self.time_us = START_US - self.step_us

    def ticks(self, seconds: float) -> Iterator[Readings]:
        """What the GPUs say, for so long."""
        for _ in range(round(seconds * 1e6 / self.step_us)):
            tick = self.world.step()
            if self.world.moment is not None:
                self._log.note(self.world.moment)
            self.time_us += self.step_us
            yield self._readings(tick)

    def _readings(self, tick: Tick) -> Readings:
        columns: dict[str, Any] = self.world.physics.columns
        gpus = len(columns["power_w"])
        for reading in tick.facility if self._inlet else ():
            rack = next(at for at, (_, name) in enumerate(self.layout.racks) if name == reading.place)  # fmt: skip
            self._inlet_c[rack] = reading.value
        absent = np.full(gpus, np.nan, np.float32)
        fresh = self._rng.random(gpus, np.float32) >= self._silent
        return Readings(
            columns["power_w"], columns["gpu_temperature_c"], columns["memory_temperature_c"],
            columns["thermal_margin_c"], self._inlet_c, absent, self._brake(columns),
            columns["sm_clock_mhz"], columns["gpu_utilization"], fresh,
        )  # fmt: skip

    def _brake(self, columns: dict[str, Any]) -> NDArray[np.float32]:
        counter = columns["throttle_power_brake_us"].astype(np.int64)
        before, self._braked_us = self._braked_us, counter
        rise = np.zeros(len(counter)) if before is None else np.maximum(counter - before, 0)
        return (rise / (self.step_us / 1e6)).astype(np.float32)

    def injected(self) -> list[Injected]:
        """The faults up to now, with their truth."""
        truths = self._log.faults(self.time_us)
        out: list[Injected] = []
        for event in self.world.faults:
            start_us = START_US + event.at_us
            gpus = np.array(gpus_of(event, self.entries), np.intp)
            first = self.entries[int(gpus[0]) // 8].name
            truth = next(
                one for one in truths
                if one.start_us == start_us and one.kind == event.kind.name
                and one.subjects[0].node == first and one.strength == event.strength
            )  # fmt: skip
            out.append(Injected(event, truth, gpus))
        return out


def draw(
    rng: Rng, kinds: Sequence[Kind], entries: Sequence[InstalledNode], count: int,
    window_s: tuple[float, float], lasts_s: tuple[float, float] | None,
) -> list[FaultEvent]:  # fmt: skip
    """Faults at random times and places, no two in one rack."""
    racks = rng.permutation(sorted({entry.rack for entry in entries})).tolist()[:count]
    odds = np.array([kind.odds for kind in kinds])
    return [
        _event(rng, kinds[int(rng.choice(len(kinds), p=odds / odds.sum()))], entries, rack,
               window_s, lasts_s)
        for rack in racks
    ]  # fmt: skip


def _event(
    rng: Rng, kind: Kind, entries: Sequence[InstalledNode], rack: str,
    window_s: tuple[float, float], lasts_s: tuple[float, float] | None,
) -> FaultEvent:  # fmt: skip
    place = str(rng.choice(kind.places))
    inside = [entry for entry in entries if entry.rack == rack]
    node = inside[int(rng.integers(len(inside)))]
    name = {
        "gpu": f"{node.name}/{int(rng.integers(8))}", "node": node.name, "rack": rack,
        "hall": node.hall, "site": "",
    }[place]  # fmt: skip
    low, high = kind.strength
    strength = low * (high / low) ** float(rng.random())
    over_us = None if kind.grows_s is None else round(float(rng.uniform(*kind.grows_s)) * 1e6)
    for_us = None if lasts_s is None else round(float(rng.uniform(*lasts_s)) * 1e6)
    at_us = round(float(rng.uniform(*window_s)) * 1e6)
    return FaultEvent(FAULTS[kind.fault], at_us, for_us, place, name, strength, over_us)
