"""Recordings of real servers: faults that are added to them are found, and what they are is none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.alert_recordings import Case, Class, outcomes
from benchmarks.recordings import Recording, loop, order, read

BESIDE = Path(__file__).parents[3] / "shared" / "data"
RECORDINGS = read(Path(os.environ.get("PETAWATCH_RECORDINGS", BESIDE)))
LEARNT_S = 1_800
SERVER, ALONE = Class(LEARNT_S, 2_000, 0.0, 30, 1), Class(LEARNT_S, 120, 0.0, 30, 1)
pytestmark = pytest.mark.skipif(not RECORDINGS, reason="no recordings beside the repository")


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda one: one.name)
def test_a_recording_that_is_played_on_has_no_seam(recording: Recording):
    first, last = loop(recording)
    played = order(recording, 3 * len(recording.power_w))
    assert played[:last].tolist() == list(range(last))
    seams = np.flatnonzero(np.diff(played) != 1)
    assert seams.size
    assert {(int(played[at]), int(played[at + 1])) for at in seams} == {(last - 1, first)}
    for column, least in ((recording.temperature_c, 1.0), (recording.power_w, 1.0 / 0.06)):
        ends = [column[at - 3 : at].mean(axis=0) for at in (first, last)]
        assert np.abs(ends[1] - ends[0]).max() <= least + 1e-3


@pytest.mark.skipif(len(RECORDINGS) < 2, reason="no recording of a server")
def test_what_is_added_to_a_server_is_found_and_its_hot_gpu_told_once():
    """Its work never changes, so that nothing is known of less work."""
    node = Case(LEARNT_S + 400, 0.0, 0.03, None)
    gpu = Case(LEARNT_S + 900, 0.0, 0.04, 5)
    made = outcomes(RECORDINGS[0], SERVER, [node, gpu])
    for _, (ours, absolute) in made.played:
        assert ours.sign_s is not None
        assert ours.found_s is not None
        assert ours.found_s - ours.sign_s <= 10
        assert ours.right
        assert absolute.found_s is None
    assert made.false == [0, 0]
    assert made.outliers == [1]


@pytest.mark.skipif(len(RECORDINGS) < 3, reason="no recording of a single GPU")
def test_a_gpu_that_is_its_whole_node_is_judged_as_one():
    made = outcomes(RECORDINGS[2], ALONE, [Case(LEARNT_S + 60, 0.0, 0.03, None)])
    (_, (ours, _)), *_ = made.played
    assert ours.found_s is not None
    assert ours.found_s <= 10
    assert ours.right
    assert made.false == [0, 0]
