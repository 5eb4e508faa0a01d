"""The prolog and epilog as Slurm runs them, and what the agent makes of their files."""

from __future__ import annotations

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from attribution_world import GPUS, SLOTS, World, instances

SCRIPTS = Path(__file__).parents[2] / "deploy/slurm"
JOB = {"SLURM_JOB_USER": "eve", "SLURM_JOB_ACCOUNT": "lab", "SLURM_NODELIST": "n[1-2]"}


@pytest.fixture
def slurm(world: World) -> World:
    """The machine's own /proc, since the scripts write its boot id."""
    world.settings = msgspec.structs.replace(world.settings, proc=Path("/proc"))
    world.start()
    return world


def run(world: World, script: str, **variables: str) -> str:
    environ = {"PATH": "/usr/bin:/bin", "PETAWATCH_JOBS": str(world.jobs), **JOB, **variables}
    done = subprocess.run(
        ["/bin/sh", SCRIPTS / script],
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    return done.stderr


def record(world: World, job: str) -> dict[str, object]:
    return json.loads((world.jobs / f"job-{job}.json").read_text())


def files(world: World) -> list[str]:
    return sorted(path.name for path in world.jobs.iterdir() if path.name not in {".lock", "ended"})


def test_a_job_comes_and_goes(slurm: World):
    run(slurm, "prolog.sh", SLURM_JOB_ID="12", SLURM_JOB_GPUS="0,3", CUDA_VISIBLE_DEVICES="0,3")
    assert files(slurm) == ["0", "3", "job-12.json"]
    found = slurm.poll()
    assert found.occupants == dict.fromkeys((SLOTS[0], SLOTS[3]), "slurm:12")
    assert slurm.missing.get("job_mappings") is None
    (one, _) = slurm.claims("12")
    assert (one.tenant, one.user) == ("lab", "eve")
    assert abs(one.from_us - slurm.clock.wall) < 60_000_000
    run(slurm, "epilog.sh", SLURM_JOB_ID="12")
    assert files(slurm) == []
    slurm.poll()
    assert slurm.poll().occupants == {}


@pytest.mark.parametrize(
    ("types", "shared"),
    [
        ("GresTypes=gpu", False),
        (" gresTypes = gpu,nic", False),
        ("GresTypes=gpu,shard", None),
        ("GresTypes=gpu,MPS", None),
        ("#GresTypes=gpu", None),
        (None, None),
    ],
)
def test_a_gpu_is_known_to_be_a_jobs_own_only_where_nothing_is_shared(
    slurm: World, types: str | None, shared: bool | None
):
    conf = slurm.folder / "slurm.conf"
    if types is not None:
        conf.write_text(f"ClusterName=c\n{types}\n")
    for job in ("1", "2"):
        run(slurm, "prolog.sh", SLURM_JOB_ID=job, SLURM_JOB_GPUS="0", SLURM_CONF=str(conf))
    assert record(slurm, "1")["shared"] is shared
    both = {"slurm:1", "slurm:2"}
    assert set(slurm.poll().occupants[SLOTS[0]].split(",")) <= both


def test_two_jobs_share_by_shards(slurm: World):
    for job in ("1", "2"):
        run(
            slurm, "prolog.sh", SLURM_JOB_ID=job, CUDA_VISIBLE_DEVICES="5", SLURM_SHARDS_ON_NODE="4"
        )
    assert (slurm.jobs / "5").read_text() == "1\n2\n"
    assert slurm.poll().occupants == {SLOTS[5]: "slurm:1,slurm:2"}
    run(slurm, "epilog.sh", SLURM_JOB_ID="1")
    assert (slurm.jobs / "5").read_text() == "2\n"
    slurm.poll()
    assert slurm.poll().occupants == {SLOTS[5]: "slurm:2"}


def test_mig_by_uuid(slurm: World):
    slurm.places += instances(1, 2, 3)
    uuid = instances(1, 3)[0].uuid
    run(slurm, "prolog.sh", SLURM_JOB_ID="7", SLURM_JOB_GPUS="9", CUDA_VISIBLE_DEVICES=uuid)
    assert files(slurm) == ["job-7.json"]
    assert slurm.poll().occupants == {instances(1, 3)[0].slot: "slurm:7"}


def test_gpus_by_uuid_and_the_jobs_sluid_and_start(slurm: World):
    run(
        slurm,
        "prolog.sh",
        SLURM_JOB_ID="8",
        CUDA_VISIBLE_DEVICES=f"{GPUS[2].uuid},{GPUS[4].uuid}",
        SLURM_JOB_SLUID="sEKNKTV3WPV500",
        SLURM_JOB_START_TIME="1767225600",
    )
    told = record(slurm, "8")
    assert told["sluid"] == "sEKNKTV3WPV500"
    assert told["start"] == "2026-01-01T00:00:00Z"
    assert told["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert set(slurm.poll().occupants) == {SLOTS[2], SLOTS[4]}


@pytest.mark.parametrize("account", ['say "hi"\\', "lab\nx", "日本", "$(touch pwned)", "a,b; *"])
def test_whatever_an_account_is_called_the_record_can_be_read(slurm: World, account: str):
    run(slurm, "prolog.sh", SLURM_JOB_ID="8", SLURM_JOB_GPUS="0", SLURM_JOB_ACCOUNT=account)
    slurm.poll()
    assert [one.account for one in slurm.claims("8")] == [account.replace("\n", "")]


@pytest.mark.parametrize("gpus", ["", "NoDevFiles", "-1"])
def test_a_job_without_gpus_writes_nothing(slurm: World, gpus: str):
    run(slurm, "prolog.sh", SLURM_JOB_ID="8", CUDA_VISIBLE_DEVICES=gpus)
    assert files(slurm) == []


@pytest.mark.parametrize("job", ["", "../../etc/passwd", "1 2", "-rf"])
@pytest.mark.parametrize("script", ["prolog.sh", "epilog.sh"])
def test_no_job_is_no_failure_and_touches_nothing(slurm: World, script: str, job: str):
    slurm.lines("0", "9")
    run(slurm, script, SLURM_JOB_ID=job, SLURM_JOB_GPUS="0")
    assert files(slurm) == ["0"]


def test_a_folder_that_cannot_be_written_fails_no_job(slurm: World):
    slurm.jobs.rmdir()
    slurm.jobs.write_text("a file")
    run(slurm, "prolog.sh", SLURM_JOB_ID="8", SLURM_JOB_GPUS="0")
    run(slurm, "epilog.sh", SLURM_JOB_ID="8", SLURM_JOB_GPUS="0")


def test_many_at_once_lose_no_line(slurm: World):
    def both(job: int) -> None:
        run(slurm, "prolog.sh", SLURM_JOB_ID=str(job), SLURM_JOB_GPUS="0,1")
        if job % 2:
            run(slurm, "epilog.sh", SLURM_JOB_ID=str(job))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(both, range(100, 124)))
    expected = [str(job) for job in range(100, 124, 2)]
    for gpu in ("0", "1"):
        assert sorted((slurm.jobs / gpu).read_text().split()) == expected


def test_a_job_that_is_requeued_writes_its_line_once(slurm: World):
    for _ in range(2):
        run(slurm, "prolog.sh", SLURM_JOB_ID="8", SLURM_JOB_GPUS="0")
    assert (slurm.jobs / "0").read_text() == "8\n"


def test_a_job_whose_number_is_in_anothers_keeps_both_apart(slurm: World):
    slurm.lines("0", "12", "112", "1")
    run(slurm, "epilog.sh", SLURM_JOB_ID="12")
    assert (slurm.jobs / "0").read_text() == "112\n1\n"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing():
    scripts = sorted(SCRIPTS.glob("*.sh"))
    assert len(scripts) == 2
    subprocess.run(["shellcheck", *scripts], check=True)
