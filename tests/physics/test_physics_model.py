"""What is learnt on line stays of the size that coolers have, however long it is learnt."""

from __future__ import annotations

import numpy as np
from physics_world import World, layout, places, run

from pipeline.watch.physics.detector import ThermalDetector
from pipeline.watch.physics.model import HeatModel
from pipeline.watch.physics.settings import PhysicsSettings


def test_lags_that_say_the_same_for_days_do_not_run_away():
    gpus, step_s, rng = 8, 30.0, np.random.default_rng(1)
    model = HeatModel(np.zeros(gpus, np.intp), PhysicsSettings())
    everyone = np.ones(gpus, np.bool_)
    unknown = np.zeros(gpus, np.float32)
    for tick in range(3_000):
        power_w = np.full(gpus, 680.0 if tick % 40 < 20 else 70.0)
        power_w = (power_w * rng.normal(1.0, 0.01, gpus)).astype(np.float32)
        model.observe(power_w, step_s, everyone)
        core_c = np.asarray(np.round(22 + 0.06 * power_w), np.float32)
        residual_c = core_c - model.theta[0] - model.rise()
        counts = everyone.astype(np.float32)
        model.learn(core_c, residual_c, unknown, counts, step_s)
    assert np.abs(model.theta[1:]).max() < 10
    assert np.allclose(model.resistance, 0.06, rtol=0.02)
    assert np.allclose(model.theta[0], 22, atol=0.5)


def test_a_rack_is_named_although_one_of_its_gpus_never_spoke():
    world = World(layout(4, 2), step_s=60.0)
    detector = ThermalDetector(world.floor)
    silent = np.arange(world.floor.gpus) == 3
    found: set[tuple[str, int, str]] = set()
    for tick in range(720):
        if tick > 360:
            world.inlet_c[:16] += 1 / 60
        said = world.tick(silent)
        made = detector.update(world.time_us, said).findings
        found |= {(one.scope, one.index, one.cause) for one in made}
    assert found == {("rack", 0, "rack_cooling")}


def test_quiet_days_of_a_small_site_have_no_findings():
    world = World(layout(2, 2), step_s=60.0)
    detector = ThermalDetector(world.floor)
    found = places(run(detector, world, 86_400))
    for busy in (True, False):
        world.held_w = 600.0 if busy else 80.0
        found |= places(run(detector, world, 43_200))
    assert found == set()
