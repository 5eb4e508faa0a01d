"""What holds for any seed and any faults: nothing is lost, nothing falls, both truths agree."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Reset
from collectors.contract.topics import dumps
from collectors.contract.wire import parse
from collectors.simulator.faults import FAULTS, Family, FaultKind
from collectors.simulator.fleet import Fleet
from collectors.simulator.meter import PhysicalMeter
from collectors.simulator.observable import ObservableTruth
from collectors.simulator.oracle import Oracle
from collectors.simulator.scenario import FaultEvent
from collectors.simulator.sites import make_site
from collectors.simulator.telemetry import Telemetry
from collectors.simulator.truth import PhysicalTruth

Counters = npt.NDArray[np.uint64]
SITE = make_site("demo")
ENTRIES = SITE.at(0)
HOUR_US = 3_600_000_000
START_US = 500_000 * HOUR_US - 60_000_000
TICKS = 150
EXACT = ("late", "reordered", "duplicated", "sensor_stuck", "sensor_spike")
"""Telemetry faults that cost the bill nothing."""


@st.composite
def _events(draw: st.DrawFn, kinds: tuple[FaultKind, ...]) -> FaultEvent:
    kind = draw(st.sampled_from(kinds))
    place = draw(st.sampled_from(kind.scopes))
    entry = draw(st.sampled_from(ENTRIES))
    name = {
        "gpu": f"{entry.name}/{draw(st.integers(0, 7))}", "node": entry.name, "rack": entry.rack,
        "hall": entry.hall, "site": "",
    }[place]  # fmt: skip
    strength = 0.0
    if kind.strength is not None:
        low, high = max(kind.strength.low, -100.0), min(kind.strength.high, 120.0)
        strength = float(draw(st.integers(round(low * 10), round(high * 10)))) / 10
        strength = min(max(strength, kind.strength.low), kind.strength.high)
    at_us = draw(st.integers(0, TICKS * 1_000_000))
    for_us = None if kind.lasts_s is None else draw(st.integers(0, 90_000_000))
    return FaultEvent(kind, at_us, for_us, place, name, strength)


def _kinds(*families: Family) -> tuple[FaultKind, ...]:
    return tuple(kind for kind in FAULTS.values() if kind.family in families)


def _run(seed: int, events: list[FaultEvent]) -> tuple[PhysicalTruth, ObservableTruth, list[bytes]]:
    fleet, oracle = Fleet(SITE, seed, START_US, faults=events), Oracle(SITE)
    telemetry = Telemetry(events, fleet.entries, seed, START_US)
    meter = PhysicalMeter(fleet, seed)
    records: list[bytes] = []
    for number in range(TICKS):
        tick = fleet.step()
        meter.note(tick)
        for allocation in tick.allocations:
            oracle.add_allocation(dumps(allocation))
        out = telemetry.through(tick, START_US + (number + 1) * 1_000_000)
        for one in [*out, *(telemetry.rest() if number == TICKS - 1 else ())]:
            records.append(one.record)
            oracle.add_record(one.record, one.arrival_us)
    return meter.finish(), oracle.finish(), records


@settings(max_examples=12)
@given(
    st.integers(0, 1_000), st.lists(_events(_kinds(Family.HARDWARE, Family.TELEMETRY)), max_size=6)
)
def test_owners_and_states_sum_to_what_is_installed(seed: int, events: list[FaultEvent]) -> None:
    physical, observable, _ = _run(seed, events)
    held: dict[int, int] = {}
    for row in physical.rows:
        assert min(row.gpu_us, row.active_us, row.down_us, row.throttled_us) >= 0
        held[row.hour] = held.get(row.hour, 0) + row.gpu_us
    assert held == {499_999: 64 * 60_000_000, 500_000: 64 * (TICKS - 60) * 1_000_000}
    for hour in observable.by_hour().values():
        states = ("active_us", "idle_us", "down_us", "unobserved_us")
        assert sum(hour[name] for name in states) == 64 * HOUR_US


@settings(max_examples=8)
@given(st.integers(0, 1_000), st.lists(_events(_kinds(Family.HARDWARE)), max_size=5))
def test_counters_fall_only_where_their_epoch_begins_anew(
    seed: int, events: list[FaultEvent]
) -> None:
    fleet = Fleet(SITE, seed, START_US, faults=events)
    before: dict[tuple[str, str], tuple[Counters, Counters]] = {}
    for _ in range(TICKS):
        for data in fleet.step().records:
            record = parse(data)
            for metric in CATALOGUE.counters:
                if metric.name not in record.values:
                    continue
                value = np.asarray(record.values[metric.name], np.uint64)
                said = record.run if metric.reset is Reset.RUN else record.energy_epochs
                epoch = np.broadcast_to(np.asarray(said, np.uint64), value.shape)
                key = (record.node, metric.name)
                last_epoch, last = before.get(key, (epoch, np.zeros_like(value)))
                is_there = value != COUNTER_ABSENT
                assert (value >= last)[is_there & (epoch == last_epoch)].all(), metric.name
                before[key] = (
                    np.where(is_there, epoch, last_epoch), np.where(is_there, value, last)
                )  # fmt: skip


@settings(max_examples=6)
@given(st.integers(0, 1_000), st.lists(_events(_kinds(Family.HARDWARE)), max_size=4))
def test_energy_is_the_integral_of_power_and_flop_of_activity(
    seed: int, events: list[FaultEvent]
) -> None:
    fleet = Fleet(SITE, seed, START_US, faults=events)
    energy_j = gflop = told_j = 0.0
    before: dict[tuple[str, int], tuple[int, int, int]] = {}
    gaps: set[tuple[str, int]] = set()
    for _ in range(TICKS):
        for data in fleet.step().records:
            record = parse(data)
            for gpu, energy in enumerate(record.values["energy_mj"]):
                key, power = (record.node, gpu), record.values["power_w"][gpu]
                seen = before.get(key)
                if energy == COUNTER_ABSENT:
                    gaps.add(key)
                    continue
                epoch = record.energy_epochs[gpu]
                step_us = record.time_us - seen[2] if seen is not None else 0
                if seen is not None and seen[0] == epoch and key not in gaps and step_us < 2e6:
                    gained = (energy - seen[1]) / 1000
                    assert abs(gained - power * step_us / 1e6) < 0.003
                    told_j += gained
                gaps.discard(key)
                before[key] = (epoch, int(energy), record.time_us)
        assert fleet.moment is not None
        truth = fleet.moment.truth
        assert (truth.gflop >= 0).all()
        energy_j += float(truth.energy_mj.sum()) / 1000
        gflop += float(truth.gflop.sum())
    assert told_j <= energy_j * (1 + 1e-9)
    assert gflop > 0


@settings(max_examples=6)
@given(st.integers(0, 1_000), st.lists(_events(tuple(FAULTS[name] for name in EXACT)), max_size=4))
def test_what_can_be_seen_is_within_its_bounds_of_what_happened(
    seed: int, events: list[FaultEvent]
) -> None:
    physical, observable, records = _run(seed, events)
    silent = {s.node for f in physical.faults if f.kind == "node_silent" for s in f.subjects}
    assert not silent
    totals = observable.totals()
    gflop = sum(row.gflop for row in physical.rows)
    assert totals["gflop_lo"] <= gflop * 1.002
    assert gflop * 0.998 <= totals["gflop_hi"]
    energy = sum(row.energy_mj for row in physical.rows)
    down = sum(f.kind == "gpu_down" for f in physical.faults)
    # A GPU off the bus draws power that nobody can read.
    assert abs(totals["energy_mj"] - energy) <= energy * 0.01 + down * 700 * TICKS * 1000
    assert len(records) >= TICKS * 8


def _digest(ticks: int) -> str:
    fleet = Fleet(SITE, 7, START_US, faults=[])
    digest = hashlib.blake2b()
    for _ in range(ticks):
        for record in fleet.step().records:
            digest.update(record)
    return digest.hexdigest()


def test_another_process_gives_the_same_bytes() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/simulator');"
        "from test_simulator_laws import _digest; print(_digest(40))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert other == _digest(40)


def test_faults_elsewhere_leave_a_node_s_bytes_alone() -> None:
    kind = FAULTS["rack_airflow_blocked"]
    event = FaultEvent(kind, 5_000_000, 30_000_000, "rack", "a01", 0.5)
    one, other = Fleet(SITE, 7, START_US), Fleet(SITE, 7, START_US, faults=[event])
    compared = 0
    for _ in range(40):
        first, second = one.step(), other.step()
        pairs = dict(zip(first.nodes, first.records, strict=True))
        for node, record in zip(second.nodes, second.records, strict=True):
            if node.startswith("b"):
                assert pairs[node] == record
                compared += 1
    assert compared == 40 * 4
