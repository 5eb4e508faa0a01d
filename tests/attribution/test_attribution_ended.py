"""Jobs that are over before anybody looks, and ends that an epilog tells."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from attribution_world import TEXTS, World
from test_attribution_prolog import run

from collectors.attribution.mapping_files import parse_record

ENDED = "ended"


@pytest.fixture
def slurm(world: World) -> World:
    """The machine's own /proc, since the scripts write its boot id; a clock that is the machine's."""
    world.settings = msgspec.structs.replace(world.settings, proc=Path("/proc"))
    world.start()
    return world


def job(world: World, name: str, gpus: str) -> None:
    """One that comes and goes between two polls."""
    run(world, "prolog.sh", SLURM_JOB_ID=name, SLURM_JOB_GPUS=gpus)
    run(world, "epilog.sh", SLURM_JOB_ID=name)


def kept(world: World) -> list[Path]:
    return sorted((world.jobs / ENDED).iterdir())


def test_a_job_that_no_poll_saw_is_claimed_from_its_beginning_to_its_end(slurm: World):
    job(slurm, "12", "0,3")
    found = slurm.poll()
    assert found.occupants == {}
    assert {one.subjects[0].slots for one in slurm.claims("12")} == {(TEXTS[0],), (TEXTS[3],)}
    for one in slurm.claims("12"):
        assert one.to_us is not None
        assert one.from_us <= one.to_us <= slurm.clock.wall
        assert (one.tenant, one.user, one.source) == ("lab", "eve", "agent:n1:slurm")
    assert slurm.poll().allocations == []


def test_an_epilogs_end_is_the_end_of_an_open_claim(slurm: World):
    run(slurm, "prolog.sh", SLURM_JOB_ID="13", SLURM_JOB_GPUS="2")
    slurm.poll()
    assert [one.to_us for one in slurm.claims("13")] == [None]
    run(slurm, "epilog.sh", SLURM_JOB_ID="13")
    (path,) = kept(slurm)
    end = parse_record(path.read_bytes()).end
    slurm.poll()
    (one,) = slurm.claims("13")
    assert end is not None
    assert one.to_us == max(one.from_us, int(end.timestamp()) * 1_000_000)
    assert slurm.poll().allocations == []


def test_another_life_of_the_agent_tells_the_same_claim(slurm: World):
    job(slurm, "14", "1")
    slurm.poll()
    before = dict(slurm.told)
    slurm.start()
    slurm.poll()
    after = {key: msgspec.structs.replace(one, known_us=0) for key, one in slurm.told.items()}
    assert after == {key: msgspec.structs.replace(one, known_us=0) for key, one in before.items()}


def test_one_that_cannot_be_read_does_not_stop_the_next(slurm: World):
    job(slurm, "15", "1")
    (slurm.jobs / ENDED / "job-1-1.json").write_text("{")
    (slurm.jobs / ENDED / "job-2-1.json").write_text(
        '{"job":2,"gpu":0,"start":"2026-01-31T12:00:00Z","end":"2026-01-31T11:00:00Z"}'
    )
    slurm.poll()
    assert slurm.claims("15")
    assert slurm.claims("2") == []


def test_what_nobody_may_have_written_is_not_believed(slurm: World):
    job(slurm, "16", "1")
    (path,) = kept(slurm)
    path.chmod(0o666)
    slurm.poll()
    assert slurm.claims("16") == []
