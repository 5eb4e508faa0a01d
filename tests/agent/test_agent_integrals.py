"""The agent's own counters: FLOP, state times and energy by power."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.agent.integrals import ActivityRule, SlotIntegrals
from collectors.contract.models import GpuModel, find_model

SECOND_US = 1_000_000


def model(name: str) -> GpuModel:
    found = find_model(name)
    assert found is not None
    return found


def test_estimate_is_apart_from_the_measurement() -> None:
    integrals = SlotIntegrals(ActivityRule())
    values = {"gpu_utilization": 1.0, "sm_clock_mhz": 1410.0}
    integrals.advance(0, values, model("A100-SXM4-80GB"))
    integrals.advance(SECOND_US, values, model("A100-SXM4-80GB"))
    counters = integrals.counters()
    assert "gflop" not in counters
    assert counters["gflop_estimated"] == int(0.35 * 108 * 2048 * 1410 * 1e6 / 1e9)


def test_unknown_model_has_no_flop() -> None:
    integrals = SlotIntegrals(ActivityRule())
    values = {"gpu_utilization": 1.0, "sm_clock_mhz": 1410.0, "tensor_activity": 0.9}
    integrals.advance(SECOND_US, values, None)
    assert not {"gflop", "gflop_lo", "gflop_hi", "gflop_estimated"} & integrals.counters().keys()


def test_first_window_of_gpm_is_no_estimate() -> None:
    integrals = SlotIntegrals(ActivityRule())
    h100 = model("H100-SXM")
    integrals.advance(0, {"gpu_utilization": 1.0, "sm_clock_mhz": 1755.0}, h100)
    values = {"gpu_utilization": 1.0, "sm_clock_mhz": 1755.0, "tensor_activity": 0.8}
    integrals.advance(SECOND_US, values, h100)
    counters = integrals.counters()
    assert "gflop_estimated" not in counters
    assert counters["gflop"] == pytest.approx(759_100, rel=1e-4)


@pytest.mark.parametrize(
    ("values", "active"),
    [({"gpu_utilization": 0.05}, True), ({"gpu_utilization": 0.049}, False),
     ({"gpu_utilization": 0.0, "sm_activity": 0.9}, False), ({"sm_activity": 0.01}, True),
     ({"sm_activity": 0.009}, False), ({"power_w": 700.0}, None)],
)  # fmt: skip
def test_active(values: dict[str, float], active: bool | None) -> None:
    integrals = SlotIntegrals(ActivityRule())
    integrals.advance(SECOND_US, values, None)
    counters = integrals.counters()
    assert counters["active_us"] == (SECOND_US if active else 0)
    assert counters["observed_us"] == (0 if active is None else SECOND_US)
    assert counters["down_us"] == 0


def test_down_time() -> None:
    integrals = SlotIntegrals(ActivityRule())
    integrals.advance(0, {"gpu_utilization": 1.0}, None)
    integrals.advance(SECOND_US, None, None)
    assert integrals.counters() == {"observed_us": 0, "active_us": 0, "down_us": SECOND_US}


def test_energy_is_the_integral_of_power() -> None:
    """A ramp: the mean of both ends is exact."""
    integrals = SlotIntegrals(ActivityRule())
    for second in range(11):
        integrals.advance(SECOND_US if second else 0, {"power_w": 100.0 * second}, None)
    assert integrals.energy_mj == 5_000_000


steps = st.lists(
    st.tuples(
        st.integers(0, 2_000_000),
        st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {},
                optional={
                    "gpu_utilization": st.floats(0, 1),
                    "sm_activity": st.floats(0, 1.02),
                    "tensor_activity": st.floats(-1, 2),
                    "sm_clock_mhz": st.floats(0, 3000),
                    "power_w": st.floats(0, 1500),
                },
            ),
        ),
    ),
    max_size=30,
)


@given(steps)
def test_counters_never_fall_and_state_times_fit(
    given_steps: list[tuple[int, dict[str, float] | None]],
) -> None:
    integrals = SlotIntegrals(ActivityRule())
    before: dict[str, int] = {}
    energy_mj = elapsed_us = 0
    for step_us, values in given_steps:
        integrals.advance(step_us, values, model("H100-SXM"))
        elapsed_us += step_us
        now = integrals.counters()
        assert all(now[name] >= value for name, value in before.items())
        assert now["active_us"] <= now["observed_us"]
        assert now["observed_us"] + now["down_us"] <= elapsed_us
        if "gflop" in now:
            assert now["gflop_lo"] <= now["gflop"] <= now["gflop_hi"]
            assert math.isfinite(now["gflop_hi"])
        assert integrals.energy_mj >= energy_mj
        before, energy_mj = now, integrals.energy_mj
