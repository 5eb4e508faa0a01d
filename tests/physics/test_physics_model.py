"""What is learnt on line stays of the size that coolers have, however long it is learnt."""

from __future__ import annotations

import numpy as np
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
