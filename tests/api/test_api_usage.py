"""Usage over HTTP: periods, filters, tables, CSV, and the command that asks for them."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import AsyncGenerator, Generator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import numpy as np
import pytest
from api_parts import NAMES, SLOTS, Centre, client_of, inventory, minute_parts, store
from click.testing import CliRunner

from collectors.contract.topics import Allocation, Subject
from collectors.usage import sum_lines, text, usage, waterfall_lines
from pipeline.api import models_usage, usage_csv
from pipeline.books import versions
from pipeline.books.claims import NOBODY, Owner
from pipeline.books.database import Database
from pipeline.books.journal import HourStamp, Models, replace_hours
from pipeline.books.queries import BooksReader
from pipeline.books.rows import FIGURES, HOUR_US, LedgerRows

ZONE = ZoneInfo("Asia/Hong_Kong")
START = int(datetime(2026, 9, 30, 15, tzinfo=UTC).timestamp()) // 3600
"""An hour before October begins at the site."""
HOURS = range(START, START + 30)
EVIL = '=HYPERLINK("http://evil","x")'
OWNERS = (NOBODY, Owner("tenant", "ant", "p", "1"), Owner("tenant", EVIL, "p", "2"))
PER_ROW = {
    "active_us": HOUR_US // 2, "idle_us": HOUR_US // 4, "down_us": HOUR_US // 8,
    "unobserved_us": HOUR_US // 8, "energy_mj": 2**51 + 1, "gflop": 10**8, "gflop_lo": 9 * 10**7,
    "gflop_hi": 11 * 10**7,
}  # fmt: skip


def ledger() -> LedgerRows:
    """Both slots of two nodes: the first two slots are ant's, the third another's, one nobody's."""
    keys = [(hour, node, slot) for hour in HOURS for node in range(2) for slot in range(2)]
    count = len(keys)
    owner = np.array([(1, 1, 2, 0)[2 * node + slot] for _, node, slot in keys], np.int32)
    figures = {name: np.full(count, PER_ROW.get(name, 0), np.int64) for name in FIGURES}
    return LedgerRows(
        NAMES[:2], OWNERS, np.array([key[0] for key in keys], np.int64),
        np.array([key[1] for key in keys], np.int32),
        np.array([SLOTS[key[2]] for key in keys], np.uint64), owner,
        np.full(count, 1, np.uint8), figures,
    )  # fmt: skip


@pytest.fixture
async def client(centre: Centre, tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient]:
    """An API on books with thirty hours."""
    database = Database(f"sqlite:///{tmp_path}/books.db")
    await database.start()
    stamp = HourStamp(2**60, 2**60, 7)
    await database.write(
        lambda one: replace_hours(one, ledger(), HOURS, stamp, Models(inventory()), ZONE)
    )
    from_us = HOURS.start * HOUR_US
    held = Allocation("s", "1", "ant", "p", "1", (Subject(NAMES[0]),), from_us, None)
    await database.write(lambda one: versions.record(one, [(held, from_us)]))
    centre.books = BooksReader(database, inventory)
    async with client_of(centre.app()) as opened:
        yield opened
    await database.close()


async def get(client: httpx.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    answer = await client.get(f"/api/v1/usage{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_month_is_the_sites_and_provisional_until_all_of_it_is_there(
    client: httpx.AsyncClient,
) -> None:
    body = await get(client, "", month="2026-10")
    models_usage.Usage.model_validate(body)
    assert (body["from"], body["final"]) == ("2026-09-30T16:00:00.000000Z", False)
    assert body["as_of"] == "2026-10-01T21:00:00.000000Z"
    ant = next(row for row in body["rows"] if row["tenant"] == "ant")
    assert ant["gpu_us"] == 29 * 2 * HOUR_US
    # Beyond 2^53 in sum, and exact.
    assert ant["energy_mj"] == 29 * 2 * PER_ROW["energy_mj"] > 2**53
    day = await get(client, "", day="2026-10-01", by="job", resolution="day")
    assert day["final"]
    assert {row["day"] for row in day["rows"]} == {"2026-10-01"}
    assert sum(row["gpu_us"] for row in day["rows"]) == 24 * 4 * HOUR_US


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({}, "write month=2026-10, or day=2026-10-03, or from and to"),
        ({"month": "2026-10", "day": "2026-10-01"}, "write month=2026-10"),
        ({"month": "Oct"}, "write one like 2026-10"),
        ({"from": "5"}, "write both from and to"),
        ({"from": "9", "to": "5"}, "from must lie before to"),
        ({"month": "2026-10", "by": "colour"}, "write one of owner_kind"),
        ({"month": "2026-10", "colour": "red"}, "There is no parameter 'colour'"),
        ({"from": "0", "to": "9999999999", "resolution": "hour"}, "at most 31 days"),
    ],
)
async def test_a_question_that_cannot_be_is_told_what_to_write(
    client: httpx.AsyncClient, query: dict[str, str], says: str
) -> None:
    answer = await client.get("/api/v1/usage", params=query)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


async def test_filters_let_through_what_they_name(client: httpx.AsyncClient) -> None:
    month = {"month": "2026-10", "by": ["tenant", "node"]}
    both = await get(client, "", **month, node=NAMES[1])
    assert {(row["tenant"], row["owner_kind"]) for row in both["rows"]} == {
        (EVIL, "tenant"), ("", "unallocated"),
    }  # fmt: skip
    one = await get(client, "", month="2026-10", tenant=["ant", "nobody"], job="1")
    assert [row["gpu_us"] for row in one["rows"]] == [29 * 2 * HOUR_US]
    assert (await get(client, "", month="2026-10", model="none"))["rows"] == []


@pytest.mark.parametrize("by", ["site", "hall", "model", "tenant"])
async def test_waterfalls(client: httpx.AsyncClient, by: str) -> None:
    body = await get(client, "/waterfall", month="2026-10", by=by, resolution="day")
    models_usage.Waterfall.model_validate(body)
    days = {row["day"] for row in body["rows"]}
    assert days == {"2026-10-01", "2026-10-02"}
    assert body["hours"] == 29
    installed = sum(row["steps"][0]["gpu_us"] for row in body["rows"])
    assert installed == 29 * 4 * HOUR_US
    (first,) = (await get(client, "/waterfall", day="2026-10-01"))["rows"]
    # Four GPUs of 0.5 PFLOP/s; three of them a tenant's, active half of the time.
    assert [round(step["pflops"], 9) for step in first["steps"][:4]] == [2.0, 1.5, 1.125, 0.75]
    assert first["bridge"][0]["share"] == 0.75
    assert first["delivered"]["gflop"] == 24 * 3 * 10**8


async def test_tenants_jobs_and_waste_have_the_shapes_that_openapi_states(
    client: httpx.AsyncClient, centre: Centre
) -> None:
    tenants = await get(client, "/tenants", month="2026-10")
    models_usage.Tenants.model_validate(tenants)
    assert [row["tenant"] for row in tenants["rows"]] == ["ant", EVIL]
    assert tenants["totals"][0]["gpu_us"] == 29 * 4 * HOUR_US
    jobs = await get(client, "/efficiency", month="2026-10", limit=1)
    models_usage.Efficiency.model_validate(jobs)
    assert (jobs["total"], len(jobs["rows"])) == (2, 1)
    assert jobs["rows"][0]["first_hour_us"] == (HOURS.start + 1) * HOUR_US
    await store(centre, minute_parts(HOURS.start * 60, 70))
    times = {"from": HOURS.start * 3600, "to": HOURS.start * 3600 + 7200}
    waste = await get(client, "/waste", **times)
    models_usage.Waste.model_validate(waste)
    # Minutes without utilisation and states say nothing.
    assert waste["rows"] == []
    long = await client.get("/api/v1/usage/waste", params={"month": "2026-10"})
    assert long.status_code == 422


async def test_the_month_to_be_signed_off(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/usage/monthly.csv", params={"month": "2026-10"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert 'filename="usage-little-2026-10.csv"' in answer.headers["content-disposition"]
    lines = list(csv.reader(io.StringIO(answer.text)))
    gap = lines.index([])
    head = dict(lines[:gap])
    assert (head["status"], head["time_zone"]) == ("provisional", "Asia/Hong_Kong")
    assert "waterfall/1" in head["definitions"]
    rows = [dict(zip(lines[gap + 1], line, strict=True)) for line in lines[gap + 2 :]]
    assert [row["owner_kind"] for row in rows] == ["tenant", "tenant", "unallocated", "total"]
    assert {row["tenant"] for row in rows} == {"ant", f"'{EVIL}", ""}
    for name in ("gpu_us", "active_us", "gflop", "gflop_lo", "gflop_hi", "energy_mj"):
        assert sum(int(row[name]) for row in rows[:-1]) == int(rows[-1][name]), name
    assert rows[-1]["gpu_hours"] == "116.000000"


@pytest.mark.parametrize("path", ["", "/tenants", "/efficiency"])
async def test_tables_as_csv(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(
        f"/api/v1/usage{path}", params={"month": "2026-10", "format": "csv", "by": "tenant"}
        if not path else {"month": "2026-10", "format": "csv"},
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert f"'{EVIL}" in {row["tenant"] for row in rows}
    assert all(int(row["gpu_us"]) for row in rows)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_names_are_never_formulas(name: str) -> None:
    assert usage_csv.cell(name) == f"'{name}"
    assert usage_csv.cell(-1.5) == "-1.500000"


async def test_without_books_it_says_so(centre: Centre) -> None:
    async with client_of(centre.app()) as client:
        for path in ("", "/waterfall", "/tenants", "/efficiency", "/monthly.csv", "/waste"):
            answer = await client.get(f"/api/v1/usage{path}", params={"month": "2026-10"})
            assert answer.status_code == 503, path


async def test_answers_for_people(client: httpx.AsyncClient) -> None:
    body = await get(client, "/waterfall", month="2026-10")
    shown = text(body, waterfall_lines)
    assert "2026-10 (Asia/Hong_Kong), PROVISIONAL, as of 2026-10-01 21:00 UTC" in shown
    assert "− unallocated" in shown
    assert shown.index("installed") < shown.index("− down") < shown.index("reporting")
    hours = await get(client, "", day="2026-10-01", by="tenant", resolution="hour")
    assert "\n2026-10-01 00:00+0800  " in text(hours, sum_lines)


class _Handler(BaseHTTPRequestHandler):
    """Keeps what was asked, and answers as told."""

    asked: list[str]
    answers: dict[str, tuple[int, str]]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, body = self.answers[self.path.partition("?")[0]]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Generator[tuple[str, type[_Handler]]]:
    """A server that answers with what a test gives it."""
    kind = type("Handler", (_Handler,), {"asked": [], "answers": {}})
    with HTTPServer(("127.0.0.1", 0), kind) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", kind
        http.shutdown()
        thread.join()


async def test_the_command_asks_and_shows(
    client: httpx.AsyncClient, server: tuple[str, type[_Handler]]
) -> None:
    url, handler = server
    for path in ("", "/tenants", "/waterfall", "/efficiency", "/monthly.csv"):
        body = await client.get(f"/api/v1/usage{path}", params={"month": "2026-10"})
        handler.answers[f"/api/v1/usage{path}"] = (200, body.text)
    cases = {
        (): ["in all", "116", "unallocated"],
        ("--by", "tenant,project"): ["PFLOP-h", "in all"],
        ("--jobs",): ["of nameplate %", "66.7"],
        ("--waterfall",): ["installed", "− below_nameplate"],
        ("--json",): ['"definition": "tenants/1"'],
        ("--csv",): ["status,provisional", "total,,,measured,116.000000"],
    }
    for arguments, shown in cases.items():
        result = CliRunner().invoke(usage, ["--month", "2026-10", "--url", url, *arguments])
        assert result.exit_code == 0, result.output
        for words in shown:
            assert words in result.output, (arguments, result.output)
    assert "/api/v1/usage?month=2026-10&by=tenant&by=project" in handler.asked


def test_the_command_says_what_to_write(server: tuple[str, type[_Handler]]) -> None:
    url, handler = server
    handler.answers["/api/v1/usage/tenants"] = (422, '{"detail": "month: write one like 2026-10"}')
    wrong = CliRunner().invoke(usage, ["--month", "Oct", "--url", url])
    assert wrong.exit_code != 0
    assert "write one like 2026-10" in wrong.output
    none = CliRunner().invoke(usage, ["--url", url])
    assert "write --month 2026-10" in none.output
