"""Creeping faults: what grows over hours is told early, of its place, once, and what wanders is not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from physics_world import World, layout

from pipeline.watch.physics.detector import ThermalDetector
from pipeline.watch.physics.drift import Drift
from pipeline.watch.physics.settings import PhysicsSettings
from pipeline.watch.physics.spans import Drifted, Span, Spans

STEP_S, HOUR_S = 120.0, 3_600.0
SHORT, LONG = Span(0.0, 1.7, 5.5, 2_400.0), Span(2_700.0, 1.15, 4.5, 900.0)
LEARNT = 24 * 30
Told = tuple[str, int, str, int]


def _wandering(
    places: int, ticks: int, seed: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Quarter-hour means of inlets that wander by 0.5 °C over ten minutes."""
    rng = np.random.default_rng(seed)
    keep, gain = np.exp(-STEP_S / 600), -np.expm1(-STEP_S / 900)
    now, mean = rng.normal(0, 0.5, places), np.zeros(places)
    out = np.empty((ticks, places), np.float32)
    for row in out:
        now = keep * now + rng.normal(0, 0.5 * np.sqrt(1 - keep**2), places)
        mean += gain * (now - mean)
        row[:] = mean
    return out


def _followed(
    spans: Spans, rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]
) -> list[Drifted]:
    sure = np.full(rows.shape[1], 0.05, np.float32)
    everyone = np.ones(rows.shape[1], np.bool_)
    return [spans.follow(row, sure, everyone, STEP_S) for row in rows]


def test_what_wanders_is_never_told_and_what_grows_is_told_while_it_is_small():
    """0.4 °C an hour: the hour's mean tells it of every place before it is 2.2 °C."""
    rows = _wandering(200, 5 * LEARNT, seed=4)
    spans = Spans(200, (SHORT, LONG), 0.03, 5.0)
    assert not any(made.lasts.any() for made in _followed(spans, rows))
    hours = np.arange(len(rows)) * STEP_S / HOUR_S
    grown = (rows + 0.4 * hours[:, None]).astype(np.float32)
    told = np.array([made.lasts for made in _followed(spans, grown)])
    assert told.any(axis=0).all()
    assert 0.4 * hours[told.argmax(axis=0).max()] < 2.2


def test_farther_off_is_told_sooner_and_nothing_before_it_lasts():
    offs = np.array([1.6, 1.8, 3.6, 6.0], np.float32)
    spans = Spans(4, (SHORT,), 0.03, 5.0)
    _followed(spans, np.zeros((LEARNT, 4), np.float32))
    told = np.array([made.lasts for made in _followed(spans, np.tile(offs, (40, 1)))])
    after_s = np.where(told.any(axis=0), (told.argmax(axis=0) + 1) * STEP_S, np.inf)
    assert after_s[0] == np.inf
    assert 1_800 < after_s[1] <= SHORT.lasts_s
    assert 240 < after_s[3] < after_s[2] < after_s[1]


@given(st.lists(st.booleans(), min_size=60, max_size=60))
@settings(max_examples=25, deadline=None)
def test_who_is_not_seen_for_a_while_loses_nothing(seen: list[bool]):
    """Ticks without a word neither count for a place nor against it."""
    one, other = (Spans(1, (SHORT, LONG), 0.03, 5.0) for _ in range(2))
    off, doubt = np.full(1, 2.5, np.float32), np.full(1, 0.05, np.float32)
    told: list[bool] = []
    for now in seen:
        made = one.follow(off, doubt, np.full(1, now), STEP_S)
        told += [bool(made.lasts[0])] if now else []
    whole = [bool(other.follow(off, doubt, np.ones(1, np.bool_), STEP_S).lasts[0]) for _ in told]
    assert told == whole


def test_rest_does_not_hide_what_work_showed():
    """A cooler that got worse by a tenth shows 3 °C at work and next to nothing at rest."""
    drift = Drift(layout(1, 1).places, PhysicsSettings())
    everyone = np.ones(8, np.bool_)
    for tick in range(180):
        rise = np.full(8, 30.0 if tick % 30 < 15 else 3.0, np.float32)
        drift.follow(rise * np.float32(0.1), np.zeros(8, np.float32), rise, everyone, 30.0)
    assert np.all(drift.mean > 2.2)


def _warm_rack(silent_at: int | None = None) -> list[set[Told]]:
    """What is open after each tick: a rack's inlet rises for six hours from the sixth on, and is
    as before after six more."""
    world = World(layout(4, 2), step_s=STEP_S)
    detector = ThermalDetector(world.floor)
    told: list[set[Told]] = []
    for tick in range(24 * 30):
        warm_c = 1.0 * np.clip(tick / 30 - 6, 0, 6) * (tick < 18 * 30)
        world.inlet_c[:16] = 22.0 + warm_c
        silent = None if tick != silent_at else np.arange(world.floor.gpus) < 16
        made = detector.update(world.time_us + 1, world.tick(silent)).findings
        told.append({(one.scope, one.index, one.cause, one.since_us) for one in made})
    return told


@pytest.fixture(scope="module")
def warm_rack() -> list[set[Told]]:
    """Without a lost sample."""
    return _warm_rack()


def test_a_warm_rack_is_one_finding_for_as_long_as_it_is_warm(
    warm_rack: list[set[Told]],
):
    begins = [now - before for before, now in pairwise([set[Told](), *warm_rack])]
    assert [[found[:3] for found in one] for one in begins if one] == [
        [("rack", 0, "rack_cooling")]
    ]
    first = next(tick for tick, one in enumerate(begins) if one)
    assert 6 * 30 < first < 10 * 30
    assert all(warm_rack[first : 18 * 30])
    assert warm_rack[-1] == set()


def test_a_lost_sample_costs_no_evidence(warm_rack: list[set[Told]]):
    first = next(tick for tick, one in enumerate(warm_rack) if one)
    late = next(tick for tick, one in enumerate(_warm_rack(first - 4)) if one)
    assert late - first <= 4


def test_one_sample_at_work_is_no_quarter_of_an_hour():
    """Of a GPU of which nothing was known, and which then rests: what it showed in between fades."""
    drift = Drift(layout(1, 1).places, PhysicsSettings())
    everyone, nothing = np.ones(8, np.bool_), np.zeros(8, np.float32)
    one = np.arange(8) == 0
    for tick in range(360):
        works = one & (tick == 240)
        if tick == 240:
            drift.forget(one)
        rise = np.where(works, 40.0, 4.0).astype(np.float32)
        drift.follow(np.where(works, 6.0, 0.0).astype(np.float32), nothing, rise, everyone, 30.0)
        assert not drift.measure(everyone, 30.0)["gpu"].lasts.any()


def test_a_model_that_is_renewed_at_work_does_not_make_a_resting_gpu_warm():
    """What is expected at work is 10 °C less now; of the rest before that says nothing."""
    drift = Drift(layout(1, 1).places, PhysicsSettings())
    everyone, nothing = np.ones(8, np.bool_), np.zeros(8, np.float32)
    for tick in range(300):
        if tick == 240:
            drift.shift(slice(0, 1), np.full(1, -10.0, np.float32))
        drift.follow(nothing, nothing, np.full(8, 5.0, np.float32), everyone, 30.0)
        assert not drift.measure(everyone, 30.0)["gpu"].lasts.any()
