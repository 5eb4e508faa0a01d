"""The model learns what a GPU's cooler is like, and is not told by what it cannot know."""

from __future__ import annotations

import numpy as np
import pytest
from physics_world import START_US, World, layout, places, run

from pipeline.watch.physics.detector import ThermalDetector
from pipeline.watch.physics.saving import StateError, pack, unpack


def test_resistance_and_expected_temperature_are_learnt_within_half_an_hour():
    world = World(layout())
    detector = ThermalDetector(world.floor)
    last = run(detector, world, 1_800)[-1]
    assert np.allclose(last.thermal_resistance_c_per_w, world.resistance, rtol=0.15)
    assert np.sqrt(np.mean(last.thermal_residual_c**2)) < 0.7
    assert np.nanmedian(last.thermal_resistance_ratio) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("step_s", [1.0, 5.0])
def test_a_fleet_whose_load_jumps_has_no_findings(step_s: float):
    world = World(layout(), step_s=step_s)
    detector = ThermalDetector(world.floor)
    assert places(run(detector, world, 3_600)) == set()


def test_what_is_silent_has_no_expected_temperature_and_comes_back_without_a_finding():
    world = World(layout(2), step_s=5.0)
    detector = ThermalDetector(world.floor)
    run(detector, world, 1_800)
    silent = np.arange(world.floor.gpus) < 8
    for _ in range(60):
        made = detector.update(world.time_us + 1, world.tick(silent))
        unknown = np.isnan(made.expected_temperature_c)
        assert np.array_equal(unknown, silent)
    assert places(run(detector, world, 900)) == set()


def test_a_steadily_hotter_gpu_is_an_outlier_and_no_fault():
    world = World(layout(2), step_s=5.0)
    world.inlet_c[5] += 20.0
    detector = ThermalDetector(world.floor)
    assert places(run(detector, world, 3_600)) == {("gpu", 5, "outlier")}


def test_time_goes_forward():
    world = World(layout(1))
    detector = ThermalDetector(world.floor)
    said = world.tick()
    detector.update(START_US, said)
    with pytest.raises(ValueError, match="forward"):
        detector.update(START_US, said)


def test_saved_state_goes_on_as_if_nothing_had_been():
    world, twin = World(layout(2), step_s=5.0), World(layout(2), step_s=5.0)
    detector, restored = ThermalDetector(world.floor), ThermalDetector(world.floor)
    run(detector, world, 1_500)
    run(ThermalDetector(world.floor), twin, 1_500)
    world.factor[:8] = twin.factor[:8] = 2.0
    run(detector, world, 120)
    run(ThermalDetector(world.floor), twin, 120)
    restored.restore(detector.save())
    for ours, theirs in zip(run(detector, world, 300), run(restored, twin, 300), strict=True):
        assert [one.text for one in ours.findings] == [one.text for one in theirs.findings]
        assert np.array_equal(
            ours.expected_temperature_c, theirs.expected_temperature_c, equal_nan=True
        )


def test_another_fleets_state_is_refused():
    data = ThermalDetector(layout(2)).save()
    with pytest.raises(StateError, match="another fleet"):
        ThermalDetector(layout(3)).restore(data)
    with pytest.raises(StateError, match="no state"):
        ThermalDetector(layout(2)).restore(data[: len(data) // 2])


def test_a_state_of_another_version_is_refused_whole():
    floor = layout(2)
    data = ThermalDetector(floor).save()
    older = unpack(data, floor.name)
    del older["drift"][min(older["drift"])]
    detector = ThermalDetector(floor)
    with pytest.raises(StateError, match=r"another version.*drift/"):
        detector.restore(pack(older, floor.name))
    assert detector.save() == ThermalDetector(floor).save()
