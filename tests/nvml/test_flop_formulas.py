"""The formulas, case by case and as laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.contract.flop import FlopFlag, FlopMethod
from collectors.contract.models import GpuModel, find_model
from collectors.kit import flops
from collectors.kit.flops import ClockSpan, Pipes

SECOND_US = 1_000_000


def model(name: str) -> GpuModel:
    found = find_model(name)
    assert found is not None
    return found


def rates(name: str) -> flops.Rates:
    found = flops.rates_of(model(name))
    assert found is not None
    return found


def steady(mhz: float) -> ClockSpan:
    return ClockSpan(mhz, mhz, mhz)


def test_a_known_case() -> None:
    """0.80 × 132 SMs × 4,096 FLOP × 1,755 MHz = 759.1 TFLOP/s, by both methods."""
    h100 = rates("NVIDIA H100 80GB HBM3")
    pipe = flops.by_activity(FlopMethod.PIPE, h100, Pipes(0.80), steady(1755), SECOND_US)
    assert pipe.gflop == pytest.approx(759_100, rel=1e-4)
    assert (pipe.lo / pipe.gflop, pipe.hi / pipe.gflop) == pytest.approx((0.95, 1.05))
    cycles = flops.by_cycles(h100, Pipes(0.80 * 1755e6), 1755e6, SECOND_US)
    assert cycles.gflop == pytest.approx(759_100, rel=1e-4)
    assert (cycles.lo / cycles.gflop, cycles.hi / cycles.gflop) == pytest.approx((0.97, 1.03))
    assert cycles.mean_clock_mhz == pytest.approx(1755)


def test_a_device_with_fewer_sms_than_its_table() -> None:
    fewer = flops.rates_of(model("H100-SXM"), 114)
    assert fewer is not None
    assert fewer.fp16 == pytest.approx(rates("H100-SXM").fp16 * 114 / 132)


def test_no_rates() -> None:
    assert flops.rates_of(None) is None
    assert flops.rates_of(model("H20")) is None
    assert flops.rates_of(model("B100")) is None
    assert flops.rates_of(model("B100"), 144) is not None


def test_separate_rates_come_from_the_table() -> None:
    h800, b300, t4 = rates("H800-SXM"), rates("B300"), rates("T4")
    assert h800.fp64 == pytest.approx(132 * 4 * 1e-9)
    assert b300.int8 is None
    assert t4.fp64 is None
    assert t4.int8 == pytest.approx(40 * 2048 * 1e-9)


@pytest.mark.parametrize(
    ("pipes", "share", "mismatch"),
    [
        (Pipes(0.8, 0.8, 0.0, 0.0), 0.8, False),
        (Pipes(0.9, 0.4, 0.3, 0.2), 0.4, False),
        (Pipes(0.9, 0.1, 0.3, 0.2), 0.4, True),
        (Pipes(0.8, 0.0, 0.0, 0.0), 0.8, True),
        (Pipes(0.5, 0.6, 0.0, 0.0), 0.5, True),
        (Pipes(0.8), 0.8, False),
        (Pipes(0.8, 0.3), 0.8, False),
        (Pipes(0.2, None, 0.3, 0.0), 0.0, False),
    ],
)
def test_what_of_any_tensor_pipe_is_floating_point(
    pipes: Pipes, share: float, mismatch: bool
) -> None:
    found, doubtful = flops.float_share(pipes)
    assert found == pytest.approx(share)
    assert doubtful is mismatch


def test_bounds_widen_with_the_clock_and_the_method() -> None:
    h100, a100 = rates("H100-SXM"), rates("A100-SXM4-80GB")
    seen = ClockSpan(1250, 1000, 1500, buffered=True)
    moving = flops.by_activity(FlopMethod.PIPE, h100, Pipes(0.5), seen, SECOND_US)
    assert moving.hi / moving.gflop == pytest.approx(1.10)
    assert moving.flags is FlopFlag.CLOCK_MOVING
    blind = flops.ends_clock(345, 1980)
    wide = flops.by_activity(FlopMethod.PIPE, h100, Pipes(0.5), blind, SECOND_US)
    assert wide.lo <= 0.5 * h100.fp16 * 345e6 * 1.0001
    assert wide.hi >= 0.5 * h100.fp16 * 1980e6 * 0.9999
    scraped = flops.by_activity(FlopMethod.EXPORTER, a100, Pipes(0.5), steady(1400), SECOND_US)
    assert scraped.lo / scraped.gflop == pytest.approx(0.90)


@pytest.mark.parametrize(
    ("pipes", "mhz"),
    [(Pipes(1.2), 1500), (Pipes(-0.1), 1500), (Pipes(1.0), 2500), (Pipes(0.5, 0.2, 1.3), 1500)],
)
def test_the_impossible_does_not_count(pipes: Pipes, mhz: float) -> None:
    window = flops.by_activity(FlopMethod.PIPE, rates("H100-SXM"), pipes, steady(mhz), SECOND_US)
    assert (window.elapsed_us, window.gflop) == (0, 0.0)
    assert window.flags is FlopFlag.IMPOSSIBLE_RATE


@pytest.mark.parametrize(
    ("pipes", "elapsed"), [(Pipes(1.2e9), 1e9), (Pipes(1e9), 0.0), (Pipes(2.9e9), 3e9)]
)
def test_impossible_cycles_do_not_count(pipes: Pipes, elapsed: float) -> None:
    window = flops.by_cycles(rates("H100-SXM"), pipes, elapsed, SECOND_US)
    assert window.flags is FlopFlag.IMPOSSIBLE_RATE
    assert window.elapsed_us == 0


def test_sms_that_are_switched_off_are_idle() -> None:
    window = flops.by_cycles(rates("H100-SXM"), Pipes(0.0, 0.0, 0.0, 0.0), 0.0, SECOND_US)
    assert (window.elapsed_us, window.gflop, window.flags) == (SECOND_US, 0.0, FlopFlag.NONE)


ratio = st.floats(-0.2, 1.3)
clock = st.floats(0, 3000)


@given(
    ratio, st.none() | ratio, st.none() | ratio, st.none() | ratio, clock, clock,
    st.integers(1, 10_000_000), st.sampled_from([FlopMethod.PIPE, FlopMethod.EXPORTER]),
)  # fmt: skip
def test_a_window_counts_and_holds_its_bounds_or_says_why(
    any_: float,
    half: float | None,
    integer: float | None,
    double: float | None,
    before: float,
    now: float,
    elapsed_us: int,
    method: FlopMethod,
) -> None:
    most = rates("H100-SXM")
    pipes = Pipes(any_, half, integer, double)
    window = flops.by_activity(method, most, pipes, flops.ends_clock(before, now), elapsed_us)
    assert math.isfinite(window.hi)
    if not window.elapsed_us:
        assert window.flags
        assert (window.gflop, window.lo, window.hi) == (0, 0, 0)
        return
    assert 0 <= window.lo <= window.gflop <= window.hi
    assert window.gflop <= 1.02 * most.fp16 * 1980 * elapsed_us * 1.0001
