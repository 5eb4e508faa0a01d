"""Counters are integrals of the gauges beside them, and the figures are those of real fleets."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind
from collectors.contract.record import NodeRecord
from collectors.contract.wire import parse
from collectors.simulator.fleet import Fleet
from collectors.simulator.hardware import model_figures
from collectors.simulator.sites import make_site

START_US = 1_800_000_000_000_000
Series = dict[str, list[NodeRecord]]


@pytest.fixture(scope="module")
def fleet_and_series() -> tuple[Fleet, Series]:
    """Three minutes of the demonstration site, by node in order of time."""
    fleet = Fleet(make_site("demo"), 11, START_US)
    series: Series = {}
    for _ in range(180):
        for record in fleet.step().records:
            told = parse(record)
            series.setdefault(told.node, []).append(told)
    return fleet, series


def _column(records: list[NodeRecord], name: str) -> NDArray[np.float64]:
    """[T, 8] values; NaN where absent."""
    absent = [np.nan] * 8
    rows = [
        [np.nan if v == COUNTER_ABSENT else v for v in r.values.get(name, absent)] for r in records
    ]
    return np.array(rows, np.float64)


def _elapsed_us(records: list[NodeRecord]) -> NDArray[np.float64]:
    return np.diff([record.time_us for record in records])[:, np.newaxis].astype(np.float64)


def test_energy_is_the_integral_of_power(fleet_and_series: tuple[Fleet, Series]):
    for records in fleet_and_series[1].values():
        joules = _column(records, "power_w")[1:] * _elapsed_us(records) / 1e6
        gained = _column(records, "energy_mj")[-1] - _column(records, "energy_mj")[0]
        error = np.abs(gained - joules.sum(axis=0) * 1000)
        # Float32 power is exact to 0.03 mW at 500 W; the counter to 1 mJ.
        assert np.nanmax(error) <= 1 + 180 * 0.05


def test_flop_is_the_integral_of_activity_and_clock(fleet_and_series: tuple[Fleet, Series]):
    fleet, series = fleet_and_series
    for node, records in series.items():
        entry = next(entry for entry in fleet.entries if entry.name == node)
        figures = model_figures(entry.model)
        rate = _column(records, "tensor_activity") * _column(records, "sm_clock_mhz")
        gflop = (rate[1:] * _elapsed_us(records)).sum(axis=0) * figures.flop_per_mhz_us / 1e9
        counted = _column(records, "gflop")
        present = np.isfinite(gflop)
        np.testing.assert_allclose(counted[-1][present], gflop[present], rtol=1e-6, atol=2)
        np.testing.assert_allclose(
            _column(records, "gflop_hi")[-1], counted[-1] * (1 + figures.bound), rtol=1e-6, atol=2
        )
        np.testing.assert_allclose(
            _column(records, "gflop_lo")[-1], counted[-1] * (1 - figures.bound), rtol=1e-6, atol=2
        )


def test_a_first_record_has_zero_own_integrals(fleet_and_series: tuple[Fleet, Series]):
    own = [m.name for m in CATALOGUE.counters if m.reset.value == "run"]
    for records in fleet_and_series[1].values():
        assert records[0].sequence == 0
        for name in own:
            assert np.nan_to_num(_column(records[:1], name)).max() == 0


def test_observed_and_down_time_is_event_time(fleet_and_series: tuple[Fleet, Series]):
    fleet, series = fleet_and_series
    down = 0
    for records in series.values():
        passed = records[-1].time_us - records[0].time_us
        observed, lost = _column(records, "observed_us")[-1], _column(records, "down_us")[-1]
        assert set((observed + lost).tolist()) == {passed}
        assert ((observed == 0) | (lost == 0)).all()
        assert (_column(records, "active_us")[-1] <= observed).all()
        down += int((lost > 0).sum())
    assert down == int(fleet.hardware.down.sum()) == 1


def test_active_time_follows_utilisation(fleet_and_series: tuple[Fleet, Series]):
    for records in fleet_and_series[1].values():
        used = _column(records, "gpu_utilization")[1:] >= np.float32(0.05)
        expected = (used * _elapsed_us(records)).sum(axis=0)
        np.testing.assert_array_equal(_column(records, "active_us")[-1], expected)


def test_throttling_agrees_with_cap_and_margin():
    fleet = Fleet(make_site("aisc-phase1"), 1, START_US)
    before = [parse(record) for record in fleet.step().records]
    capped = cooled = 0
    for _ in range(40):
        after = [parse(record) for record in fleet.step().records]
        by_node = {record.node: record for record in before}
        for record in after:
            pair = [by_node[record.node], record]
            power, limit = _column(pair, "power_w")[1], _column(pair, "power_limit_w")[1]
            clock = _column(pair, "sm_clock_mhz")[1]
            maximum = model_figures(
                next(e.model for e in fleet.entries if e.name == record.node)
            ).max_clock_mhz
            cap_us = np.diff(_column(pair, "throttle_power_cap_us"), axis=0)[0]
            heat_us = np.diff(_column(pair, "throttle_sw_thermal_us"), axis=0)[0]
            swing = 0.006 if record.node.startswith("a") else 0.04
            assert not (power > limit * (1 + 6 * swing)).any()
            assert (clock[cap_us > 0] < maximum).all()
            assert (clock[heat_us > 0] <= maximum * 0.8).all()
            loaded = clock > 400
            hot_us = np.diff(_column(pair, "throttle_hw_thermal_us"), axis=0)[0]
            told = (cap_us > 0) | (heat_us > 0) | (hot_us > 0)
            assert ((clock == maximum) | told)[loaded].all()
            capped += int((cap_us > 0).sum())
            cooled += int((heat_us > 0).sum())
        before = after
    assert capped > 0


def test_heat_slows_a_badly_cooled_gpu_down_and_lets_go_again():
    fleet = Fleet(make_site("aisc-phase2"), 1, START_US)
    slowed: set[int] = set()
    for _ in range(120):
        fleet.step()
        assert fleet.moment is not None
        slowed.update(np.flatnonzero(fleet.moment.throttled.heat).tolist())
        now = fleet.physics.now
        assert now is not None
        assert (now.margin_c > -7).all(), "hardware slowdown holds a core near its limit"
    assert 0 < len(slowed) <= int(fleet.hardware.hot.sum())
    assert fleet.hardware.hot[list(slowed)].all()


def test_figures_are_those_of_real_fleets():
    fleet = Fleet(make_site("aisc-phase2"), 1, START_US)
    for _ in range(30):
        fleet.step()
    assert fleet.moment is not None
    records = [parse(record) for record in fleet.step().records]
    power = np.concatenate([_column([r], "power_w")[0] for r in records])
    core = np.concatenate([_column([r], "gpu_temperature_c")[0] for r in records])
    used = np.concatenate([_column([r], "gpu_utilization")[0] for r in records])
    assert 60 < np.nanpercentile(power, 5) < 80
    assert 600 < np.nanpercentile(power, 95) <= 700
    assert 35 < np.nanmedian(core) < 52
    assert 55 < np.nanpercentile(core, 99) < 75
    assert 0.2 < np.nanmean(used == 0) < 0.5
    assert 0.4 < np.nanmean(used >= 0.97) < 0.75
    seconds = 1.0
    delivered = sum(truth.sum() for truth in [fleet.moment.truth.gflop]) / 1e6 / seconds
    assert 0.2 < delivered / fleet.inventory.pflops(START_US) < 0.45


def test_what_a_model_has_not_is_left_out(fleet_and_series: tuple[Fleet, Series]):
    series = fleet_and_series[1]
    hopper, ampere = series["a01n01"][5].values, series["b01n01"][5].values
    by_gpm = {"sm_activity", "dram_activity", "fp64_activity", "thermal_margin_c"}
    assert set(hopper) - set(ampere) == by_gpm
    assert "tensor_activity" in ampere
    assert not {"fan_speed", "gflop_estimated"} & (set(hopper) | set(ampere))


def test_without_an_exporter_ampere_has_an_estimate_and_no_measurement():
    fleet = Fleet(make_site("aisc-phase1"), 1, START_US)
    fleet.step()
    records = [parse(record) for record in fleet.step().records]
    estimated = [record for record in records if "gflop_estimated" in record.values]
    assert 1 <= len(estimated) <= 4
    for record in estimated:
        assert not {"gflop", "gflop_lo", "gflop_hi", "tensor_activity"} & set(record.values)


def test_values_stay_in_the_catalogue_s_ranges(fleet_and_series: tuple[Fleet, Series]):
    for records in fleet_and_series[1].values():
        for metric in CATALOGUE:
            column = _column(records, metric.name)
            if np.isfinite(column).any():
                assert np.nanmin(column) >= metric.valid[0]
                assert np.nanmax(column) <= metric.valid[1]
            if metric.kind is Kind.COUNTER and metric.name in records[0].values:
                assert not (np.diff(column, axis=0) < 0).any()
