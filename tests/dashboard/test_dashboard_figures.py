"""Figures of the Node page: pure functions of the API's answers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.contract.catalogue import CATALOGUE, CallRead, Kind, Metric
from dashboard.figures import COLOURS, columns, metrics_of, node_figure, panels, points, summed

WINDOW = ("2026-11-24T05:45:00.000Z", "2026-11-24T06:00:00.000Z")
START_US = 1_795_500_000_000_000
SLOTS = ["0000:1b:00.0", "0000:2b:00.0"]


def a_series(
    metric: str, slot: str, values: list[Any], *, step_us: int = 1_000_000, **more: Any
) -> dict[str, Any]:
    times = [START_US + step_us * number for number in range(len(values))]
    return {"slot": slot, "metric": metric, "time_us": times, "value": values, **more}


def times_of(trace: dict[str, Any]) -> list[float]:
    """The x of a trace in ms, however it is written."""
    if "x" in trace:
        return trace["x"]
    return [trace["x0"] + trace["dx"] * number for number in range(len(trace["y"]))]


def test_a_gauge_becomes_a_line_on_its_panel_in_the_gpus_colour():
    answer = {"series": [a_series("power_w", SLOTS[1], [500.0, 510.5])]}
    (trace,) = node_figure(answer, SLOTS, WINDOW)["data"]
    assert trace["meta"] == {"gpu": 1, "panel": "power", "decimals": 0}
    assert trace["line"]["color"] == COLOURS[1]
    assert trace["y"] == [500.0, 510.5]
    assert times_of(trace) == [START_US / 1000, START_US / 1000 + 1000]


def test_a_counter_is_shown_by_its_rate_never_by_its_height():
    answer = {
        "series": [a_series("gflop", SLOTS[0], [10**12, 10**12 + 500_000], rate=[None, 500.0])]
    }
    (trace,) = node_figure(answer, SLOTS, WINDOW)["data"]
    assert trace["y"] == [None, 500.0]


def test_throttling_is_the_sum_over_its_reasons_and_absent_where_none_is_known():
    found = [
        a_series("throttle_power_cap_us", SLOTS[0], [0, 1, 2], rate=[None, 0.25, 0.5]),
        a_series("throttle_hw_thermal_us", SLOTS[0], [0, 1, 2], rate=[None, None, 0.25]),
    ]
    _, values = summed(found)
    assert np.isnan(values[0])
    assert values[1:].tolist() == [0.25, 0.75]


def test_reasons_that_hold_at_once_are_at_most_all_of_the_time():
    found = [
        a_series("throttle_power_cap_us", SLOTS[0], [0, 1, 2], rate=[None, 0.25, 1.0]),
        a_series("throttle_sw_thermal_us", SLOTS[0], [0, 1, 2], rate=[None, 0.25, 1.0]),
    ]
    [trace] = node_figure({"series": found}, SLOTS[:1], WINDOW)["data"]
    assert trace["y"][-2:] == [50.0, 100.0]


def test_ratios_are_shown_as_percent_from_zero():
    figure = node_figure(
        {"series": [a_series("gpu_utilization", SLOTS[0], [0.0, 0.97])]}, SLOTS, WINDOW
    )
    (trace,) = figure["data"]
    assert trace["y"] == [0.0, 97.0]
    axis = figure["layout"]["yaxis" + trace["yaxis"][1:]]
    assert axis["rangemode"] == "tozero"


def test_all_panels_share_the_time_axis_and_do_not_overlap():
    layout = node_figure({"series": []}, SLOTS, WINDOW)["layout"]
    domains = [
        layout["yaxis" + ("" if number == 0 else str(number + 1))]["domain"]
        for number in range(len(panels()))
    ]
    assert layout["xaxis"]["range"] == list(WINDOW)
    assert domains[-1][0] == pytest.approx(0, abs=1e-9)
    for (bottom, top), (_, below) in pairwise(domains):
        assert 0 <= below < bottom < top <= 1


def test_a_ninth_gpu_is_told_from_the_first_by_its_dash():
    slots = [f"0000:{bus:02x}:00.0" for bus in range(9)]
    answer = {"series": [a_series("power_w", slot, [1.0, 2.0]) for slot in slots]}
    lines = [trace["line"] for trace in node_figure(answer, slots, WINDOW)["data"]]
    assert lines[8]["color"] == lines[0]["color"]
    assert lines[8]["dash"] != lines[0]["dash"]


def test_the_colours_have_contrast_on_both_grounds():
    for colour in COLOURS:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (light + 0.05) >= 3, colour
        assert (light + 0.05) / (0.0075 + 0.05) >= 3, colour


def test_a_new_way_to_throttle_is_a_row_of_the_catalogue():
    row = Metric(
        "throttle_new_us",
        1_999,
        "µs",
        "Time.",
        (0, 1),
        Kind.COUNTER,
        CallRead("x"),
        shown="throttle",
    )
    with CATALOGUE.extended(row):
        assert "throttle_new_us" in metrics_of(panels())
    assert "throttle_new_us" not in metrics_of(panels())


def test_an_uneven_hole_breaks_the_line():
    times = np.array([0, 1_000_000, 2_300_000, 60_000_000, 61_000_000], np.int64) + START_US
    trace = points(times, np.arange(5.0))
    assert trace["y"] == [0.0, 1.0, 2.0, None, 3.0, 4.0]
    assert len(trace["x"]) == 6


def test_one_sample_is_a_point():
    assert points(np.array([START_US]), np.array([3.0])) == {"x": [START_US / 1000], "y": [3.0]}


@given(
    st.lists(st.integers(1, 5_000_000), min_size=1, max_size=60),
    st.data(),
)
def test_whatever_the_times_every_value_is_drawn_once_at_its_time(
    gaps: list[int], data: st.DataObject
):
    times = np.cumsum([START_US, *gaps]).astype(np.int64)
    values = np.array(
        data.draw(st.lists(st.integers(-999, 999), min_size=len(times), max_size=len(times))), float
    )
    trace = points(times, values)
    drawn = [(x, y) for x, y in zip(times_of(trace), trace["y"], strict=True) if y is not None]
    assert [y for _, y in drawn] == values.tolist()
    step_ms = float(np.median(np.diff(times))) / 1000
    assert all(
        abs(x - time / 1000) <= 0.11 * step_ms for (x, _), time in zip(drawn, times, strict=True)
    )


@given(st.integers(2, 400), st.sets(st.integers(1, 398), max_size=80))
def test_missing_samples_of_an_even_grid_are_gaps(count: int, missing: set[int]):
    kept = np.array(
        [number for number in range(count) if number not in missing or number == count - 1]
    )
    trace = points(START_US + kept * 1_000_000, kept.astype(float))
    known = [value for value in trace["y"] if value is not None]
    assert known == kept.tolist()
    places = [
        round(x - START_US / 1000) // 1000
        for x, y in zip(times_of(trace), trace["y"], strict=True)
        if y is not None
    ]
    assert places == kept.tolist()


def test_columns_keep_null_as_absent():
    _, values = columns({"time_us": [1, 2], "value": [None, 0.0]})
    assert np.isnan(values[0])
    assert values[1] == 0.0
