"""A short `make chaos`: two simulated hours, everything killed, paused and short of disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos_disk import Disk
from chaos_ledger import before, differences
from chaos_plan import FULL, KILL, PAUSE, plan
from chaos_processes import MissingServicesError
from chaos_run import ChaosOptions, run_chaos

TARGETS = {"worker": ["store-0", "store-1"], "broker": ["kafka"], "database": ["influx"]}


def test_a_plan_is_the_seeds_own_and_kills_every_kind() -> None:
    drawn = [plan(TARGETS, ["a", "b"], kills=9, pauses=3, fulls=2, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    kinds = {name: kind for kind, names in TARGETS.items() for name in names}
    for acts in drawn:
        assert all(at / 14 <= act.sent / 0.95 < (at + 1) / 14 for at, act in enumerate(acts))
        killed = [kinds[act.target] for act in acts if act.what == KILL]
        assert {kind: killed.count(kind) for kind in TARGETS} == dict.fromkeys(TARGETS, 3)
        assert sum(act.what == PAUSE for act in acts) == 3
        assert sorted(act.target for act in acts if act.what == FULL) == ["a", "b"]


def test_a_row_that_differs_or_is_missing_is_counted() -> None:
    ledger = {"hours": {"[10, 'a']": [1, 2], "[11, 'a']": [3, 4]}, "day_totals": {"['d']": [4, 6]}}
    assert differences(ledger, ledger) == {"day_totals": 0, "hours": 0}
    changed = {"hours": {"[10, 'a']": [1, 3]}, "day_totals": {"['d']": [4, 6], "['e']": [0, 0]}}
    assert differences(ledger, changed) == {"day_totals": 1, "hours": 2}
    assert before(ledger, 11) == {"hours": {"[10, 'a']": [1, 2]}}


def test_a_full_disk_takes_nothing_and_takes_again_when_it_is_cleared(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", 1)
    try:
        if disk.kind != "file system":
            pytest.skip("nothing may be mounted here")
        disk.fill([])
        with pytest.raises(OSError, match="No space left"), (disk.folder / "f").open("wb") as file:
            file.write(bytes(200_000))
        disk.clear()
        (disk.folder / "f").write_bytes(bytes(200_000))
    finally:
        disk.close()


@pytest.mark.stack
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("kafka_url", "influx")
def test_the_ledger_does_not_show_that_everything_was_killed() -> None:
    options = ChaosOptions(hours=2, kills=20, pauses=3, fulls=3, seed=7, gap_s=0.3)
    try:
        report = run_chaos(options)
    except MissingServicesError as missing:
        pytest.skip(str(missing))
    assert (report.examples, report.minutes_apart) == ([], [])
    assert report.differences == dict.fromkeys(report.differences, 0)
    assert report.differences_as_left == 0
    assert report.complete_rows > 50
    assert report.frames_after_the_last_kill_of_watch > 0
    kills = report.done[KILL]
    assert sum(kills.values()) == 20
    assert {"kafka", "influx", "watch"} <= set(kills)
    assert report.ok
