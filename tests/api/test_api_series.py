"""Series out of a real store: exact where asked, bounded where not."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest
from api_parts import MINUTE_US, NAMES, Centre, client_of, minute_parts, raw_samples, store
from hypothesis import given
from hypothesis import strategies as st

from collectors.contract.catalogue import CATALOGUE, CallRead, Kind, Metric
from pipeline.api import series_routes
from pipeline.api.models import SeriesAnswer
from pipeline.api.problems import ProblemError
from pipeline.api.ranges import MAX_POINTS, make_range, parse_time, time_text

URL = "/api/v1/series"
START_US = 1_795_500_000_000_000
AROUND = {"from": time_text(START_US - 1), "to": time_text(START_US + 10**9)}


async def _series(client: httpx.AsyncClient, **query: Any) -> dict[tuple[str, str], dict[str, Any]]:
    answer = await client.get(URL, params={"node": NAMES[0], **query})
    assert answer.status_code == 200, answer.text
    SeriesAnswer.model_validate(answer.json())
    return {(one["slot"][5:7], one["metric"]): one for one in answer.json()["series"]}


async def test_raw_is_exactly_what_was_stored(centre: Centre) -> None:
    await store(centre, raw_samples(START_US, 120))
    async with client_of(centre.app()) as client:
        found = await _series(client, resolution="raw", **AROUND)
    power = found["1b", "power_w"]
    assert power["value"][:2] == [300.78, 301.78]
    assert power["time_us"] == [START_US + n * 1_000_000 for n in range(120)]
    assert (power["unit"], power["origin"]) == ("W", "simulated")
    flops = found["43", "gflop"]
    assert flops["value"] == [2**52 + n * 500_000 for n in range(120)]
    assert "rate" not in flops
    # Absent is not zero: three of four temperatures of the second GPU were there.
    assert len(found["43", "gpu_temperature_c"]["value"]) == 90
    assert len(found["1b", "gpu_temperature_c"]["value"]) == 120
    assert ("1b", "sm_clock_mhz") not in found


async def test_a_slot_and_metrics_can_be_chosen(centre: Centre) -> None:
    await store(centre, raw_samples(START_US, 30))
    async with client_of(centre.app()) as client:
        found = await _series(client, slot="0000:43:00.0", metric=["power_w", "pflops"], **AROUND)
    assert set(found) == {("43", "power_w"), ("43", "pflops")}
    # The clock says 2026 and the samples are the newest there are, so samples are given.
    assert found["43", "pflops"]["value"] == pytest.approx([0.5] * 29)
    assert found["43", "pflops"]["unit"] == "PFLOP/s"


async def test_raw_goes_on_where_it_stopped(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(centre, raw_samples(START_US, 300))
    monkeypatch.setattr(series_routes, "MAX_RAW_VALUES", 101)
    got: list[int] = []
    async with client_of(centre.app()) as client:
        query: dict[str, Any] = {
            "node": NAMES[0], "metric": "power_w", "resolution": "raw",
            "from": time_text(START_US), "to": time_text(START_US + 400_000_000),
        }  # fmt: skip
        while True:
            body = (await client.get(URL, params=query)).json()
            assert sum(len(one["value"]) for one in body["series"]) <= 102
            got += [t for one in body["series"] for t in one["time_us"]]
            if "next" not in body:
                break
            query["from"] = body["next"]
    assert sorted(got) == sorted([START_US + n * 1_000_000 for n in range(300)] * 2)


async def test_minutes_keep_extremes_and_rates(centre: Centre) -> None:
    first = START_US // MINUTE_US
    await store(centre, minute_parts(first, 120))
    async with client_of(centre.app()) as client:
        span = {"from": time_text(first * MINUTE_US), "to": time_text((first + 120) * MINUTE_US)}
        found = await _series(client, **span, metric=["power_w", "gflop", "energy_mj", "pflops"])
    power = found["1b", "power_w"]
    assert len(power["value"]) == 120
    assert (power["min"][5], power["value"][5], power["max"][5]) == (300, 315, 330)
    assert power["time_us"][1] == (first + 1) * MINUTE_US
    energy = found["43", "energy_mj"]
    assert energy["value"][-1] == 2**52 + 119 * 60 * 400_000 + 59 * 400_000
    assert energy["rate_unit"] == "W"
    assert energy["rate"] == pytest.approx([400.0] * 120)
    assert found["43", "gflop"]["rate"] == pytest.approx([30.0] * 120)
    assert found["43", "pflops"]["value"] == pytest.approx([0.03] * 120)


async def test_long_ranges_come_in_few_steps(centre: Centre) -> None:
    first = START_US // MINUTE_US
    await store(centre, minute_parts(first, 3_100))
    async with client_of(centre.app()) as client:
        span = {"from": time_text(first * MINUTE_US), "to": time_text((first + 3_100) * MINUTE_US)}
        found = await _series(client, **span, metric=["power_w", "energy_mj"])
        exact = await _series(client, **span, metric="power_w", resolution="minute")
    assert len(found["1b", "power_w"]["value"]) == 1_034
    assert found["1b", "energy_mj"]["rate"] == pytest.approx([400.0] * 1_034)
    assert len(exact["1b", "power_w"]["value"]) == 3_100


async def test_a_reset_is_no_negative_rate(centre: Centre) -> None:
    first = START_US // MINUTE_US
    early, late = minute_parts(first, 3), minute_parts(first + 3, 3)
    late.run[:] = 8
    late.energy_epoch[:] = 12
    await store(centre, early, late)
    async with client_of(centre.app()) as client:
        span = {"from": time_text(first * MINUTE_US), "to": time_text((first + 30) * MINUTE_US)}
        found = await _series(client, **span, metric=["energy_mj", "gflop"], resolution="minute")
    assert found["1b", "energy_mj"]["rate"] == pytest.approx([400.0] * 6)
    assert found["1b", "gflop"]["rate"] == pytest.approx([30.0] * 6)


async def test_dense_recordings_are_thinned_but_keep_their_peaks(centre: Centre) -> None:
    samples = raw_samples(START_US, 60, step_us=10_000)
    samples.values["power_w"][1_234] = 999
    await store(centre, samples)
    async with client_of(centre.app()) as client:
        found = await _series(client, metric=["power_w", "gflop"], **AROUND)
        exact = await _series(client, metric="power_w", resolution="raw", **AROUND)
    power = found["1b", "power_w"]
    assert power["thinned"]
    assert len(power["value"]) <= MAX_POINTS
    assert max(power["value"]) == 999
    assert power["time_us"] == sorted(power["time_us"])
    assert len(found["43", "gflop"]["value"]) == MAX_POINTS
    assert len(exact["1b", "power_w"]["value"]) == 6_000


async def test_a_new_catalogue_row_is_a_series(tmp_path: Any) -> None:
    from api_parts import open_centre  # noqa: PLC0415 (the store must see the row at its start)

    row = Metric("nozzle_c", 900, "°C", "A test's.", (0, 99), Kind.GAUGE, CallRead("x"), 1)
    with CATALOGUE.extended(row):
        async with open_centre(tmp_path) as centre, client_of(centre.app()) as client:
            samples = raw_samples(START_US, 5)
            values = {**samples.values, "nozzle_c": np.full(10, 12.5, np.float32)}
            object.__setattr__(samples, "values", values)
            await store(centre, samples)
            found = await _series(client, metric="nozzle_c", **AROUND)
            rows = (await client.get("/api/v1/metrics/catalogue")).json()["metrics"]
    assert found["1b", "nozzle_c"]["value"] == [12.5] * 5
    assert "nozzle_c" in [row["name"] for row in rows]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"node": "a01n1"}, 404, "Did you mean a01n01"),
        ({"metric": "power"}, 422, "Did you mean power_w"),
        (
            {"resolutoin": "raw"},
            422,
            "There is no parameter 'resolutoin'. Did you mean resolution?",
        ),
        ({"resolution": "hour"}, 422, "resolution: Input should be 'auto', 'raw' or 'minute'"),
        ({"slot": "3"}, 422, "write it as 0000:1b:00.0"),
        ({"from": "yesterday"}, 422, "Write it as 2026-11-24T06:00:00Z"),
        ({"from": "2026-11-24T06:00:00Z", "to": "2026-11-24T05:00:00Z"}, 422, "before to"),
        ({"from": "0", "to": "99999999", "resolution": "minute"}, 422, "resolution=auto"),
        ({"metric": "pflops", "resolution": "raw"}, 422, "write gflop"),
    ],
)
async def test_mistakes_are_told(centre: Centre, query: Any, status: int, words: str) -> None:
    async with client_of(centre.app()) as client:
        answer = await client.get(URL, params={"node": NAMES[0], **query})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


async def test_a_store_that_is_away_is_a_503(centre: Centre) -> None:
    async with client_of(centre.app()) as client:
        await centre.series.close()
        answers = await asyncio.gather(
            client.get(URL, params={"node": NAMES[0], **AROUND}), client.get("/readyz")
        )
        for answer in answers:
            assert answer.status_code == 503
        assert answers[1].json()["reasons"] == ["The series store does not answer."]
        metrics = await client.get("/metrics")
        assert "petawatch_series_store_up 0" in metrics.text


@given(st.integers(0, 2**52))
def test_times_come_back_as_they_went(time_us: int) -> None:
    time_us = min(time_us, 253_402_300_799_999_999)
    assert parse_time(time_text(time_us), "from") == time_us
    assert parse_time(f"{time_us // 10**6}.{time_us % 10**6:06d}", "from") == time_us


@pytest.mark.parametrize(
    "text",
    ["2026-11-24T06:00:00Z", "2026-11-24T14:00:00+08:00", "2026-11-24T06:00:00", "1795500000"],
)
def test_ways_to_write_a_time(text: str) -> None:
    assert parse_time(text, "from") == START_US
    assert parse_time(text.replace("+", " "), "from") == START_US


@given(st.integers(0, 10**16), st.integers(1, 10**15))
def test_automatic_resolution_is_bounded(from_us: int, span_us: int) -> None:
    to_us = from_us + span_us
    try:
        span = make_range(
            time_text(from_us), time_text(to_us), "auto", now_us=to_us, raw_keep_us=86_400 * 10**6
        )
    except ProblemError:
        return
    assert span.step or span_us <= 20 * MINUTE_US
    assert not span.step or (span.to_minute - span.from_minute) / span.step <= MAX_POINTS + 2
