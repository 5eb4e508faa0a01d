"""The month that nobody simulated second by second: exact in time, near in the mean."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from collectors.simulator.fleet import Fleet
from collectors.simulator.jobs import NOBODY, Job, Owner
from collectors.simulator.meter import PhysicalMeter
from collectors.simulator.past import Past, make_past
from collectors.simulator.sharing import deal_out
from collectors.simulator.sites import make_site
from collectors.simulator.workload import Workload

HOUR_US = 3_600_000_000
FIRST = 500_000
STATES = ("active_us", "idle_us", "down_us", "unobserved_us")


def test_every_gpu_hour_is_there_once_and_whole():
    for past in make_past("demo", 3, range(FIRST, FIRST + 30)):
        total = Counter[tuple[int, int]]()
        keys: set[tuple[int, int, int]] = set()
        columns = [past.figures[name].tolist() for name in STATES]
        for row, (node, slot, owner) in enumerate(
            zip(past.node.tolist(), past.slot.tolist(), past.owner.tolist(), strict=True)
        ):
            states = [column[row] for column in columns]
            assert min(states) >= 0
            total[node, slot] += sum(states)
            keys.add((node, slot, owner))
        assert len(keys) == len(past.node)
        assert set(total.values()) == {HOUR_US}
        assert len(total) == 64
        assert all((column >= 0).all() for column in past.figures.values())


def test_owners_are_those_of_the_same_workload():
    site = make_site("demo")
    workload = Workload(site, 5, FIRST * HOUR_US)
    held: dict[str, float] = defaultdict(float)
    sharing: set[str] = set()
    end_us = (FIRST + 20) * HOUR_US
    since: dict[int, int] = {}

    def hold(job: Job, length_us: int) -> None:
        parts = sum(each for _, each in job.shares)
        for owner, each in job.shares:
            held[owner[1]] += job.gpus * length_us * each / parts
        sharing.update(one.tenant for one in job.members)

    for change in workload.changes(end_us):
        job = change.job
        if change.started:
            since[job.number] = change.time_us
        else:
            hold(job, change.time_us - since.pop(job.number))
    for number, from_us in since.items():
        hold(workload.running[number], end_us - from_us)
    found: Counter[str] = Counter()
    for past in Past(site, 5, range(FIRST, FIRST + 20)):
        figures = sum(past.figures[name] for name in STATES)
        assert isinstance(figures, np.ndarray)
        for owner, us in zip(past.owner.tolist(), figures.tolist(), strict=True):
            found[past.owners[owner][1]] += us
    idle = found.pop("") - held.pop("", 0)
    assert idle > 0
    assert sharing
    assert found.keys() == held.keys()
    for tenant, us in found.items():
        # Each of the four states is rounded by itself, in every hour of a share.
        assert us == pytest.approx(held[tenant], abs=4 * 20 * 8 if tenant in sharing else 0)


def test_rows_of_a_shared_gpu_are_divided_by_parts_and_joined_by_owner():
    ant, bee = ("tenant", "ant", "p", "a"), ("tenant", "bee", "p", "b")
    alone, both = ((NOBODY, 1),), ((ant, 2), (bee, 3), (NOBODY, 2))
    gpu, code = np.array([4, 4, 9]), np.array([0, 1, 1])
    dealt = deal_out(gpu, code, [alone, both], {"gflop": np.array([5, 10, 7])})
    gpus, owners, gflop = dealt.gpu.tolist(), dealt.owner.tolist(), dealt.figures["gflop"].tolist()
    rows: dict[tuple[int, Owner], int] = {
        (gpus[row], dealt.owners[owners[row]]): gflop[row] for row in range(len(gpus))
    }
    assert rows == {
        (4, NOBODY): 5 + 3, (4, ant): 2, (4, bee): 5,
        (9, NOBODY): 2, (9, ant): 2, (9, bee): 3,
    }  # fmt: skip


def test_its_means_are_those_of_the_second_by_second_simulation():
    site = make_site("demo")
    fleet = Fleet(site, 6, FIRST * HOUR_US, 5.0)
    meter = PhysicalMeter(fleet, 6)
    for _ in range(720):
        meter.note(fleet.step())
    truth = meter.finish()
    [past] = list(Past(site, 6, range(FIRST, FIRST + 1)))
    seen = ~fleet.hardware.down
    energy_j = sum(row.energy_mj for row in truth.rows) / 1000
    assert past.figures["energy_mj"].sum() / 1000 == pytest.approx(energy_j * seen.mean(), rel=0.04)
    gflop = sum(row.gflop for row in truth.rows)
    assert past.figures["gflop"].sum() == pytest.approx(gflop, rel=0.06)
    active = sum(row.active_us for row in truth.rows)
    assert past.figures["active_us"].sum() == pytest.approx(active, rel=0.06)


def test_the_same_arguments_give_the_same_rows_and_a_longer_past_begins_alike():
    short = list(make_past("demo", 2, range(FIRST, FIRST + 3)))
    longer = list(make_past("demo", 2, range(FIRST, FIRST + 5)))
    for one, other in zip(short, longer[:3], strict=True):
        assert one.owners == other.owners
        for name, column in one.figures.items():
            assert (column == other.figures[name]).all()


def test_a_site_that_grows_has_the_new_gpus_from_their_day_on():
    site = make_site("aisc-step:2027-01-15")
    day_us = next(node.from_us for node in site.nodes if node.from_us)
    first = day_us // HOUR_US - 2
    counts = [
        len(set(zip(past.node.tolist(), past.slot.tolist(), strict=True)))
        for past in Past(site, 1, range(first, first + 4))
    ]
    assert counts == [1_952, 1_952, 3_672, 3_672]
