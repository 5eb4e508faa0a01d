"""Faults are found while temperatures are legal, and named by who is affected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from physics_world import World, layout, places, run

from pipeline.watch.physics.detector import ThermalDetector
from pipeline.watch.physics.findings import Finding

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
    assert [(one.scope, one.index, len(one.gpus)) for one in made.findings] == [("node", 0, 4)]


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
