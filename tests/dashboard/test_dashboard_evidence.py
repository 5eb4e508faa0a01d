"""The incident's chart: what is expected follows the power, and only what was before counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dashboard.evidence import LAG_S, evidence_figure, expected, smoothed
from dashboard.incident_chart import evidence, subject_of_chart
from dashboard.incident_page import evidence_row, lead

if TYPE_CHECKING:
    from dashboard.api_client import ApiClient

_S = 1_000_000
_SINCE = 600 * _S


def _times(seconds: int = 900) -> Any:
    return np.arange(seconds, dtype=np.int64) * _S


def _power(times: Any) -> Any:
    return np.where((times // (100 * _S)) % 2 == 0, 200.0, 600.0)


def test_a_step_goes_through_the_lag() -> None:
    times = _times(200)
    power = np.where(times < 100 * _S, 100.0, 600.0)
    lagged = smoothed(times, power)
    after = lagged[100 + int(LAG_S)]
    assert lagged[99] == 100.0
    assert abs((after - 100.0) / 500.0 - (1 - np.exp(-1 - 1 / LAG_S))) < 1e-9


def test_a_gap_in_power_keeps_the_last_value() -> None:
    power = np.array([np.nan, 300.0, np.nan, 300.0])
    assert smoothed(_times(4), power)[1:].tolist() == [300.0, 300.0, 300.0]


def test_what_is_expected_is_the_healthy_line_whatever_comes_after() -> None:
    times = _times()
    power = _power(times)
    healthy = 30.0 + 0.05 * smoothed(times, power)
    ill = healthy + np.where(times >= _SINCE, 12.0, 0.0)
    line = expected(times, ill, power, _SINCE)
    assert line is not None
    assert np.abs(line - healthy).max() < 1e-6


def test_too_little_from_before_expects_nothing() -> None:
    times = _times(20)
    assert expected(times, np.full(20, 50.0), np.full(20, 300.0), 5 * _S) is None


def test_even_power_gives_a_level_line() -> None:
    times = _times(100)
    line = expected(times, np.full(100, 50.0), np.full(100, 300.0), 90 * _S)
    assert line is not None
    assert line.tolist() == [50.0] * 100


def _answer(metrics: dict[str, Any]) -> dict[str, Any]:
    times = _times().tolist()
    return {
        "series": [
            {"slot": slot, "metric": name, "time_us": times, "value": values.tolist()}
            for name, values in metrics.items()
            for slot in ("a", "b")
        ]
    }


def test_the_figure_has_a_panel_for_what_is_there() -> None:
    times = _times()
    answer = _answer({"gpu_temperature_c": np.full(len(times), 60.0), "power_w": _power(times)})
    figure = evidence_figure(answer, "a", _SINCE, _SINCE + _S, ("1970-01-01", "1970-01-02"))
    assert [one["name"] for one in figure["data"]] == [
        "Expected from power",
        "Temperature",
        "Power",
    ]
    assert {one["yaxis"] for one in figure["data"]} == {"y", "y2"}
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [600_000, 601_000]
    none = evidence_figure({"series": []}, "a", 0, None, ("1970-01-01", "1970-01-02"))
    assert none["data"] == []


def test_the_chart_is_of_a_gpu_where_there_is_one() -> None:
    node = {"subject": {"scope": "node", "node": "n1"}}
    gpu = {"subject": {"scope": "gpu", "node": "n1", "slot": "0000:01:00.0"}}
    rack = {"scope": "rack", "name": "A/r1"}
    assert subject_of_chart({"members": [node, gpu], "subject": rack}) == ("n1", "0000:01:00.0")
    assert subject_of_chart({"members": [node], "subject": rack}) == ("n1", None)
    assert subject_of_chart({"members": [], "subject": rack}) is None


def test_evidence_has_its_units() -> None:
    assert evidence_row("gpu_temperature_c", 87.0) == ("GPU temperature", "87.0\u2009°C")
    assert evidence_row("resistance_ratio", 1.424) == ("Resistance ratio", "1.42")
    assert evidence_row("gpu_utilization", 0.99) == ("GPU utilisation", "99\u2009%")
    assert evidence_row("code", 64.0) == ("Code", "64")
    assert evidence_row("sm_clock_mhz", 1410.0)[0] == "SM clock"


def test_the_evidence_is_that_of_the_cause_and_not_of_what_follows_from_it() -> None:
    found: dict[str, Any] = {
        "incident": {"cause": "rack_cooling"},
        "alerts": [
            {"rule": "rack_cooling_fault", "cause": "rack_cooling", "evidence": {"warmer_c": 4.0}},
            {"rule": "throttled_hw_thermal", "cause": "", "evidence": {"power_w": 100.0}},
            {"rule": "rack_cooling_fault", "cause": "rack_cooling", "evidence": {}},
        ],
    }
    assert lead(found)["evidence"] == {"warmer_c": 4.0}
    found["incident"] = {"cause": "power_brake"}
    assert lead(found)["evidence"] == {"power_w": 100.0}


class _Series:
    """An API whose node has samples of one GPU."""

    async def get(self, path: str, **_: Any) -> Any:
        return {"time": "2026-11-24T06:00:00Z"} if path == "/live" else {}

    async def series(self, node: str, *_: Any) -> Any:
        assert node == "n1"
        columns = {"time_us": [1, 2], "value": [60.0, 61.0], "slot": "0000:01:00.0"}
        return {"series": [{"metric": "gpu_temperature_c", **columns}]}


async def test_a_neighbour_in_the_place_of_a_gpu_that_tells_nothing_is_said_to_be_one() -> None:
    api = cast("ApiClient", _Series())
    gpu = {"scope": "gpu", "name": "n1·5", "node": "n1", "slot": "0000:05:00.0"}
    incident = {
        "subject": gpu,
        "opened": "2026-11-24T05:50:00Z",
        "opened_us": 1_795_499_400_000_000,
    }
    _, of = await evidence(api, incident)
    assert (
        of
        == "n1 / 0000:01:00.0, a neighbour: there are no samples of 0000:05:00.0, no margin is told"
    )
    _, of = await evidence(api, {**incident, "subject": {**gpu, "slot": "0000:01:00.0"}})
    assert of == "n1 / 0000:01:00.0, no margin is told"
