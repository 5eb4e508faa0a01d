"""Freezing a month over HTTP and by the command, and what is told of it afterwards."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import numpy as np
import pytest
import uvicorn
from api_parts import NAMES, SLOTS, Centre, client_of, inventory
from click.testing import CliRunner, Result
from sqlalchemy import update
from test_api_usage import HOURS, ledger

from collectors.contract.inventory import Inventory
from collectors.months import month as command
from collectors.usage import usage as usage_command
from collectors.why import text
from pipeline.api import models_months
from pipeline.api.app import create_app
from pipeline.api.deps import ApiDeps
from pipeline.api.settings import ApiSettings
from pipeline.books import schema
from pipeline.books.acts import Outbox, read_audit
from pipeline.books.database import Database
from pipeline.books.journal import HourStamp, Models, replace_hours
from pipeline.books.periods import month_period
from pipeline.books.queries import BooksReader
from pipeline.books.rows import HOUR_US, LedgerRows

ZONE = ZoneInfo("Asia/Hong_Kong")
OCTOBER = month_period("2026-10", ZONE)
MORE = 6 * 3_600_000


def site() -> Inventory:
    """Two nodes, which stand there for the ledger's thirty hours."""
    from_us, to_us = HOURS.start * HOUR_US, HOURS.stop * HOUR_US
    whole = inventory()
    nodes = [
        dataclasses.replace(one, from_us=from_us, to_us=to_us)
        for one in whole.nodes
        if one.name in NAMES[:2]
    ]
    return dataclasses.replace(whole, nodes=tuple(nodes))


@dataclass
class Desk:
    """An API on books with thirty hours, on the fifth of November."""

    client: httpx.AsyncClient
    database: Database
    deps: ApiDeps

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.client.get(f"/api/v1{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def freeze(self, **body: Any) -> httpx.Response:
        return await self.client.post("/api/v1/months/2026-10/freeze", json=body)

    async def put(self, rows: LedgerRows, hours: range, known_us: int) -> None:
        """Hours as the role would have them."""
        stamp = HourStamp(2**60, 2**60, known_us)
        await self.database.write(
            lambda one: replace_hours(one, rows, hours, stamp, Models(site()), ZONE)
        )


@pytest.fixture
async def desk(centre: Centre, tmp_path: Path) -> AsyncGenerator[Desk]:
    database = Database(f"sqlite:///{tmp_path}/books.db")
    await database.start()
    fifth_us = OCTOBER.to_us + 4 * 24 * HOUR_US
    centre.clock.ahead_us = fifth_us - centre.clock.wall_us()
    deps = ApiDeps(
        centre.bus, centre.series, site, centre.clock, centre.board, BooksReader(database, site),
        Outbox(database, centre.bus, centre.clock, centre.board), "t.",
    )  # fmt: skip
    async with client_of(create_app(deps, ApiSettings())) as opened:
        made = Desk(opened, database, deps)
        await made.put(ledger(), HOURS, 7)
        yield made
    await database.close()


async def adjust(desk: Desk) -> None:
    """ant's job turns out to have run an hour on the second slot of a01n02, and used more."""
    first = HOURS.start + 1
    rows = ledger().within(range(first, first + 1))
    there = np.flatnonzero(rows.node == 1)
    figures = {name: column[there] for name, column in rows.figures.items()}
    figures["energy_mj"] += MORE
    owner = np.where(rows.slot[there] == SLOTS[1], 1, rows.owner[there]).astype(np.int32)
    changed = LedgerRows(
        (NAMES[1],), rows.owners, rows.hour[there], np.zeros(len(there), np.int32),
        rows.slot[there], owner, rows.origin[there], figures,
    )  # fmt: skip
    known_us = OCTOBER.to_us + 40 * 24 * HOUR_US
    await desk.put(changed, range(first, first + 1), known_us)


async def test_a_month_is_frozen_by_somebody_and_stays_so(desk: Desk) -> None:
    before = await desk.get("/usage/tenants", month="2026-10")
    assert before["frozen"] is None
    csv_before = (await desk.client.get("/api/v1/usage/monthly.csv?month=2026-10")).text
    answer = await desk.freeze(by="Ann Lee\n", note="board of November")
    assert answer.status_code == 200, answer.text
    month = models_months.Month.model_validate(answer.json())
    assert month.frozen is not None
    assert (month.frozen.by, month.frozen.note) == ("local (Ann Lee)", "board of November")
    (act,) = await desk.database.read(read_audit)
    assert (act.actor, act.action, act.subject) == ("local (Ann Lee)", "month.freeze", "2026-10")
    assert act.detail["sha256"] == month.frozen.sha256
    await adjust(desk)
    after = await desk.get("/usage/tenants", month="2026-10")
    frozen = after.pop("frozen")
    assert (frozen["sha256"], frozen["adjustments"] > 0) == (month.frozen.sha256, True)
    assert after == {name: value for name, value in before.items() if name != "frozen"}
    signed = (await desk.client.get("/api/v1/usage/monthly.csv?month=2026-10")).text
    assert "status,frozen\r\n" in signed
    assert f"sha256,{month.frozen.sha256}" in signed
    assert signed.split("\r\n\r\n")[1] == csv_before.split("\r\n\r\n")[1]


async def test_what_keeps_it_from_being_frozen_is_said_and_nothing_is_done(desk: Desk) -> None:
    table = schema.node_hours
    await desk.database.write(lambda one: one.execute(update(table).values(final=False)))
    refused = await desk.freeze(by="ann")
    assert refused.status_code == 409
    assert "provisional are 2026-10-01 00:00" in refused.json()["detail"]
    assert await desk.database.read(read_audit) == []
    wrong = await desk.client.post("/api/v1/months/2026-13/freeze", json={})
    assert wrong.status_code == 422
    assert (await desk.client.get("/api/v1/months/2026-10/check")).status_code == 404
    none = await desk.client.get("/api/v1/adjustments", params={"month": "2026-10"})
    assert (none.status_code, none.json()["detail"]) == (
        422, "2026-10 is not frozen, so there are none of it.",
    )  # fmt: skip
    both = await desk.client.get("/api/v1/adjustments")
    assert "Write month=2026-10" in both.json()["detail"]


async def test_adjustments_are_told_by_tenant_and_one_by_one(desk: Desk) -> None:
    await desk.freeze(by="ann")
    assert (await desk.get("/adjustments", month="2026-10"))["rows"] == []
    await adjust(desk)
    body = await desk.get("/adjustments", month="2026-10")
    models_months.Adjustments.model_validate(body)
    mine = {row["tenant"] or row["owner_kind"]: row for row in body["rows"]}
    assert (mine["ant"]["gpu_us"], mine["unallocated"]["gpu_us"]) == (HOUR_US, -HOUR_US)
    assert mine["ant"]["kwh"] > 0
    assert sum(row["energy_mj"] for row in body["rows"]) == 2 * MORE
    # It became known in December, and is to be booked there.
    assert (await desk.get("/adjustments", booked="2026-12"))["rows"] == body["rows"]
    assert (await desk.get("/adjustments", booked="2026-11"))["rows"] == []
    each = (await desk.get("/adjustments", month="2026-10", each="true"))["rows"]
    assert {(row["node"], row["booked"], row["cause"]) for row in each} == {
        (NAMES[1], "2026-12", "hours beside it")
    }
    sheet = await desk.client.get("/api/v1/adjustments?month=2026-10&each=true&format=csv")
    assert sheet.text.splitlines()[0].startswith("hour_us,month,node")
    october, september = (await desk.get("/months"))["months"]
    assert (october["month"], october["frozen"]["adjustments"]) == ("2026-10", len(each))
    assert (september["month"], september["frozen"]) == ("2026-09", None)


@pytest.fixture
async def url(desk: Desk) -> AsyncGenerator[str]:
    """The same API on a port, for the command."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(desk.deps, ApiSettings()), log_level="error"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await serving
    listener.close()


async def run(url: str, *arguments: str, of: Any = command) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, of, [*arguments, "--url", url])


async def test_the_command_freezes_checks_and_lists(desk: Desk, url: str) -> None:
    early = await run(url, "freeze", "2026-09", "--by", "ann")
    assert early.exit_code == 0, early.output
    done = await run(url, "freeze", "2026-10", "--by", "李安", "--note", "board")
    assert "2026-10 is frozen since" in done.output
    assert "local (李安)" in done.output
    again = await run(url, "freeze", "2026-10", "--by", "bea")
    assert again.exit_code != 0
    assert "It is frozen since" in again.output
    listed = (await run(url, "list")).output
    assert listed.splitlines()[1].startswith("2026-10  frozen")
    same = await run(url, "check", "2026-10")
    assert (same.exit_code, "is as it was frozen" in same.output) == (0, True)
    assert "frozen 2026-11-04" in (await run(url, "--month", "2026-10", of=usage_command)).output
    assert "no adjustments of 2026-10" in (await run(url, "adjustments", "2026-10")).output
    await adjust(desk)
    usage = (await run(url, "--month", "2026-10", of=usage_command)).output
    assert "since then: petawatch month adjustments 2026-10" in usage
    shown = (await run(url, "adjustments", "2026-10")).output
    assert [line.split()[-4] for line in shown.splitlines() if " ant " in line] == ["+1"]
    assert "+" in (await run(url, "adjustments", "2026-12", "--booked", "--each")).output
    sheet = (await run(url, "adjustments", "2026-10", "--csv")).output
    assert sheet.startswith("month,owner_kind,tenant")
    hours = schema.hours
    ours = update(hours).where(hours.c.tenant == "ant").values(gflop=5)
    await desk.database.write(lambda one: one.execute(ours))
    differs = await run(url, "check", "2026-10")
    assert differs.exit_code == 1
    assert "2026-10-01  tenant  ant     p" in differs.output


async def test_why_says_that_the_hour_is_frozen(desk: Desk) -> None:
    gpu, moment = f"{NAMES[1]}/1", "2026-10-01T00:10:00"
    assert (await desk.get("/why", gpu=gpu, at=moment))["hour"]["frozen"] is None
    await desk.freeze(by="ann")
    told = await desk.get("/why", gpu=gpu, at=moment)
    assert told["hour"]["frozen"] == "2026-10"
    owner = {"kind": "tenant", "tenant": "bee", "project": "", "job": ""}
    said = text({**told, "owner": owner})
    assert "In the ledger its hour is frozen with 2026-10:" in said
    assert "petawatch month adjustments 2026-10 --each" in said
