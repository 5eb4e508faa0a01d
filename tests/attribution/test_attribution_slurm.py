"""A real slurmctld and slurmd run the prolog and epilog for real jobs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event

import msgspec
import pytest
from attribution_world import SLOTS, World, on

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scancel", "sinfo", "scontrol")
SCRIPTS = Path(__file__).parents[2] / "deploy/slurm"
pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(
        os.geteuid() != 0 or any(shutil.which(name) is None for name in PROGRAMS),
        reason="needs root and Slurm (Debian: slurm-wlm)",
    ),
]
CONF = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
Prolog={folder}/prolog
Epilog={folder}/epilog
PrologFlags=Alloc
ReturnToService=2
MinJobAge=2
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=1 RealMemory=100 Gres=gpu:8
PartitionName=p Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:8
"""


def free_ports(count: int) -> list[int]:
    with ExitStack() as open_ones:
        found = [open_ones.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def until(holds: Callable[[], bool], what: str) -> None:
    for _ in range(300):
        if holds():
            return
        Event().wait(0.1)
    pytest.fail(f"after 30 s: {what}")


class Cluster:
    """One node with eight GPUs, of which nothing is real but their numbers."""

    def __init__(self, folder: Path, jobs: Path) -> None:
        self.folder = folder
        self._environ = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        host = socket.gethostname().partition(".")[0]
        (folder / "state").mkdir(parents=True)
        (folder / "spool").mkdir()
        for number in range(8):
            os.mknod(folder / f"gpu{number}", 0o20600, os.makedev(1, 3))
        for name in ("prolog", "epilog"):
            script = folder / name
            script.write_text(f"#!/bin/sh\nPETAWATCH_JOBS={jobs} exec {SCRIPTS}/{name}.sh\n")
            script.chmod(0o755)
        text = CONF.format(host=host, folder=folder, ports=free_ports(2))
        (folder / "slurm.conf").write_text(text)
        (folder / "gres.conf").write_text(f"NodeName=n1 Name=gpu File={folder}/gpu[0-7]\n")

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{command[0]}.out").open("wb") as out:
            return subprocess.Popen(command, env=self._environ, stdout=out, stderr=out)

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self._environ, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def submit(self, gpus: int, account: str, command: str) -> str:
        return self.run("sbatch", "--parsable", f"--gres=gpu:{gpus}", "-A", account, "-o",
                        "/dev/null", "--wrap", f"exec {command}")  # fmt: skip


@pytest.fixture
def cluster(world: World) -> Generator[Cluster]:
    world.settings = msgspec.structs.replace(world.settings, proc=Path("/proc"))
    world.start()
    made = Cluster(world.folder / "slurm", world.jobs)
    running = [made.start("slurmctld", "-D"), made.start("slurmd", "-N", "n1", "-D")]
    try:
        until(lambda: "idle" in made.run("sinfo", "-h"), "no node is idle")
        yield made
    finally:
        made.run("scancel", "--state=RUNNING", "--user=root")
        for one in reversed(running):
            one.terminate()
            one.wait(20)


def test_jobs_come_are_requeued_and_go(world: World, cluster: Cluster):
    first = cluster.submit(2, "lab-a", "sleep 120")
    second = cluster.submit(1, "lab-b", "sleep 120")
    until(lambda: len(list(world.jobs.glob("job-*.json"))) == 2, "no two prologs")
    found = world.poll()
    assert found.occupants == {
        SLOTS[0]: f"slurm:{first}",
        SLOTS[1]: f"slurm:{first}",
        SLOTS[2]: f"slurm:{second}",
    }
    assert [one.tenant for one in world.claims(first)] == ["lab-a", "lab-a"]
    cluster.run("scontrol", "requeuehold", first)  # it must not begin again before we look
    until(
        lambda: world.poll().occupants == {SLOTS[2]: f"slurm:{second}"},
        "the job that was requeued stays",
    )
    cluster.run("scancel", first, second)
    until(lambda: not list(world.jobs.glob("[0-9j]*")), "a file stays")
    until(lambda: world.poll().occupants == {}, "a job that was cancelled stays")


def test_without_cgroups_a_process_is_known_by_its_environment(world: World, cluster: Cluster):
    world.settings = msgspec.structs.replace(world.settings, job_mappings=())
    world.start()
    job = cluster.submit(1, "lab-a", f"tail -f {cluster.folder}/slurm.conf")
    mark = f"{cluster.folder}/slurm.conf".encode()

    def pids() -> list[int]:
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                line = (path / "cmdline").read_bytes()
                found += [int(path.name)] if line.startswith(b"tail\0") and mark in line else []
        return found

    until(lambda: len(pids()) == 1, "no process")
    if world.poll(on(0, pids()[0])).missing.get("processes"):
        pytest.skip("this machine hides its processes")
    assert world.poll(on(0, pids()[0])).occupants == {SLOTS[0]: f"slurm:{job}"}
