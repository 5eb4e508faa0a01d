"""The real InfluxDB that the script sets up: its settings are enough to write and to ask."""

from __future__ import annotations

import json
import urllib.request

import pytest
from stack_fixtures import Influx

pytestmark = pytest.mark.stack


def ask(influx: Influx, path: str) -> dict[str, list[dict[str, str]]]:
    """An answer of its API, as the operator."""
    request = urllib.request.Request(  # noqa: S310
        f"{influx.url}{path}", headers={"Authorization": f"Token {influx.token}"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return json.load(answer)


def test_token_and_organisation_are_good(influx: Influx) -> None:
    assert influx.org in {one["name"] for one in ask(influx, "/api/v2/orgs")["orgs"]}
    assert ask(influx, "/api/v2/buckets")["buckets"]


def test_without_the_token_nothing_is_told(influx: Influx) -> None:
    stranger = Influx(influx.url, "wrong", influx.org, influx.store)
    with pytest.raises(OSError, match="401"):
        ask(stranger, "/api/v2/buckets")
