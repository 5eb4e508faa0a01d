"""GPUs that several tenants hold at once: who they are, and what of the whole is each one's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collectors.simulator.classes import JobClass
from collectors.simulator.hardware import I64
from collectors.simulator.jobs import Member, Owner, Shares
from collectors.simulator.tenants import Tenant

_MOST = 3
"""Of the parts that one member has."""


def draw_members(
    klass: JobClass, job_id: str, tenants: Sequence[Tenant], rng: np.random.Generator
) -> tuple[Member, ...]:
    """Members of different tenants, each with one to three parts; with slices no more than fit."""
    count = int(rng.choice(klass.members))
    places: list[int] = rng.choice(len(tenants), count, replace=False).tolist()
    weights: list[int] = rng.integers(1, _MOST + 1, count).tolist()
    members: list[Member] = []
    held = 0
    for place, weight in zip(places, weights, strict=True):
        if klass.parts and held + weight > klass.parts:
            break
        held += weight
        tenant = tenants[place]
        project = tenant.projects[int(rng.integers(len(tenant.projects)))]
        members.append(Member(f"{job_id}.{len(members) + 1}", tenant.name, project, weight))
    return tuple(members)


class Dealt(NamedTuple):
    """Columns of N by (gpu, owner); `owner` indexes `owners`."""

    gpu: I64
    owner: I64
    owners: Sequence[Owner]
    figures: Mapping[str, I64]


def deal_out(gpu: I64, code: I64, shares: Sequence[Shares], figures: Mapping[str, I64]) -> Dealt:
    """Divides rows of GPUs among those who share them, by floors over their parts; what belongs
    to the same owner of a GPU becomes one row.  `code` indexes `shares`, one per row."""
    owners: dict[Owner, int] = {}
    cuts: list[tuple[int, int, int, int]] = []
    for each in shares:
        low, whole = 0, sum(parts for _, parts in each)
        for owner, parts in each:
            cuts.append((owners.setdefault(owner, len(owners)), low, low + parts, whole))
            low += parts
    table = np.array(cuts, np.int64)
    counts = np.array([len(each) for each in shares], np.int64)
    starts = np.cumsum(counts) - counts
    many = counts[code]
    row = np.repeat(np.arange(len(code)), many)
    within = np.arange(len(row)) - np.repeat(np.cumsum(many) - many, many)
    owner, low, high, whole = table[starts[code][row] + within].T
    order = np.lexsort((owner, gpu[row]))
    heads = np.flatnonzero(_new(gpu[row][order], owner[order]))
    divided = {
        name: np.add.reduceat(
            (column[row] * high // whole - column[row] * low // whole)[order], heads
        )
        for name, column in figures.items()
    }
    return Dealt(gpu[row][order][heads], owner[order][heads], list(owners), divided)


def _new(gpu: I64, owner: I64) -> NDArray[np.bool_]:
    """Where a (gpu, owner) differs from the one before."""
    heads = np.ones(len(gpu), np.bool_)
    heads[1:] = (gpu[1:] != gpu[:-1]) | (owner[1:] != owner[:-1])
    return heads
