"""What each fault does, seen in the records: one case per kind, none left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.record import NodeRecord
from collectors.contract.topics import Event
from collectors.contract.wire import parse
from collectors.simulator.faultlog import FaultLog
from collectors.simulator.faults import FAULTS, Family
from collectors.simulator.fleet import Fleet
from collectors.simulator.scenario import FaultEvent
from collectors.simulator.sites import make_site
from collectors.simulator.truth import Fault

START_US = 1_800_000_000_000_000
AT, LONG = 20, 120
"""Ticks before the fault, and ticks in all."""
WHERE = {"gpu": "a01n02/3", "node": "a01n02", "rack": "a01", "hall": "Hall A", "site": ""}
HIT, SPARED = "a01n02", "b01n01"


@dataclass
class Seen:
    """All that came of one run."""

    fleet: Fleet
    records: dict[str, list[NodeRecord]] = field(default_factory=dict[str, list[NodeRecord]])
    sent: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])
    events: list[Event] = field(default_factory=list[Event])
    gflop: float = 0.0
    fault: Fault | None = None

    def column(self, name: str, node: str = HIT, gpu: int = 3) -> list[float]:
        """A metric of one GPU over the records that carry it."""
        return [r.values[name][gpu] for r in self.records[node] if name in r.values]


def _event(name: str, **more: float) -> FaultEvent:
    kind = FAULTS[name]
    strength = more.get("strength", kind.strength.default if kind.strength else 0.0)
    for_s = more.get("for_s", 60.0)
    for_us = None if kind.lasts_s is None else int(for_s * 1e6)
    place = kind.scopes[0]
    return FaultEvent(kind, AT * 1_000_000, for_us, place, WHERE[place], strength)


def _run(*events: FaultEvent, ticks: int = LONG) -> Seen:
    fleet = Fleet(make_site("demo"), 4, START_US, faults=events)
    log, seen = FaultLog(fleet), Seen(fleet)
    for _ in range(ticks):
        tick = fleet.step()
        seen.events += tick.events
        for data in tick.records:
            record = parse(data)
            seen.records.setdefault(record.node, []).append(record)
            seen.sent.setdefault(record.node, []).append(data)
        assert fleet.moment is not None
        log.note(fleet.moment)
        seen.gflop += float(fleet.moment.truth.gflop.sum())
    named = [f for f in log.faults(START_US + ticks * 1_000_000) if f.kind in FAULTS]
    seen.fault = named[0] if named else None
    return seen


@pytest.fixture(scope="module")
def healthy() -> Seen:
    return _run()


def _hotter(seen: Seen, healthy: Seen) -> None:
    mine, theirs = seen.column("gpu_temperature_c"), healthy.column("gpu_temperature_c")
    assert mine[:AT] == theirs[:AT]
    assert max(np.subtract(mine, theirs)) >= 3
    spared = seen.column("gpu_temperature_c", SPARED)
    assert spared == healthy.column("gpu_temperature_c", SPARED)
    assert seen.fault is not None
    assert seen.fault.first_sign_us is not None
    assert seen.fault.first_sign_us >= START_US + AT * 1_000_000


def _braked(seen: Seen, _: Seen) -> None:
    brake = seen.column("throttle_power_brake_us")
    assert brake[AT] == 0
    loaded = [c for c in seen.column("sm_clock_mhz")[AT + 2 : AT + 60] if c > 400]
    assert loaded
    assert max(loaded) <= 0.5 * 1980
    assert 50e6 <= brake[-1] <= 61e6
    assert max(seen.column("throttle_power_brake_us", SPARED)) == 0
    assert 0x80 in {int(r) & 0x80 for r in seen.column("clocks_event_reasons")[AT + 2 : AT + 60]}


def _capped(seen: Seen, healthy: Seen) -> None:
    assert max(seen.column("power_w")[AT + 2 : AT + 60]) <= 0.5 * 700 * 1.05
    assert max(healthy.column("power_w")[AT + 2 : AT + 60]) > 0.5 * 700 * 1.05


def _ecc(seen: Seen, healthy: Seen) -> None:
    gained = seen.column("ecc_corrected")[-1] - healthy.column("ecc_corrected")[-1]
    assert 5 * 60 * 0.7 <= gained <= 5 * 60 * 1.3
    assert [event.code for event in seen.events] == [48]


def _remap(seen: Seen, healthy: Seen) -> None:
    assert seen.column("row_remap_failure")[-1] == seen.column("row_remap_pending")[-1] == 1
    assert healthy.column("row_remap_failure")[-1] == 0
    assert [event.code for event in seen.events] == [64]


def _xid(seen: Seen, healthy: Seen) -> None:
    [event] = seen.events
    assert (event.kind, event.code, event.node) == ("xid", 31, HIT)
    held = healthy.records[HIT][-1].labels or healthy.fleet.labels(1)
    assert held[3].occupant
    ends = [c for c in seen.records[HIT] if c.labels]
    assert any(not record.labels[3].occupant for record in ends)


def _off_bus(seen: Seen, healthy: Seen) -> None:
    assert [event.code for event in seen.events] == [79]
    power, down = seen.column("power_w"), seen.column("down_us")
    assert np.isnan(power[AT + 1 : AT + 59]).all()
    assert not np.isnan(power[: AT - 1]).any()
    assert not np.isnan(power[AT + 62 :]).any()
    assert 58e6 <= down[-1] <= 61e6
    energy = seen.column("energy_mj")
    assert energy[AT + 5] == COUNTER_ABSENT
    assert energy[-1] >= energy[AT - 1]
    assert not np.isnan(seen.column("power_w", gpu=2)).any()
    assert max(healthy.column("down_us")) == 0


def _hung(seen: Seen, healthy: Seen) -> None:
    assert np.isnan(seen.column("power_w")[AT + 1 : AT + 59]).all()
    assert 58e6 <= seen.column("down_us")[-1] <= 61e6
    # It works on, and its energy counter has counted when it can be read again.
    assert seen.gflop == pytest.approx(healthy.gflop, rel=1e-9)
    assert seen.column("energy_mj")[-1] == healthy.column("energy_mj")[-1]


def _dark(seen: Seen, healthy: Seen) -> None:
    mine, theirs = seen.records[HIT], healthy.records[HIT]
    assert len(theirs) - len(mine) == 60
    assert [record.sequence for record in mine] == [*range(AT + 1), *range(LONG - AT - 61)]
    last, first = mine[AT], mine[AT + 1]
    assert last.run != first.run
    assert last.energy_epochs != first.energy_epochs
    assert first.values["observed_us"][3] == 0
    assert first.values["energy_mj"][3] < last.values["energy_mj"][3]


def _crashed(seen: Seen, healthy: Seen) -> None:
    mine = seen.records[HIT]
    assert len(healthy.records[HIT]) - len(mine) == 20
    last, first = mine[AT], mine[AT + 1]
    assert last.run != first.run
    assert first.sequence == 0
    assert first.values["observed_us"][3] == first.values["active_us"][3] == 0
    assert first.energy_epochs == last.energy_epochs
    assert seen.column("energy_mj")[-1] == healthy.column("energy_mj")[-1]
    assert seen.gflop == pytest.approx(healthy.gflop, rel=1e-9)


Check = Callable[[Seen, Seen], None]
CASES: dict[str, tuple[FaultEvent, Check]] = {
    "rack_pump_failure": (_event("rack_pump_failure"), _hotter),
    "rack_cdu_failure": (_event("rack_cdu_failure"), _hotter),
    "rack_airflow_blocked": (_event("rack_airflow_blocked"), _hotter),
    "hot_inlet": (_event("hot_inlet"), _hotter),
    "cold_plate_fouling": (_event("cold_plate_fouling", strength=3.0), _hotter),
    "thermal_interface_ageing": (_event("thermal_interface_ageing", strength=3.0), _hotter),
    "fan_failure": (_event("fan_failure", strength=1.0), _hotter),
    "power_brake": (_event("power_brake"), _braked),
    "power_cap_lowered": (_event("power_cap_lowered", strength=0.5), _capped),
    "ecc_storm": (_event("ecc_storm"), _ecc),
    "row_remap_failure": (_event("row_remap_failure"), _remap),
    "xid": (_event("xid"), _xid),
    "gpu_off_bus": (_event("gpu_off_bus"), _off_bus),
    "driver_hung": (_event("driver_hung"), _hung),
    "node_dark": (_event("node_dark"), _dark),
    "rack_dark": (_event("rack_dark"), _dark),
    "agent_crash": (_event("agent_crash"), _crashed),
}
SLOW = {"cold_plate_fouling", "thermal_interface_ageing"}
"""They take days: their cases let them grow within a minute."""


@pytest.mark.parametrize("name", CASES)
def test_a_fault_does_what_it_says(name: str, healthy: Seen):
    event, check = CASES[name]
    if name in SLOW:
        kind = event.kind
        fast = type(kind)(
            kind.name, kind.family, kind.scopes, kind.strength, 60.0, 10.0, None, kind.help
        )
        event = FaultEvent(fast, event.at_us, 60_000_000, event.place, event.name, event.strength)
    seen = _run(event)
    check(seen, healthy)
    assert seen.fault is not None
    assert seen.fault.kind == name
    assert seen.fault.start_us == START_US + AT * 1_000_000


def test_every_kind_of_hardware_fault_has_a_case():
    assert set(CASES) == {k.name for k in FAULTS.values() if k.family is Family.HARDWARE}


def test_before_a_fault_nothing_is_changed_and_where_it_is_not_never(healthy: Seen):
    seen = _run(_event("rack_airflow_blocked", for_s=10))
    for node, sent in healthy.sent.items():
        assert seen.sent[node][: AT + 1] == sent[: AT + 1]
        assert (seen.sent[node] == sent) == (not node.startswith("a01"))


def test_what_throttled_before_a_cooling_fault_is_not_its_doing():
    event = FaultEvent(FAULTS["hot_inlet"], 2_000_000, None, "site", "", 8.0)
    fleet = Fleet(make_site("demo"), 1, START_US, faults=(event,))
    fleet.step()
    assert fleet.moment is not None
    log, still = FaultLog(fleet), fleet.moment
    for second, warmer_k, throttled in ((1, 0, [5]), (2, 0.5, [5]), (3, 3, [5]), (4, 3, [5, 9])):
        slowed = np.isin(np.arange(64), throttled)
        held = still.throttled._replace(heat=slowed)
        time_us = START_US + second * 1_000_000
        log.note(replace(still, time_us=time_us, throttled=held, warmer_k=np.full(64, warmer_k)))
    fault = next(f for f in log.faults(START_US + 5_000_000) if f.kind == "hot_inlet")
    assert fault.first_sign_us == START_US + 3_000_000
    assert fault.first_throttle_us == START_US + 4_000_000
