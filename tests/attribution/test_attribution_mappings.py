"""Mapping files: what is believed of them, and what is left over, half written or wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attribution_world import BOOT, DAY_US, GPUS, SLOTS, SLUID, TEXTS, World, instances, iso, on

from collectors.attribution.mapping_files import MappingRecord, parse_record
from collectors.contract.topics import PRECEDENCE

JOB = "0::/system.slice/slurmstepd.scope/job_{}/step_0/user/task_0"


def age(path: Path, seconds: float) -> None:
    told = path.stat().st_mtime - seconds
    os.utime(path, (told, told))


def test_an_exclusive_job_without_a_process_is_still_there(world: World):
    start_us = world.clock.wall - 5_000_000
    world.record("a", gpu=[2, GPUS[3].uuid], job=12, user="eve", account="lab", start=iso(start_us))
    found = world.poll()
    assert found.occupants == dict.fromkeys((SLOTS[2], SLOTS[3]), "slurm:12")
    (one, two) = world.claims("12")
    assert (one.source, one.precedence) == ("agent:n1:slurm", PRECEDENCE["scheduler"])
    assert (one.tenant, one.account, one.user) == ("lab", "lab", "eve")
    assert one.from_us == two.from_us == start_us
    assert one.id != two.id


def test_the_exporters_form(world: World):
    world.places += instances(1, 3, 4)
    world.lines("0", "7", "8")
    world.lines("1.4", "9")
    world.lines("2", "10", end="")
    (world.jobs / "README").write_text("not a mapping")
    found = world.poll()
    part = instances(1, 4)[0].slot
    assert found.occupants == {SLOTS[0]: "slurm:7,slurm:8", part: "slurm:9"}
    assert world.poll().occupants[SLOTS[2]] == "slurm:10"
    assert world.missing == {}


def test_a_line_that_is_being_written_is_not_a_shorter_job(world: World):
    path = world.lines("0", "12", end="")
    world.poll()
    path.write_text("1234\n")
    assert world.poll().occupants == {SLOTS[0]: "slurm:1234"}
    assert world.claims("12") == []


def test_instances_by_uuid_and_by_number(world: World):
    parts = instances(0, 1, 2) + instances(5, 1)
    world.places += parts
    world.record("a", mig=parts[0].uuid, job="1")
    world.record("b", gpu=0, mig="2/0", job="2")
    world.record("c", gpu=5, job="3")
    assert world.poll().occupants == {
        parts[0].slot: "slurm:1",
        parts[1].slot: "slurm:2",
        SLOTS[5]: "slurm:3",
        parts[2].slot: "slurm:3",
    }


WRONG: dict[str, tuple[str, str]] = {
    "half": ('{"gpu": 0, "job": "1', "not as"),
    "empty": ("", "not as"),
    "no job": ('{"gpu": 0}', "job"),
    "another kind": ('["gpu"]', "not as"),
    "no gpu": ('{"job": "1"}', "names neither"),
    "strange gpu": ('{"job": "1", "gpu": 99}', "no GPU '99'"),
    "blank in job": ('{"job": "1 2", "gpu": 0}', "short words"),
    "job of nothing": ('{"job": "", "gpu": 0}', "short words"),
    "naive start": ('{"job": "1", "gpu": 0, "start": "2026-01-01T00:00:00"}', "time zone"),
    "number as user": ('{"job": "1", "gpu": 0, "user": 5}', "not as"),
    "newline in account": ('{"job": "1", "gpu": 0, "account": "a\\nb"}', "no name"),
    "mig of two": ('{"job": "1", "gpu": [0, 1], "mig": "1"}', "needs one"),
    "other boot": ('{"job": "1", "gpu": 0, "boot": "x"}', "before the machine"),
    "large": ('{"job": "1", "gpu": 0}' + " " * 70_000, "larger than"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_ignored_and_said_once(
    world: World, name: str, caplog: pytest.LogCaptureFixture
):
    text, reason = WRONG[name]
    (world.jobs / "bad.json").write_text(text)
    world.record("good", gpu=1, job="5")
    for _ in range(3):
        assert world.poll().occupants == {SLOTS[1]: "slurm:5"}
        assert reason in world.missing["job_mappings"]
    assert len(caplog.records) == 1
    (world.jobs / "bad.json").unlink()
    world.poll()
    assert world.missing == {}


@pytest.mark.parametrize("content", ["no job here\n", "1\n" + "a b\n", "\x00\x01\n"])
def test_lines_that_are_no_jobs_are_ignored(world: World, content: str):
    (world.jobs / "0").write_text(content)
    world.lines("1", "5")
    assert world.poll().occupants == {SLOTS[1]: "slurm:5"}
    assert "not a job" in world.missing["job_mappings"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_plain_file_is_ignored_and_not_waited_for(
    world: World, make: Callable[[Path], None]
):
    make(world.jobs / "0")
    world.lines("1", "5")
    assert world.poll().occupants == {SLOTS[1]: "slurm:5"}
    assert "job_mappings" in world.missing


def test_a_file_that_anybody_can_write_proves_nothing(world: World):
    world.record("a", gpu=0, job="1", account="rich").chmod(0o666)
    assert world.poll().occupants == {}
    assert "can write it" in world.missing["job_mappings"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_proves_nothing(world: World):
    os.chown(world.record("a", gpu=0, job="1", account="rich"), 4_711, 4_711)
    assert world.poll().occupants == {}
    os.chown(world.jobs, 4_711, 4_711)
    assert world.poll().occupants == {SLOTS[0]: "slurm:1"}


def test_files_older_than_the_boot_are_left_over(world: World):
    for path in (world.lines("0", "1"), world.record("a", gpu=1, job="2")):
        age(path, 2 * DAY_US / 1e6)
    world.record("b", gpu=2, job="3", boot=BOOT)
    assert world.poll().occupants == {SLOTS[2]: "slurm:3"}
    assert "older than" in world.missing["job_mappings"]


def test_a_file_that_came_while_the_agent_looked_is_of_this_boot_whatever_its_time(world: World):
    world.poll()
    age(world.lines("0", "1"), 2 * DAY_US / 1e6)  # written before a slow clock was set right
    assert world.poll().occupants == {SLOTS[0]: "slurm:1"}


@pytest.mark.parametrize("shift_s", [-90 * 86_400, 3_600])
def test_an_impossible_start_is_when_it_was_first_seen(world: World, shift_s: int):
    world.record("a", gpu=0, job="1", boot=BOOT, start=iso(world.clock.wall + shift_s * 10**6))
    world.poll()
    assert [one.from_us for one in world.claims("1")] == [world.clock.wall]


def test_a_job_whose_cgroup_is_gone_is_over_though_its_file_is_there(world: World):
    group = world.cgroups / "system.slice/n1_slurmstepd.scope" / SLUID
    group.mkdir(parents=True)
    world.record("a", gpu=0, job="1", sluid=SLUID)
    world.record("b", gpu=1, job="2")
    world.poll()
    group.rmdir()
    assert world.poll(seconds=200).occupants == {SLOTS[0]: "slurm:1", SLOTS[1]: "slurm:2"}
    world.poll(seconds=200)
    assert world.poll().occupants == {SLOTS[1]: "slurm:2"}
    assert "its cgroup is gone" in world.missing["job_mappings"]


def test_a_job_that_steps_again_has_held_its_gpu_all_the_time(world: World):
    group = world.cgroups / "devices/slurm/uid_5/job_1"
    group.mkdir(parents=True)
    start_us = world.clock.wall
    world.record("a", gpu=0, job="1", start=iso(start_us))
    world.poll()
    group.rmdir()
    for _ in range(3):
        world.poll(seconds=400)
    assert world.holds() == {}
    group.mkdir()
    world.poll()
    (claim,) = world.claims("1")
    assert (claim.from_us, claim.to_us) == (start_us, None)


def test_a_gpu_that_is_not_shared_is_that_of_the_job_that_began_last(world: World):
    old_us, new_us = world.clock.wall - 900_000_000, world.clock.wall - 60_000_000
    world.record("b", gpu=0, job="2", start=iso(new_us), shared=False)
    world.record("a", gpu=[0, 1], job="1", start=iso(old_us), shared=False)
    assert world.poll().occupants == {SLOTS[0]: "slurm:2", SLOTS[1]: "slurm:1"}
    assert "slurm:2's by now" in world.missing["job_mappings"]


@pytest.mark.parametrize("shared", [True, None])
def test_a_gpu_that_may_be_shared_is_that_of_all_on_it(world: World, shared: bool | None):
    world.record("a", gpu=0, job="1", shared=shared)
    world.record("b", gpu=0, job="2", shared=shared)
    for _ in range(100):
        assert world.poll().occupants == {SLOTS[0]: "slurm:1,slurm:2"}


def test_beside_a_job_with_a_cgroup_one_that_never_had_one_is_left_over(world: World):
    (world.cgroups / "system.slice/slurmstepd.scope/job_2").mkdir(parents=True)
    world.record("a", gpu=[0, 1], job="1")
    world.record("b", gpu=0, job="2")
    assert world.poll(seconds=200).occupants[SLOTS[0]] == "slurm:1,slurm:2"
    world.poll(seconds=200)
    world.poll(seconds=200)
    world.poll()
    # Where nobody contradicts it, it stays: an interactive job may be between two steps.
    assert world.poll().occupants == {SLOTS[0]: "slurm:2", SLOTS[1]: "slurm:1"}


def test_a_requeued_job_is_a_new_claim(world: World):
    first_us = world.clock.wall
    world.record("a", gpu=0, job="1", start=iso(first_us))
    world.poll()
    world.poll()
    again_us = world.clock.wall
    world.record("a", gpu=0, job="1", start=iso(again_us))
    world.poll()
    world.poll()
    first, second = world.claims("1")
    assert (first.from_us, second.from_us) == (first_us, again_us)
    assert first.to_us is not None
    assert second.to_us is None


def test_both_forms_of_one_job_are_one_claim(world: World):
    world.lines("0", "1")
    world.poll()
    world.record("a", gpu=0, job="1", account="lab", start=iso(world.clock.wall))
    world.poll()
    world.poll()
    (claim,) = world.claims("1")
    assert (claim.tenant, claim.to_us) == ("lab", None)


def test_another_schedulers_job(world: World):
    world.record("a", gpu=0, job="17.pbs01", scheduler="pbs")
    assert world.poll().occupants == {SLOTS[0]: "pbs:17.pbs01"}


def test_a_folder_that_cannot_be_read_ends_nothing(world: World):
    world.record("a", gpu=0, job="1")
    world.poll()
    aside = world.jobs.rename(world.folder / "aside")
    world.jobs.write_text("a file")
    for _ in range(3):
        assert world.poll().occupants == {SLOTS[0]: "slurm:1"}
    assert "job_mappings" in world.missing
    world.jobs.unlink()
    aside.rename(world.jobs)
    world.poll()
    assert world.missing == {}
    assert len(world.records) == 1


def test_the_prologs_word_goes_before_what_processes_show(world: World):
    world.process(10, JOB.format(7))
    world.process(11, JOB.format(8))
    world.poll(on(0, 10), on(1, 11))
    assert world.holds() == {"7": [TEXTS[0]], "8": [TEXTS[1]]}
    world.record("a", gpu=0, job="9", account="lab")
    found = world.poll(on(0, 10), on(1, 11))
    assert found.occupants == {SLOTS[0]: "slurm:9", SLOTS[1]: "slurm:8"}
    assert world.holds() == {"8": [TEXTS[1]], "9": [TEXTS[0]]}
    assert world.claims("7")[0].to_us == world.clock.wall


def test_documented_fields_are_those_that_are_read():
    text = (Path(__file__).parents[2] / "docs/attribution.md").read_text()
    block = text.split("```json\n")[1].split("```")[0]
    told: dict[str, Any] = json.loads(block)
    assert set(told) == set(MappingRecord.__struct_fields__)
    assert parse_record(block.encode()).job == told["job"]
