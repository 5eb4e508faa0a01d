"""Jobs hold whole GPUs, one job at a time, near the target, and the same by seed."""

from __future__ import annotations

from collections import Counter

import pytest

from collectors.contract.topics import Allocation
from collectors.simulator.claims import claims_of
from collectors.simulator.jobs import Change
from collectors.simulator.sites import make_site
from collectors.simulator.tenants import make_tenants
from collectors.simulator.workload import CEILING, Workload

START_US = 1_800_000_000_000_000
HOUR_US = 3_600_000_000


def _history(site: str, seed: int, hours: float, step_s: int = 60) -> tuple[Workload, list[Change]]:
    workload = Workload(make_site(site), seed, START_US)
    changes = workload.changes(START_US)
    end_us = START_US + round(hours * HOUR_US)
    for time_us in range(START_US, end_us, step_s * 1_000_000):
        changes += workload.changes(time_us)
    return workload, changes


@pytest.mark.parametrize("site", ["demo", "aisc-phase1"])
def test_no_slot_is_ever_held_twice(site: str):
    _, changes = _history(site, 3, 6)
    holders: dict[tuple[int, int], int] = {}
    for change in changes:
        for node, mask in change.job.holds:
            for bit in range(8):
                if mask >> bit & 1:
                    if change.started:
                        assert (node, bit) not in holders
                        holders[node, bit] = change.job.number
                    else:
                        assert holders.pop((node, bit)) == change.job.number
    times = [change.time_us for change in changes]
    assert times == sorted(times)
    assert sum(not change.started for change in changes) > 10


def test_between_three_quarters_and_85_percent_are_allocated_at_all_times():
    inventory = make_site("aisc-phase1")
    workload = Workload(inventory, 5, START_US)
    for minute in range(0, 24 * 60, 3):
        workload.changes(START_US + minute * 60_000_000)
        assert 0.75 <= workload.allocated / inventory.gpus(START_US) <= 0.85
    assert CEILING < 0.85


def test_the_same_seed_gives_the_same_history_and_another_one_another():
    _, one = _history("demo", 1, 2)
    _, again = _history("demo", 1, 2)
    _, other = _history("demo", 2, 2)
    assert one == again
    assert one != other


def test_how_often_it_is_asked_changes_nothing():
    _, often = _history("aisc-phase1", 4, 0.5, step_s=1)
    _, seldom = _history("aisc-phase1", 4, 0.5, step_s=1799)
    assert often[: len(seldom)] == seldom[: len(often)]


def test_gangs_sit_on_whole_nodes_of_one_model():
    workload, changes = _history("aisc-phase2", 1, 1)
    entries = make_site("aisc-phase2").at(START_US)
    large = [change.job for change in changes if change.job.gpus > 8]
    assert large
    for job in large:
        assert all(mask == 0xFF for _, mask in job.holds)
        assert len({entries[node].model for node, _ in job.holds}) == 1
        assert len(job.holds) * 8 == job.gpus
    assert workload.running


def test_allocations_say_who_where_and_from_when_to_when():
    inventory = make_site("demo")
    slots = {entry.name: len(entry.slots) for entry in inventory.nodes}
    workload, changes = _history("demo", 6, 1)
    told: dict[bytes, Allocation] = {}
    entries = inventory.at(START_US)
    for change, allocation in ((each, one) for each in changes for one in claims_of(each, entries)):
        told[allocation.key] = allocation
        gpus = sum(len(s.slots) or slots[s.node] for s in allocation.subjects)
        assert gpus == change.job.gpus
        assert allocation.from_us == change.job.start_us
        assert allocation.to_us == (None if change.started else change.time_us)
        assert (allocation.kind == "maintenance") == (allocation.tenant == "")
    kinds = Counter(allocation.kind for allocation in told.values())
    assert kinds["maintenance"] >= 1
    running = {allocation.id for allocation in told.values() if allocation.to_us is None}
    labels = [job.label or job.id for job in workload.running.values()]
    assert running == {each for label in labels for each in label.split(",")}


def test_small_tenants_share_gpus_and_slices_of_gpus():
    inventory = make_site("aisc-phase1")
    small = {tenant.name for tenant in make_tenants()[1]}
    workload, changes = _history("aisc-phase1", 2, 12, step_s=600)
    entries = inventory.at(START_US)
    jobs = {
        change.job.number: change for change in changes if change.job.members and change.started
    }
    gpu_us: Counter[str] = Counter()
    for change in jobs.values():
        job, told = change.job, claims_of(change, entries)
        assert job.gpus == 1
        assert len({one.tenant for one in told}) == len(told)
        assert {one.tenant for one in told} <= small
        assert all(one.shared and 1 <= one.weight <= 3 for one in told)
        assert [one.id for one in told] == sorted(one.id for one in told)
        assert {one.parts for one in told} == {7 if job.klass.name == "mig" else 0}
        assert sum(one.weight for one in told) <= 7 or job.klass.name == "shared"
        assert sum(parts for _, parts in job.shares) == max(
            7 * (job.klass.name == "mig"), sum(one.weight for one in told)
        )
        assert job.label == ",".join(one.id for one in told)
    for job in workload.running.values():
        gpu_us[job.klass.name] += job.gpus
    assert {change.job.klass.name for change in jobs.values()} == {"shared", "mig"}
    assert {len(change.job.members) for change in jobs.values()} >= {2, 3, 4}
    assert any(change.job.shares[-1][0][0] == "unallocated" for change in jobs.values())
    for name in ("shared", "mig"):
        assert 0.01 <= gpu_us[name] / workload.allocated <= 0.035


def test_where_a_large_job_waits_gpus_to_share_do_not_fill_its_room():
    workload = Workload(make_site("demo"), 2, START_US)
    for minute in range(0, 72 * 60, 20):
        workload.changes(START_US + minute * 60_000_000)
        held = Counter(job.klass.name for job in workload.running.values() if job.members)
        assert max(held.values(), default=0) <= 2


def test_a_later_life_never_reuses_ids():
    first = Workload(make_site("demo"), 1, START_US).changes(START_US)
    later = Workload(make_site("demo"), 1, START_US + 1_000_000).changes(START_US + 1_000_000)
    assert not {change.job.id for change in first} & {change.job.id for change in later}


def test_there_are_a_few_dozen_large_tenants_and_330_small_ones():
    large, small = make_tenants()
    assert len(large) == 36
    assert len(small) == 330
    assert len({tenant.name for tenant in (*large, *small)}) == 366


def test_nothing_starts_on_what_is_drained_until_its_time():
    workload = Workload(make_site("demo"), 3, START_US)
    until_us = START_US + 3 * HOUR_US
    for gpu in range(8):
        workload.fail(gpu, START_US)
        workload.drain(gpu, until_us)
    seen: list[int] = []
    for change in workload.changes(START_US + 12 * HOUR_US):
        held = any(node == 0 for node, _ in change.job.holds)
        if held and change.started and change.time_us > START_US:
            seen.append(change.time_us)
    assert seen
    assert min(seen) >= until_us
    assert workload.allocated <= 64
