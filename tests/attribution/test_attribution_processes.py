"""What processes show, and when it is nothing."""

from __future__ import annotations

import os

import pytest
from attribution_world import GPUS, PODS, SLOTS, SLUID, TEXTS, World, instances, on

from collectors.attribution.processes import MOST_PROCESSES
from collectors.attribution.settings import AttributionSettings
from collectors.contract.source import GpuProcess
from collectors.contract.topics import PRECEDENCE

JOB = "0::/system.slice/slurmstepd.scope/job_{}/step_0/user/task_0"
POD = "0::/kubepods.slice/kubepods-pod{}.slice/cri-containerd-1.scope"


def test_a_job_on_two_of_eight_gpus(world: World):
    world.process(10, JOB.format(7))
    world.process(11, JOB.format(7))
    found = world.poll(on(0, 10), on(0, 11), on(3, 11))
    assert found.occupants == {SLOTS[0]: "slurm:7", SLOTS[3]: "slurm:7"}
    assert world.holds() == {"7": [TEXTS[0], TEXTS[3]]}
    one = world.claims("7")[0]
    assert (one.source, one.precedence) == ("agent:n1:process", PRECEDENCE["process"])
    assert (one.user, one.account, one.tenant) == ("uid-1234", "", "uid-1234")
    assert one.from_us == world.clock.wall
    assert world.poll(on(0, 10), on(0, 11), on(3, 11)).allocations == []


def test_a_reused_pid_is_another_process(world: World):
    world.process(10, JOB.format(7), start=100)
    world.poll(on(0, 10))
    # The driver still lists what it saw before it hung; the number is another job's now.
    world.process(10, JOB.format(8), start=900)
    world.poll(on(0, 10))
    assert world.poll(on(0, 10)).occupants == {}
    assert world.holds() == {}
    # Listed anew after it was not, it is meant.
    world.poll()
    assert world.poll(on(0, 10)).occupants == {SLOTS[0]: "slurm:8"}


def test_a_process_that_is_gone_by_now_holds_nothing(world: World):
    assert world.poll(on(0, 4_711)).allocations == []
    assert world.missing == {}


@pytest.mark.parametrize("comm", ["slurmstepd", "sleep", "slurm_script"])
def test_helpers_compute_nothing(world: World, comm: str):
    world.process(10, JOB.format(7), comm=comm)
    assert world.poll(on(0, 10)).allocations == []


def test_a_name_with_blanks_and_brackets_does_not_shift_the_start(world: World):
    world.process(10, JOB.format(7), comm="a) S 1 (b", start=55)
    assert world.poll(on(0, 10)).occupants == {SLOTS[0]: "slurm:7"}


def test_without_the_hosts_processes_nothing_is_believed(world: World):
    world.process(10, JOB.format(7))
    (world.proc / "2/comm").write_text("nginx\n")
    assert world.poll(on(0, 10)).allocations == []
    assert "hostPID" in world.missing["processes"]


def test_a_sluid_becomes_a_number_where_the_environment_may_be_read(world: World):
    world.process(10, JOB.replace("job_{}", SLUID), environ={"A": "b", "SLURM_JOB_ID": "77"})
    assert world.poll(on(0, 10)).occupants == {SLOTS[0]: "slurm:77"}


def test_a_sluid_becomes_a_number_by_a_mapping_file(world: World):
    world.process(10, JOB.replace("job_{}", SLUID))
    world.record("a", gpu=5, job="78", sluid=SLUID)
    assert world.poll(on(0, 10)).occupants[SLOTS[0]] == "slurm:78"


def test_a_sluid_alone_is_a_name_and_says_what_is_missing(world: World):
    world.process(10, JOB.replace("job_{}", SLUID))
    assert world.poll(on(0, 10)).occupants == {SLOTS[0]: f"slurm:{SLUID}"}
    assert "CAP_SYS_PTRACE" in world.missing["environ"]


def test_the_memory_of_a_process_that_hangs_in_a_driver_is_not_read(world: World):
    world.process(10, "0::/system.slice/ssh.service", environ={"SLURM_JOB_ID": "7"}, state="D")
    assert world.poll(on(0, 10)).occupants == {}
    world.process(10, "0::/system.slice/ssh.service", environ={"SLURM_JOB_ID": "7"})
    assert world.poll(on(0, 10)).occupants == {SLOTS[0]: "slurm:7"}


def test_an_environment_does_not_overrule_a_cgroup(world: World):
    world.process(10, JOB.format(7), environ={"SLURM_JOB_ID": "999", "SLURM_JOB_ACCOUNT": "rich"})
    world.process(11, POD.format(PODS.format(1)), environ={"SLURM_JOB_ID": "999"})
    world.process(12, "0::/system.slice/cron.service", environ={"SLURM_JOB_ID": "12"})
    world.process(13, "0::/user.slice", environ={"SLURM_JOB_ID": "1;rm"})
    found = world.poll(*(on(gpu, 10 + gpu) for gpu in range(4)))
    assert found.occupants == {
        SLOTS[0]: "slurm:7",
        SLOTS[1]: f"k8s:pod/{PODS.format(1)}",
        SLOTS[2]: "slurm:12",
    }
    assert [one.tenant for one in world.claims("7")] == ["uid-1234"]


def test_a_pods_name_is_that_of_its_folder_of_logs(world: World):
    uid = PODS.format(1)
    world.process(10, POD.format(uid.replace("-", "_")), uid=0)
    (world.logs / f"lab-a_train-0_{uid}").mkdir()
    assert world.poll(on(0, 10)).occupants == {SLOTS[0]: "k8s:lab-a/train-0"}
    (claim,) = world.claims("lab-a/train-0")
    assert (claim.tenant, claim.namespace, claim.user) == ("lab-a", "lab-a", "")


def test_a_pod_without_a_name_is_nobodys(world: World):
    world.process(10, POD.format(PODS.format(1)), uid=0)
    world.poll(on(0, 10))
    (claim,) = world.told.values()
    assert claim.tenant == ""


def test_roots_jobs_have_no_user(world: World):
    world.process(10, JOB.format(7), uid=0)
    world.poll(on(0, 10))
    assert world.claims("7")[0].tenant == ""


def test_processes_of_instances_hold_those(world: World):
    world.places += instances(2, 1, 5)
    world.process(10, JOB.format(7))
    world.process(11, JOB.format(8))
    slots = [place.slot for place in world.places[-2:]]
    found = world.poll(GpuProcess(slots[0], 10), GpuProcess(slots[1], 11))
    assert found.occupants == {slots[0]: "slurm:7", slots[1]: "slurm:8"}


def test_work_is_bounded_where_there_are_thousands(world: World):
    for pid in range(100, 400):
        world.process(pid, JOB.format(pid % 3))
    listed = [on(pid % 8, pid) for pid in range(100, 100 + MOST_PROCESSES + 5)]
    assert set(world.poll(*listed).occupants.values()) == {"slurm:0,slurm:1,slurm:2"}
    assert (
        world.missing["processes"] == f"only {MOST_PROCESSES} of {MOST_PROCESSES + 5} are looked at"
    )


def test_a_label_of_many_is_short(world: World):
    for pid in range(100, 160):
        world.process(pid, JOB.format(10**11 + pid))
    (label,) = world.poll(*(on(0, pid) for pid in range(100, 160))).occupants.values()
    assert label.endswith(",+56")
    assert len(label) <= 160


def test_unreadable_processes_are_told(world: World):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    world.process(10, JOB.format(7))
    (world.proc / "10/cgroup").chmod(0)
    assert world.poll(on(0, 10)).allocations == []
    assert "permission" in world.missing["processes"]


def test_the_real_proc_is_read(world: World):
    world.settings = AttributionSettings(job_mappings=())
    world.start()
    world.poll(on(0, os.getpid()))
    assert set(world.missing) <= {"processes"}


def test_places_that_go_keep_their_owner(world: World):
    world.process(10, JOB.format(7))
    world.record("a", gpu=3, job="9", account="lab")
    world.poll(on(0, 10))
    world.places = []
    found = world.poll(on(0, 10))
    assert found.occupants == {SLOTS[0]: "slurm:7", SLOTS[3]: "slurm:9"}
    world.places = [GPUS[0]]
    assert world.poll(on(0, 10)).occupants[SLOTS[3]] == "slurm:9"
