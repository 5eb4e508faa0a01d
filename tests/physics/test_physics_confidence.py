"""How sure a place is: against others only, not against names of the same GPUs."""

from __future__ import annotations

import numpy as np
from physics_world import World, layout, places, run

from pipeline.watch.physics.causes import Evidence, explain
from pipeline.watch.physics.detector import ThermalDetector


def test_the_only_rack_of_a_hall_is_told_surely_and_as_a_rack():
    world = World(layout(1))
    detector = ThermalDetector(world.floor)
    assert places(run(detector, world, 1_500)) == set()
    world.inlet_c += 6.0
    (one,) = run(detector, world, 30)[-1].findings
    assert (one.scope, one.cause) == ("rack", "rack_cooling")
    assert one.confidence > 0.9


def test_the_only_node_that_is_known_is_not_told_as_its_rack_or_hall():
    floor = layout(2).places
    ok = np.zeros(64, np.bool_)
    ok[8:16] = True
    warmer, rise_c = np.full(64, 6.0, np.float32), np.full(64, 20.0, np.float32)
    one = explain(floor, Evidence(warmer, np.ones(64, np.float32), rise_c, ok), 0, "site")
    assert (one.scope, one.place) == ("node", 1)
    assert one.certainty > 0.9


def test_places_of_like_gain_are_unsure():
    """Is it a node, or its rack of two nodes, of which the other is warm by less?"""
    floor = layout(2, nodes=2).places
    rise_c, ok = np.full(32, 20.0, np.float32), np.ones(32, np.bool_)
    variance = np.full(32, 1.0, np.float32)
    sure: list[float] = []
    for other_c in (0.0, 1.0, 1.6, 3.0):
        warmer = np.repeat(np.array([3.0, other_c, 0.0, 0.0], np.float32), 8)
        sure.append(explain(floor, Evidence(warmer, variance, rise_c, ok), 0, "site").certainty)
    assert min(sure) < 0.9 < sure[0]
    assert sure[-1] > 0.9
    assert all(0.5 <= one <= 0.991 for one in sure)
