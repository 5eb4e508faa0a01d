"""Whose a process is by its cgroup, in every form that Slurm and Kubernetes write."""

from __future__ import annotations

import pytest

from collectors.attribution.cgroup import GroupIdentity, parse_cgroup

UID = "0123abcd-1111-4222-8333-0000000000ff"
UNDER = UID.replace("-", "_")
STATIC = "a1b2c3d4e5f60718293a4b5c6d7e8f90"
CID = "f" * 64
SLUID = "sEKNKTV3WPV500"


def job(number: str, uid: int | None = None) -> GroupIdentity:
    return GroupIdentity(job=number, uid=uid)


CASES = {
    "slurm v1": (
        "11:pids:/system.slice/slurmd.service\n"
        "10:devices:/slurm/uid_2101171/job_280678/step_interactive/task_0\n0::/",
        job("280678", 2101171),
    ),
    "slurm v1, node name": ("4:memory:/slurm_n-07/uid_5/job_9/step_batch", job("9", 5)),
    "slurm v1, job's own line": ("4:memory:/slurm/uid_5/job_9", job("9", 5)),
    "slurm v2": (
        "0::/system.slice/slurmstepd.scope/job_1234/step_0/user/task_3",
        job("1234"),
    ),
    "slurm v2, batch": ("0::/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0", job("7")),
    "slurm v2, extern": ("0::/system.slice/slurmstepd.scope/job_7/step_extern/user", job("7")),
    "slurm v2, node name": ("0::/system.slice/gpu_3_slurmstepd.scope/job_7/step_1", job("7")),
    "slurm v2, the daemon's leaf": (
        "0::/system.slice/slurmstepd.scope/job_7/step_0/slurm",
        job("7"),
    ),
    "slurm v2, SLUID": (
        f"0::/system.slice/slurmstepd.scope/{SLUID}/step_0/user/task_0",
        GroupIdentity(sluid=SLUID),
    ),
    "slurm v2, node name and SLUID": (
        f"0::/system.slice/n1_slurmstepd.scope/{SLUID}",
        GroupIdentity(sluid=SLUID),
    ),
    "slurm from within a container": (
        "0::/../../../system.slice/slurmstepd.scope/job_7/step_0",
        job("7"),
    ),
    "a container in a job": (
        f"0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0/kubepods/pod{UID}/{CID}",
        job("7"),
    ),
    "a job in a pod": (
        f"0::/kubepods.slice/kubepods-pod{UNDER}.slice/cri-containerd-{CID}.scope"
        "/system.slice/slurmstepd.scope/job_8/step_0",
        job("8"),
    ),
    "a job's own folder of a job's name": (
        "0::/system.slice/slurmstepd.scope/job_7/step_0/user/slurm/job_999",
        job("7"),
    ),
    "slurmd itself": ("0::/system.slice/slurmd.service", GroupIdentity()),
    "slurmstepd's infrastructure": ("0::/system.slice/slurmstepd.scope/system", GroupIdentity()),
    "a SLUID too long": (f"0::/system.slice/slurmstepd.scope/{SLUID}X/step_0", GroupIdentity()),
    "a SLUID with a letter that is none": (
        "0::/system.slice/slurmstepd.scope/sEKNKTV3WPV50U/step_0",
        GroupIdentity(),
    ),
    "a user's imitation of a job": (
        "0::/user.slice/user-1000.slice/user@1000.service/slurm/job_999",
        GroupIdentity(),
    ),
    "a user's imitation of a pod": (
        f"0::/user.slice/user-1000.slice/user@1000.service/kubepods/pod{UID}/x",
        GroupIdentity(),
    ),
    "systemd driver, containerd": (
        "0::/kubepods.slice/kubepods-burstable.slice/"
        f"kubepods-burstable-pod{UNDER}.slice/cri-containerd-{CID}.scope",
        GroupIdentity(pod=UID),
    ),
    "systemd driver, cri-o": (
        f"0::/kubepods.slice/kubepods-pod{UNDER}.slice/crio-{CID}.scope/container",
        GroupIdentity(pod=UID),
    ),
    "systemd driver, docker, v1": (
        "9:cpuset:/kubepods.slice/kubepods-besteffort.slice/"
        f"kubepods-besteffort-pod{UNDER}.slice/docker-{CID}.scope",
        GroupIdentity(pod=UID),
    ),
    "containerd's colons, v1": (
        f"3:memory:/system.slice/containerd.service/kubepods-pod{UNDER}.slice:cri-containerd:{CID}",
        GroupIdentity(pod=UID),
    ),
    "cgroupfs driver": (f"0::/kubepods/burstable/pod{UID}/{CID}", GroupIdentity(pod=UID)),
    "cgroupfs driver, guaranteed": (f"7:pids:/kubepods/pod{UID}/{CID}", GroupIdentity(pod=UID)),
    "static pod": (
        f"0::/kubepods.slice/kubepods-pod{STATIC}.slice/cri-containerd-{CID}.scope",
        GroupIdentity(pod=STATIC),
    ),
    "kind": (
        "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
        f"kubelet-kubepods-burstable-pod{UNDER}.slice/cri-containerd-{CID}.scope",
        GroupIdentity(pod=UID),
    ),
    "from within another pod, systemd": (
        f"0::/../../kubepods-burstable-pod{UNDER}.slice/cri-containerd-{CID}.scope",
        GroupIdentity(pod=UID),
    ),
    "from within another pod, cgroupfs": (f"0::/../../pod{UID}/{CID}", GroupIdentity(pod=UID)),
    "podman's pod": (f"0::/machine.slice/libpod_pod_{'a' * 64}/x", GroupIdentity()),
    "plain docker": (f"0::/system.slice/docker-{CID}.scope", GroupIdentity()),
    "a login": ("0::/user.slice/user-1000.slice/session-3.scope", GroupIdentity()),
    "root": ("0::/", GroupIdentity()),
    "nothing": ("", GroupIdentity()),
    "not a cgroup": ("job_12", GroupIdentity()),
}


@pytest.mark.parametrize("name", CASES)
def test_whose_a_process_is(name: str):
    text, expected = CASES[name]
    assert parse_cgroup(text + "\n") == expected
