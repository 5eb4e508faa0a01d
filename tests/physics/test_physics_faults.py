"""Faults are found while temperatures are legal, and named by who is affected."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from physics_world import START_US, World, layout, places, run

from pipeline.watch.physics.changes import Change, Changes
from pipeline.watch.physics.detector import Derived, ThermalDetector
from pipeline.watch.physics.findings import Finding
from pipeline.watch.physics.settings import PhysicsSettings

LEARNT_S = 2_400.0


@pytest.mark.parametrize(
    ("scope", "index", "gpus", "cause"),
    [
        ("rack", 1, slice(32, 64), "rack_cooling"),
        ("node", 5, slice(40, 48), "node_cooling"),
        ("gpu", 50, slice(50, 51), "gpu_interface"),
    ],
)
def test_a_worse_cooler_is_found_and_named_by_whom_it_hits(
    scope: str, index: int, gpus: slice, cause: str
):
    world = World(layout())
    detector = ThermalDetector(world.floor)
    assert places(run(detector, world, LEARNT_S)) == set()
    world.factor[gpus] = 1.6
    assert places(run(detector, world, 30)) == {(scope, index, cause)}
    world.factor[gpus] = 1.0
    assert run(detector, world, 600)[-1].findings == []


@pytest.mark.parametrize(
    ("gpus", "found"), [(8, ("node", 0, "node_cooling")), (1, ("gpu", 0, "gpu_interface"))]
)
def test_a_node_that_is_all_there_is_shows_against_its_own_past(
    gpus: int, found: tuple[str, int, str]
):
    """Nothing else says whether it is the node, the rack or the hall: the narrowest is told."""
    world = World(layout(1, 1, gpus), step_s=30.0)
    detector = ThermalDetector(world.floor)
    assert places(run(detector, world, 43_200)) == set()
    made: list[Derived] = []
    for _ in range(48):
        world.factor += 0.01
        made += run(detector, world, 300)
    assert places(made) == {found}


def test_a_warm_hall_is_no_single_racks_fault():
    world = World(layout(6, 2))
    detector = ThermalDetector(world.floor)
    run(detector, world, LEARNT_S)
    found: set[str] = set()
    for _ in range(60):
        world.inlet_c += 0.1
        found |= {one.scope for one in run(detector, world, 1)[0].findings}
    assert found == {"hall"}


def test_a_measured_inlet_tells_warm_supply_from_poor_flow():
    for warm, cause in ((True, "rack_inlet"), (False, "rack_cooling")):
        world = World(layout())
        detector = ThermalDetector(world.floor)
        made: list[Finding] = []
        for tick in range(int(LEARNT_S) + 60):
            rise = max(0.0, min(8.0, (tick - LEARNT_S) * 0.3)) if warm else 0.0
            world.inlet_c[:32] = 22.0 + rise
            if tick == LEARNT_S and not warm:
                world.factor[:32] = 1.5
            inlet = np.full(4, 22.0, np.float32)
            inlet[0] += rise
            said = world.tick()._replace(inlet_c=inlet)
            made = detector.update(world.time_us, said).findings
        assert [(one.scope, one.index, one.cause) for one in made] == [("rack", 0, cause)]


def test_a_creeping_interface_is_found_long_before_it_is_hot():
    world = World(layout(2), step_s=20.0)
    detector = ThermalDetector(world.floor)
    run(detector, world, 6 * 3_600)
    found: set[tuple[str, int, str]] = set()
    for hour in range(10):
        world.factor[9] = 1 + 0.06 * hour
        found |= places(run(detector, world, 3_600))
    assert found == {("gpu", 9, "gpu_interface")}


def test_the_power_brake_is_told_at_once_of_the_widest_place():
    world = World(layout(2))
    detector = ThermalDetector(world.floor)
    said = world.tick()
    braked = np.zeros(world.floor.gpus, np.float32)
    braked[:32] = 900_000
    made = detector.update(world.time_us, said._replace(brake_us_per_s=braked))
    assert [(one.scope, one.index, one.cause) for one in made.findings] == [
        ("rack", 0, "power_brake")
    ]
    braked[4:32] = 0
    made = detector.update(world.time_us + 1, said._replace(brake_us_per_s=braked))
    assert [(one.scope, one.index, len(one.gpus)) for one in made.findings] == [("rack", 0, 4)]
    braked[:] = 0
    assert detector.update(world.time_us + 2, said._replace(brake_us_per_s=braked)).findings == []


def test_a_braked_node_elsewhere_leaves_a_braked_rack_what_it_is():
    world = World(layout(3))
    detector = ThermalDetector(world.floor)
    said = world.tick()
    braked = np.zeros(world.floor.gpus, np.float32)
    for first, last, found in (
        (0, 32, {("rack", 0)}),
        (40, 48, {("rack", 0), ("node", 5)}),
        (48, 64, {("rack", 0), ("rack", 1)}),
    ):
        braked[first:last] = 900_000
        world.time_us += 1_000_000
        made = detector.update(world.time_us, said._replace(brake_us_per_s=braked))
        assert {(one.scope, one.index) for one in made.findings} == found
    restored = ThermalDetector(world.floor)
    restored.restore(detector.save())
    made = restored.update(world.time_us + 1, said._replace(brake_us_per_s=braked))
    assert [one.since_us for one in made.findings] == [START_US + 2_000_000, START_US + 3_000_000]


def test_a_fault_that_ends_is_one_finding_with_one_end():
    world = World(layout())
    detector = ThermalDetector(world.floor)
    run(detector, world, 1_500)
    world.factor[32:64], world.inlet_c[32:64] = 1.3, 28.0
    seen = [run(detector, world, 300)]
    world.factor[32:64], world.inlet_c[32:64] = 1.0, 23.0
    seen.append(run(detector, world, 600))
    told = [{(one.scope, one.index) for one in made.findings} for made in (*seen[0], *seen[1])]
    begins = [now - before for before, now in pairwise([set[tuple[str, int]](), *told])]
    assert [one for one in begins if one] == [{("rack", 1)}]
    assert told[299] == {("rack", 1)}
    assert told[-1] == set()


@given(st.permutations(range(8)), st.permutations(range(4)))
@settings(max_examples=12, deadline=None)
def test_how_gpus_of_a_node_and_nodes_of_a_rack_are_numbered_does_not_matter(
    gpus: list[int], nodes: list[int]
):
    """Of what a rack's GPUs show, the same is added up in whatever order."""
    rng = np.random.default_rng(5)
    floor = layout(2)
    order = np.concatenate(
        [[node * 8 + gpu for node in nodes for gpu in gpus], np.arange(32, 64)]
    ).astype(np.intp)
    straight, mixed = (Changes(floor.places, PhysicsSettings(warm_up_s=3.0)) for _ in range(2))
    found: list[dict[str, Change]] = []
    for tick in range(12):
        residual = rng.normal(0.0, 0.3, 64).astype(np.float32)
        residual[:32] += np.float32(0.5 * max(0, tick - 7))
        rise = rng.uniform(5, 30, 64).astype(np.float32)
        ok, held, gap = np.ones(64, np.bool_), np.zeros(64, np.bool_), np.zeros(64, np.float32)
        known = np.full(64, 0.001, np.float32)
        found = []
        for changes, by in ((straight, np.arange(64)), (mixed, order)):
            changes.follow(residual[by], rise[by], ok, 1.0, held)
            found.append(changes.measure(rise[by], known, gap, ok, 1.0, held))
    one, two = found
    inverse = np.argsort(nodes)
    assert np.allclose(two["node"].sigmas[:4][inverse], one["node"].sigmas[:4], rtol=1e-3)
    for scope in ("rack", "hall", "site"):
        assert np.allclose(two[scope].offset_c, one[scope].offset_c, atol=1e-4)
        assert np.allclose(two[scope].sigmas, one[scope].sigmas, rtol=1e-3, atol=1e-3)
    assert one["rack"].sigmas[0] > 1


def test_the_order_of_gpus_does_not_matter():
    floor = layout(2)
    order = np.random.default_rng(3).permutation(floor.gpus)
    mixed = replace(
        floor, node=floor.node[order], rack=floor.rack[order], hall=floor.hall[order],
        model=floor.model[order],
    )  # fmt: skip
    world = World(floor, step_s=5.0)
    straight, other = ThermalDetector(floor), ThermalDetector(mixed)
    found: list[Finding] = []
    for tick in range(520):
        world.factor[:8] = 1.0 if tick < 500 else 1.8
        said = world.tick()
        moved = said._replace(
            **{
                name: column[order]
                for name, column in said._asdict().items() if len(column) == floor.gpus
            }
        )  # fmt: skip
        one, two = (d.update(world.time_us, s) for d, s in ((straight, said), (other, moved)))
        assert [(f.scope, f.index, f.cause) for f in one.findings] == [
            (f.scope, f.index, f.cause) for f in two.findings
        ]
        found = one.findings
        expected = one.expected_temperature_c[order]
        assert np.allclose(expected, two.expected_temperature_c, atol=0.05, equal_nan=True)
    assert found
