"""Claims over time: begun, kept, ended, told again, divided; and what the ledger makes of them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from attribution_world import BOOT, GPUS, SLOTS, TEXTS, World, instances, iso, on
from hypothesis import given
from hypothesis import strategies as st
from manual_clock import ManualClock

from collectors.attribution.claims import KUBERNETES, PROCESS, RANK, SLURM, Claims, Seen
from collectors.attribution.holders import Holder
from collectors.attribution.open_claims import ClaimFile
from collectors.attribution.shares import PARTS, Use, of_instance, weights
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.source import GpuProcess
from collectors.contract.topics import Allocation
from pipeline.books.claims import Owner, Sharers, claims_of, ownership
from pipeline.books.ledger import compute_hours
from pipeline.series.columns import concat_parts

JOB = "0::/system.slice/slurmstepd.scope/job_{}/step_0/user/task_0"
S = 1_000_000


def test_one_missed_poll_is_no_end(world: World):
    world.process(10, JOB.format(7))
    world.poll(on(0, 10))
    from_us = world.clock.wall
    world.poll()
    world.poll(on(0, 10))
    assert len(world.records) == 1
    world.poll()
    missed_us = world.clock.wall
    world.poll()
    (claim,) = world.claims("7")
    assert (claim.from_us, claim.to_us) == (from_us, missed_us)
    assert world.poll().allocations == []


def test_a_restart_tells_the_same_claims_again(world: World):
    world.process(10, JOB.format(7))
    world.record("a", gpu=1, job="8", account="lab")
    world.poll(on(0, 10))
    before = list(world.records)
    world.clock.move(3_600)
    world.start()
    assert world.poll(on(0, 10)).allocations == before
    world.poll(on(0, 10))
    assert world.records == [*before, *before]


def test_what_ended_while_the_agent_was_away_ends_when_it_was_last_seen(world: World):
    path = world.record("a", gpu=1, job="8")
    for _ in range(20):
        world.poll()
    seen_us = world.clock.wall
    path.unlink()
    world.clock.move(3_600)
    world.start()
    world.poll()
    world.poll()
    (claim,) = world.claims("8")
    assert claim.to_us is not None
    assert seen_us - 60 * S <= claim.to_us <= seen_us
    assert world.holds() == {}


def test_an_end_that_died_with_the_agent_is_told_again(world: World):
    path = world.record("a", gpu=1, job="8")
    world.poll()
    path.unlink()
    world.poll()
    (told,) = world.poll().allocations
    assert told.to_us is not None
    world.start()
    assert world.poll().allocations == [told]
    for _ in range(70):
        world.poll()
    world.start()
    assert world.poll().allocations == []


def test_a_claim_that_came_back_is_not_ended_again(world: World):
    record = {"gpu": 1, "job": "8", "start": iso(world.clock.wall)}
    path = world.record("a", **record)
    world.poll()
    path.unlink()
    world.poll()
    world.poll()
    world.record("a", **record)
    world.poll()
    world.start()
    world.poll()
    assert world.holds() == {"8": [TEXTS[1]]}


def test_claims_of_an_earlier_boot_end_then(world: World):
    world.process(10, JOB.format(7))
    world.poll(on(0, 10))
    seen_us = world.clock.wall
    world.clock.move(600)
    world.boot("another", world.clock.wall - 60 * S)
    world.start()
    world.process(10, JOB.format(7), start=3)
    world.poll(on(0, 10))
    first, second = world.claims("7")
    assert first.to_us == seen_us
    assert (second.from_us, second.to_us) == (world.clock.wall, None)


def test_a_clock_set_back_gives_no_claim_that_ends_before_it_began(world: World):
    world.process(10, JOB.format(7))
    world.poll(on(0, 10))
    world.clock.wall -= 7_200 * S
    world.poll()
    world.poll()
    (claim,) = world.claims("7")
    assert claim.to_us == claim.from_us


@pytest.mark.parametrize("content", [b"", b"{", b'{"boot": 1}', b"\xff\xfe"])
def test_a_broken_memory_is_replaced(world: World, content: bytes):
    state = world.settings.state
    assert state is not None
    state.parent.mkdir()
    state.write_bytes(content)
    world.start()
    world.process(10, JOB.format(7))
    world.poll(on(0, 10))
    world.start()
    assert len(world.poll(on(0, 10)).allocations) == 1
    assert len(world.told) == 1


def test_a_memory_that_cannot_be_written_is_told(world: World):
    (world.folder / "state").write_text("a file")
    world.process(10, JOB.format(7))
    assert world.poll(on(0, 10)).occupants == {SLOTS[0]: "slurm:7"}
    assert "claims_file" in world.missing


def test_a_shared_gpu_is_divided_by_what_was_used(world: World):
    for pid in (10, 11, 12):
        world.process(pid, JOB.format(pid // 11 + 7))
    shared = (on(0, 10, 0.6), on(0, 11, 0.1), on(0, 12, 0.1))
    world.poll(*shared)
    assert [(one.weight, one.shared) for one in world.told.values()] == [(1, True), (1, True)]
    for _ in range(370):
        world.poll(*shared)
    assert len(world.records) == 4
    told = {one.job: one.weight for one in world.told.values()}
    assert told == {"7": 750, "8": 250}
    world.poll(on(0, 10, 0.6))
    world.poll(on(0, 10, 0.6))
    assert {one.job: one.weight for one in world.told.values()} == {"7": 750, "8": 250}
    assert world.holds() == {"7": [TEXTS[0]]}


def test_a_holder_who_gets_company_shares_from_then_on(world: World):
    """The ledger gives all of the GPU to the first until then, and divides it after."""
    world.process(10, JOB.format(7))
    world.poll(on(0, 10))
    (alone,) = world.told.values()
    assert not alone.shared
    world.process(11, JOB.format(8), start=200)
    world.clock.move(60)
    world.poll(on(0, 10), on(0, 11))
    assert {one.job: one.shared for one in world.told.values()} == {"7": True, "8": True}
    told = [claim for one in world.told.values() for claim in claims_of(one)]
    begun_us = [one.from_us for one in told]
    pieces = ownership(told, SLOTS[0], min(begun_us), world.clock.wall + S)
    holders = [
        (piece.from_us, [share.owner.job for share in piece.owner.shares])
        for piece in pieces
        if isinstance(piece.owner, Sharers)
    ]
    assert holders == [(min(begun_us), ["7"]), (max(begun_us), ["7", "8"])]


def test_where_one_use_is_unknown_all_are_equal(world: World):
    world.process(10, JOB.format(7))
    world.process(11, JOB.format(8))
    for _ in range(400):
        world.poll(on(0, 10, 0.9), on(0, 11))
    assert {one.weight for one in world.told.values()} == {1}


def test_one_job_after_another_is_no_sharing(world: World):
    world.process(10, JOB.format(7))
    world.process(11, JOB.format(8))
    world.poll(on(0, 10, 0.9))
    for _ in range(400):
        world.poll(on(0, 11, 0.9))
    assert {(one.weight, one.shared) for one in world.told.values()} == {(1, False)}


def test_the_ledger_gives_every_moment_to_one(world: World):
    """A mapping file, a pod's cgroup below it, and a gap: as the books see it."""
    begun_us = world.clock.wall
    world.process(10, JOB.format(7))
    for _ in range(6):
        world.poll(on(0, 10))
    world.record("a", gpu=0, job="9", account="lab")
    for _ in range(6):
        world.poll(on(0, 10))
    (world.jobs / "a.json").unlink()
    for _ in range(6):
        world.poll()
    claims = [claim for one in world.told.values() for claim in claims_of(one)]
    pieces = ownership(claims, SLOTS[0], begun_us, world.clock.wall)
    owners = [(p.to_us - p.from_us, p.owner) for p in pieces]
    assert [(us, one.tenant) for us, one in owners if isinstance(one, Owner)] == [
        (10 * S, ""),
        (60 * S, "uid-1234"),
        (60 * S, "lab"),
        (50 * S, ""),
    ]


@given(st.lists(st.tuples(st.floats(0, 1e12), st.booleans()), max_size=12))
def test_weights_are_parts_of_the_whole_gpu(given_uses: list[tuple[float, bool]]):
    uses = [Use(busy, unmeasured) for busy, unmeasured in given_uses]
    found = weights(uses)
    assert len(found) == len(uses)
    assert all(isinstance(one, int) and one >= 1 for one in found)
    measured = len(uses) > 1 and not any(use.unmeasured for use in uses)
    if measured and sum(use.busy_us for use in uses) > 0:
        assert sum(found) == PARTS
    else:
        assert set(found) <= {1}


holders = st.builds(
    Holder,
    scheme=st.just("slurm"),
    name=st.sampled_from(["1", "2", "3"]),
    life=st.sampled_from(["", "", "x", "y"]),
    account=st.sampled_from(["", "lab"]),
    start_us=st.none() | st.integers(0, 400).map(lambda s: s * S),
)
seen = st.builds(
    Seen,
    st.sampled_from([SLURM, KUBERNETES, PROCESS]),
    st.lists(holders, max_size=3, unique_by=lambda one: one.name),
)
steps = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(SLOTS[:2]), seen),
        st.sets(st.sampled_from([SLURM, KUBERNETES])),
        st.sampled_from(["", "", "", "restart", "reboot", "step"]),
    ),
    max_size=25,
)


@given(steps)
def test_whatever_is_seen_claims_hold_the_laws(
    given_steps: list[tuple[dict[int, Seen], set[str], str]],
):
    with TemporaryDirectory() as folder:
        clock, boot, told = ManualClock(500 * S), BOOT, dict[bytes, Allocation]()
        file = ClaimFile(Path(folder) / "claims.json")
        claims = Claims("n1", clock, file, boot)
        for found, held, happening in given_steps:
            clock.move(10)
            if happening == "step":
                clock.wall -= 3_600 * S
            elif happening:
                boot += "x" * (happening == "reboot")
                claims = Claims("n1", clock, file, boot)
            for one in claims.update(found, held, {}):
                before = told.get(one.key)
                # An id is one holder on one slot from one moment on, for ever.
                assert before is None or (before.subjects, before.job, before.from_us) == (
                    one.subjects, one.job, one.from_us,
                )  # fmt: skip
                told[one.key] = one
            _check(claims, told, found)
        # Whatever the file remembers is just what is open by the records.
        again = Claims("n1", clock, file, boot)
        assert sorted(again.slots) == sorted(claims.slots)


def _check(claims: Claims, told: dict[bytes, Allocation], found: dict[int, Seen]) -> None:
    for one in told.values():
        assert one.to_us is None or one.to_us >= one.from_us
        assert one.weight >= 1
    for slot in SLOTS[:2]:
        text = GPUS[SLOTS.index(slot)].slot
        assert text == slot
        mine = [one for one in told.values() if one.to_us is None]
        here = [one for one in mine if one.subjects[0].slots == (TEXTS[SLOTS.index(slot)],)]
        assert len({one.source for one in here}) <= 1, "two sources on one slot at once"
        assert sorted(one.job for one in here) == sorted(one.name for one in claims.on(slot))
        now = found.get(slot)
        if now is not None and here and RANK[now.kind] >= RANK[here[0].source.rpartition(":")[2]]:
            assert {one.name for one in now.holders} <= {one.job for one in here}


def test_a_memory_reads_back_whole(tmp_path: Path):
    clock = ManualClock()
    file = ClaimFile(tmp_path / "a/claims.json")
    claims = Claims("n1", clock, file, BOOT)
    holder = Holder("slurm", "1", "x", 5, "lab", "eve", "ns", shares=True)
    claims.update(
        {SLOTS[0]: Seen(SLURM, [holder, msgspec.structs.replace(holder, name="2")])}, [], {}
    )
    clock.move(60)
    seats = {SLOTS[0]: Seen(SLURM, [holder, msgspec.structs.replace(holder, name="2")])}
    claims.update(seats, [], {SLOTS[0]: {"slurm:1": 0.5}})
    left = file.load()
    assert left is not None
    assert (left.boot, left.seen_us) == (BOOT, clock.wall)
    assert [one.holder for one in left.claims] == seats[SLOTS[0]].holders
    assert [one.use and one.use.busy_us for one in left.claims] == [30 * S, 0]


def test_an_instance_is_some_of_its_gpu_s_slices_in_the_ledger(world: World):
    """The inventory has GPUs alone; what nobody has of a divided one is unallocated."""
    parts = [
        place._replace(profile=profile)
        for place, profile in zip(
            instances(2, 1, 5, 6), ("3g.40gb", "1c.2g.20gb", "odd"), strict=True
        )
    ]
    world.places += parts
    for pid, key in ((10, 7), (11, 8), (12, 9), (13, 7)):
        world.process(pid, JOB.format(key))
    shown = [GpuProcess(one.slot, 10 + index) for index, one in enumerate(parts)]
    # Job 7 has the whole of another GPU too, which is told once.
    found = world.poll(*shown, on(3, 13))
    assert found.occupants[parts[1].slot] == "slurm:8"
    told = [one for one in world.told.values() if one.subjects[0].slots == (TEXTS[2],)]
    assert {one.job: (one.weight, one.parts) for one in told} == {
        "7": (3 * PARTS, 7 * PARTS), "8": (PARTS, 7 * PARTS), "9": (PARTS, 7 * PARTS),
    }  # fmt: skip
    hour = max(one.from_us for one in told) // 3_600_000_000 + 1
    node = InstalledNode("n1", "h", "r", "H800-SXM", (SLOTS[2],), 1.0)
    site = Inventory("t", "T", "UTC", "FP16", "dense", "boost clock", (node,))
    claims = {"n1": [claim for one in world.told.values() for claim in claims_of(one)]}
    rows = compute_hours(concat_parts([]), claims, site, range(hour, hour + 1), ["n1"]).by_key()
    shares = {(key[3], key[6]): row["unobserved_us"] for key, row in rows.items()}
    assert sum(shares.values()) == 3_600_000_000
    assert {key: round(us * 7 / 3_600_000_000) for key, us in shares.items()} == {
        ("tenant", "7"): 3, ("tenant", "8"): 1, ("tenant", "9"): 1, ("unallocated", ""): 2,
    }  # fmt: skip


def test_who_has_a_whole_divided_gpu_has_it_once(world: World):
    world.places += instances(1, 3, 4)
    world.record("a", gpu=1, job="8")
    found = world.poll()
    assert len(found.occupants) == 3
    (claim,) = world.told.values()
    assert (claim.subjects[0].slots, claim.shared, claim.parts) == ((TEXTS[1],), False, 0)
    world.start()
    assert len(world.poll().occupants) == 3
    assert len(world.told) == 1


@given(st.integers(1, 7), st.lists(st.integers(1, PARTS), min_size=1, max_size=9))
def test_those_on_one_instance_have_it_between_them(slices: int, shares: list[int]):
    given_ = of_instance(slices, shares)
    assert sum(given_) == slices * PARTS
    assert min(given_) >= 1
