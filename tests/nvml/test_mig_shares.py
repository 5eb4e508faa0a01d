"""The rule by which a GPU's power is divided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.nvml.instances import Found, Profile, gpu_instance_sms
from collectors.nvml.power_shares import Part, PowerShares, split


@given(
    st.integers(0, 10**12), st.lists(st.integers(0, 10**9), min_size=1, max_size=14)
)  # fmt: skip
def test_split_sums_exactly_and_is_within_one_unit_of_fair(amount: int, weights: list[int]) -> None:
    shares = split(amount, weights)
    assert sum(shares) == amount
    total = sum(weights)
    for share, weight in zip(shares, weights, strict=True):
        fair = amount * weight // total if total else amount // len(weights)
        assert fair <= share <= fair + 1


parts = st.builds(
    Part, st.sampled_from([0.5, 1, 2, 3, 4, 7]), st.none() | st.floats(0, 140), st.just(16)
)


@given(
    st.lists(st.lists(parts, min_size=1, max_size=7), min_size=1, max_size=20),
    st.lists(st.integers(0, 700_000), min_size=20, max_size=20),
)
def test_whatever_happens_the_instances_sum_to_the_gpu(
    ticks: list[list[Part]], spent_mj: list[int]
) -> None:
    power = PowerShares(700)
    for now, amount in zip(ticks, spent_mj, strict=False):
        power.learn(amount / 1000, now)
        shares = power.shares(amount, amount / 1000, now)
        assert sum(shares) == amount
        assert min(shares) >= 0


def test_idle_power_goes_by_slices_and_the_rest_by_work() -> None:
    power = PowerShares(None)
    power.learn(100, [Part(4, 0.0, 64), Part(3, 0.0, 60)])
    shares = power.shares(500_000, 500, [Part(4, 32, 64), Part(3, 0.0, 60)])
    assert shares == [400_000 + 57_143, 42_857]


@pytest.mark.parametrize("work", [None, 0.0])
def test_without_work_all_goes_by_slices(work: float | None) -> None:
    shares = PowerShares(700).shares(700, 500, [Part(4, work, 64), Part(3, 0.0, 60)])
    assert shares == [400, 300]


def test_before_idle_was_seen_a_tenth_of_the_rated_power_is() -> None:
    shares = PowerShares(700).shares(100, 140, [Part(1, 10, 16), Part(1, 0.0, 16)])
    assert shares == [75, 25]


H100 = [Profile(1, 16, 9_728), Profile(1, 26, 19_968), Profile(3, 60, 40_192)]


def found(sms: int, gi_slices: int, ci_slices: int, memory_mb: int) -> Found:
    return Found(None, "MIG-a", 1, 1, "", sms, gi_slices, ci_slices, memory_mb)


@pytest.mark.parametrize(
    ("members", "profiles", "sms"),
    [
        ([found(60, 3, 3, 40_192)], H100, 60),
        ([found(16, 3, 1, 40_192)], H100, 60),
        ([found(26, 1, 1, 19_968)], H100, 26),
        ([found(16, 1, 1, 9_728)], [], 16),
        ([found(32, 4, 2, 40_192)], H100, 64),
        ([found(16, 3, 1, 40_192), found(32, 3, 2, 40_192)], [], 48),
    ],
)
def test_sms_of_a_gpu_instance(members: list[Found], profiles: list[Profile], sms: int) -> None:
    assert gpu_instance_sms(members, profiles) == sms
