"""What a store's URL may say, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.series import open_series
from pipeline.series.duck import DuckStore
from pipeline.series.influx import InfluxStore


def test_each_scheme_opens_its_store(tmp_path: Path) -> None:
    assert isinstance(open_series(f"duckdb://{tmp_path}/with%20space.duckdb"), DuckStore)
    url = "influxdb://127.0.0.1:8086?org=centre&prefix=own"
    assert isinstance(open_series(url, token="t"), InfluxStore)
    assert isinstance(open_series("influxdbs://host?org=centre", token="t"), InfluxStore)


@pytest.mark.parametrize(
    ("url", "token", "says"),
    [
        ("duckdb://relative/file", None, "duckdb:///"),
        ("duckdb:///", None, "duckdb:///"),
        ("/some/file.duckdb", None, "duckdb:///"),
        ("influx://host:8086?org=o", "t", "influxdb://"),
        ("influxdb://host:8086", "t", "org"),
        ("influxdb://?org=o", "t", "host"),
        ("influxdb://host:8086?org=o&perfix=x", "t", "perfix"),
        ("influxdb://user:secret@host:8086?org=o", "t", "token"),
        ("influxdb://host:8086?org=o", None, "token"),
    ],
)
def test_a_wrong_url_says_what_to_write(url: str, token: str | None, says: str) -> None:
    with pytest.raises(ValueError, match=says) as failure:
        open_series(url, token=token)
    assert "secret" not in str(failure.value)
