"""How little is enough for a sudden fault to be told, and what is not enough."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from physics_world import World, layout, places

from pipeline.watch.physics.detector import Derived, Readings, ThermalDetector
from pipeline.watch.physics.tally import Tally

Learnt = tuple[World, ThermalDetector]
NODE = slice(40, 48)


@pytest.fixture(scope="module")
def learnt_once() -> Learnt:
    world = World(layout(2))
    detector = ThermalDetector(world.floor)
    for _ in range(2_400):
        detector.update(world.time_us + 1, world.tick())
    return world, detector


@pytest.fixture
def learnt(learnt_once: Learnt) -> Learnt:
    """A world and who has learnt it for forty minutes, for each test anew."""
    return deepcopy(learnt_once)


def warmer(said: Readings, gpus: slice, more_c: float) -> Readings:
    """The same with some GPUs' temperature raised."""
    core = said.temperature_c.copy()
    core[gpus] += np.float32(more_c)
    return said._replace(temperature_c=core)


def told_after(learnt: Learnt, gpus: slice, more_c: float) -> tuple[int, set[tuple[str, int, str]]]:
    """How many samples of something it takes to be told, and of whom."""
    world, detector = learnt
    for nth in range(1, 31):
        made = detector.update(world.time_us + 1, warmer(world.tick(), gpus, more_c))
        if made.findings:
            return nth, places([made])
    return 0, set()


@pytest.mark.parametrize("gpus", [slice(50, 51), NODE])
@pytest.mark.parametrize("more_c", [8.0, 20.0, -20.0])
def test_a_single_sample_that_is_off_is_no_fault(learnt: Learnt, gpus: slice, more_c: float):
    world, detector = learnt
    made: list[Derived] = []
    for tick in range(120):
        off_c = more_c if tick % 40 == 7 else 0.0
        made.append(detector.update(world.time_us + 1, warmer(world.tick(), gpus, off_c)))
    assert places(made) == set()


@pytest.mark.parametrize(
    ("gpus", "scope", "index"), [(slice(50, 51), "gpu", 50), (NODE, "node", 5)]
)
def test_the_stronger_a_fault_the_fewer_samples_it_takes(
    learnt: Learnt, gpus: slice, scope: str, index: int
):
    strong, found = told_after(deepcopy(learnt), gpus, 20.0)
    assert {one[:2] for one in found} == {(scope, index)}
    weak, found = told_after(learnt, gpus, 10.0)
    assert {one[:2] for one in found} == {(scope, index)}
    assert 2 <= strong <= 3
    assert strong <= weak <= 10


def test_readings_that_stand_still_are_no_fault(learnt: Learnt):
    """A driver that repeats its last answer, through several steps of load."""
    world, detector = learnt
    last = world.tick()
    made: list[Derived] = []
    for _ in range(240):
        said = world.tick()
        power, core = said.power_w.copy(), said.temperature_c.copy()
        power[50], core[50] = last.power_w[50], last.temperature_c[50]
        said = said._replace(power_w=power, temperature_c=core)
        made.append(detector.update(world.time_us + 1, said))
    assert places(made) == set()


SIGMAS = st.lists(st.floats(-50, 1e6, width=32), min_size=1, max_size=30)


@given(SIGMAS, st.sampled_from((0.4, 0.8)))
@settings(max_examples=60, deadline=None)
def test_evidence_adds_up_from_more_than_one_sample(sigmas: list[float], sample: float):
    tally = Tally(2, 5.0, 3.0, sample)
    told = np.ones(2, np.bool_)
    before = 0.0
    for one in sigmas:
        part = tally.add(np.array([one, one + 1], np.float32), told)
        assert part[0] - before < 1, "no sample is enough by itself"
        assert part[0] <= part[1], "more sigmas are no less evidence"
        assert part[0] >= 0
        if one < 5:
            assert part[0] <= before
        before = float(part[0])


def test_who_says_nothing_keeps_what_was_said():
    tally = Tally(2, 5.0, 3.0)
    tally.add(np.array([9.0, 9.0], np.float32), np.ones(2, np.bool_))
    before = tally.part.copy()
    tally.add(np.array([9.0, -9.0], np.float32), np.array([True, False]))
    assert tally.part[0] > before[0]
    assert tally.part[1] == before[1]
    tally.drop(np.array([True, False]))
    assert tally.part.tolist() == [0.0, before[1]]
