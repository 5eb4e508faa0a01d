"""What people decide of allocations goes through the audit and the bus into the ledger; and why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_parts import SLOTS, Centre, client_of, inventory, open_centre

from collectors.contract.bus import Message
from collectors.contract.identity import slot_text
from collectors.contract.tenants import Tenants
from collectors.contract.tenants_file import parse_tenants
from collectors.contract.topics import ALLOC, Allocation, Subject, dumps
from collectors.why import text
from pipeline.api.app import create_app
from pipeline.api.deps import ApiDeps
from pipeline.api.settings import ApiSettings
from pipeline.books.acts import Outbox
from pipeline.books.database import Database
from pipeline.books.queries import BooksReader
from pipeline.books.role import Books, BooksSettings

T0 = 1_767_225_600_000_000
"""2026-01-01T08:00 in Hong Kong."""
HOUR_US = 3_600_000_000
FILE = """
[[tenants]]
id = "ape"
projects = ["main"]
[[names]]
tenant = "ape"
project = "main"
accounts = ["lab"]
"""
A, B = (slot_text(slot) for slot in SLOTS)


@dataclass
class Site:
    """An API on real books that read the same bus."""

    client: httpx.AsyncClient
    centre: Centre
    database: Database
    books: Books

    async def tell(self, *said: Allocation) -> None:
        producer = self.centre.bus.producer()
        await producer.start()
        await producer.send([Message("t." + ALLOC, one.key, dumps(one)) for one in said])
        await producer.stop()
        await self.read()

    async def read(self) -> None:
        """The books take what is on the bus."""
        await self.books.finish()

    async def why(self, at_us: int, gpu: str = f"a01n01/{A}", **more: Any) -> dict[str, Any]:
        answer = await self.client.get(
            "/api/v1/why", params={"gpu": gpu, "at": f"{at_us / 1e6:.6f}", **more}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def sent(self, body: dict[str, Any]) -> dict[str, Any]:
        """The record of an act, once the bus and the books have it."""
        record = body["allocation"]
        async with asyncio.timeout(20):
            while True:
                await self.read()
                listed = await self.database.read(
                    lambda one: one.exec_driver_sql(
                        "SELECT known_us FROM allocations WHERE source = ? AND id = ?"
                        " AND known_to_us IS NULL", (record["source"], record["id"])
                    ).scalar()
                )  # fmt: skip
                if listed == record["known_us"]:
                    return record


@asynccontextmanager
async def opened(folder: Path, tenants: Tenants) -> AsyncGenerator[Site]:
    async with open_centre(folder) as centre:
        database = Database(f"sqlite:///{folder}/books.db")
        await database.start()
        books = Books(
            centre.bus, centre.series, inventory, database, BooksSettings(prefix="t."),
            centre.clock, centre.board, lambda: tenants,
        )  # fmt: skip
        deps = ApiDeps(
            centre.bus, centre.series, inventory, centre.clock, centre.board,
            BooksReader(database, inventory),
            Outbox(database, centre.bus, centre.clock, centre.board), "t.", lambda: tenants,
        )  # fmt: skip
        async with client_of(create_app(deps, ApiSettings())) as client:
            yield Site(client, centre, database, books)
        await books.close()
        await database.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site]:
    async with opened(tmp_path, parse_tenants(Path("t"), FILE, inventory())) as made:
        yield made


def job(key: str, **says: Any) -> Allocation:
    fields: dict[str, Any] = {
        "tenant": "", "project": "", "job": key, "subjects": (Subject("a01n01"),),
        "from_us": T0, "to_us": T0 + HOUR_US, "known_us": T0, "account": "lab",
        "precedence": 20, **says,
    }  # fmt: skip
    return Allocation(source="slurm:alpha", id=key, **fields)


async def test_why_names_the_line_and_what_lost(site: Site) -> None:
    process = Allocation(
        "agent:a01n01:process", "9", "eve", "", "9", (Subject("a01n01", (A,)),), T0 + 5, None,
        known_us=T0, precedence=10, user="eve",
    )  # fmt: skip
    await site.tell(job("7"), process, job("8", account="", from_us=T0 + 3))
    told = await site.why(T0 + 10)
    assert told["owner"] == {"kind": "tenant", "tenant": "ape", "project": "main", "job": "7"}
    assert [(one["id"], one["verdict"]) for one in told["claims"]] == [
        ("7", "holds"), ("9", "loses"), ("8", "nobody"),
    ]  # fmt: skip
    first, second, third = told["claims"]
    assert (first["named_by"]["line"], first["named_by"]["name"]) == (5, "lab")
    assert (first["version"], first["from"]) == (1, "2026-01-01T08:00:00+08:00")
    assert "scheduler's own word (precedence 20) goes before what processes" in second["reason"]
    assert "names no tenant" in third["reason"]
    shown = text(told)
    assert shown.startswith(f"a01n01 {A} at 2026-01-01T08:00:00+08:00: ape/main, job 7\n")
    assert "line 5 of the tenants file: account lab is ape/main" in shown
    assert (await site.why(T0 + 10, f"a01n01/{B}"))["claims"][0]["id"] == "7"
    assert (await site.why(T0 + 10, "a01n01/0"))["slot"] == A
    assert "No record of any source" in text(await site.why(T0 - 1))
    # Nothing was known of it before its first record.
    before = await site.why(T0 + 10, known=f"{(T0 - 1) / 1e6:.6f}")
    assert before["owner"]["kind"] == "unallocated"


async def test_why_says_what_is_a_guess(site: Site) -> None:
    await site.tell(job("6", precedence=0), job("7", precedence=5))
    first, second = (await site.why(T0 + 10))["claims"]
    assert (first["id"], first["verdict"], second["verdict"]) == ("7", "holds", "loses")
    assert "guesses which" in first["reason"]
    assert "a guess of which GPU it was (precedence 5) goes before a static" in second["reason"]


async def test_a_correction_holds_whatever_its_source_sends_later(site: Site) -> None:
    await site.tell(job("7"))
    body = {
        "source": "slurm:alpha", "id": "7", "to": "2026-01-01T08:30:00", "reason": "it hung",
    }  # fmt: skip
    answer = await site.client.post("/api/v1/corrections", json=body)
    assert answer.status_code == 200, answer.text
    await site.sent(answer.json())
    late = T0 + HOUR_US * 3 // 4
    for known_us in (T0, T0 + 2):
        await site.tell(job("7", known_us=known_us, to_us=T0 + 2 * HOUR_US))
        told = await site.why(late)
        assert told["owner"]["kind"] == "unallocated"
        assert [one["verdict"] for one in told["claims"]] == ["corrected"]
        assert "correction 'slurm:alpha 7'" in told["claims"][0]["reason"]
    assert (await site.why(T0 + 1))["owner"]["tenant"] == "ape"
    # What was known before the correction can still be asked for.
    params = {"at": f"{T0 // 1_000_000}", "known": f"{T0 // 1_000_000}"}
    for known, ids in ((params, ["7"]), ({"at": params["at"]}, ["slurm:alpha 7"])):
        shown = (await site.client.get("/api/v1/allocations", params=known)).json()
        assert [one["id"] for one in shown["allocations"]] == ids
    listed = (await site.client.get("/api/v1/corrections")).json()["allocations"]
    assert [one["id"] for one in listed] == ["slurm:alpha 7"]
    gone = await site.client.delete(
        "/api/v1/corrections", params={"source": "slurm:alpha", "id": "7"}
    )
    await site.sent(gone.json())
    assert (await site.why(late))["owner"]["tenant"] == "ape"
    assert (await site.client.get("/api/v1/corrections")).json()["allocations"] == []


async def test_reservations_and_windows(site: Site) -> None:
    reserve = {"tenant": "ape", "project": "main", "nodes": ["b01n[01-02]"], "slices": 3,
               "from": "2026-01-01T08:00:00", "note": "winter"}  # fmt: skip
    answer = await site.client.post("/api/v1/reservations", json=reserve)
    key = answer.json()["allocation"]["id"]
    # It stands for its asker at once, before the books have it.
    listed = (await site.client.get("/api/v1/reservations")).json()["allocations"]
    assert [(one["id"], one["weight"], one["parts"]) for one in listed] == [(key, 3, 7)]
    await site.sent(answer.json())
    told = await site.why(T0, "b01n02/1")
    assert [(one["weight"], one["parts"], one["tenant"]) for one in told["shares"]] == [
        (3, 7, "ape")
    ]
    assert f"shared by ape/main: 3/7 (api {key})" in text(told)
    window = {"nodes": ["b01n02"], "from": f"{T0 // 1_000_000}", "to": "2026-01-01T09:00:00"}
    made = await site.client.post("/api/v1/maintenance", json=window)
    await site.sent(made.json())
    assert (await site.why(T0, "b01n02/1"))["owner"]["kind"] == "maintenance"
    ended = await site.client.delete(
        f"/api/v1/reservations/{key}", params={"at": "2026-01-01T10:00:00"}
    )
    await site.sent(ended.json())
    assert (await site.why(T0 + 2 * HOUR_US, "b01n02/1"))["owner"]["kind"] == "unallocated"
    later = await site.client.delete(
        f"/api/v1/reservations/{key}", params={"at": "2026-01-01T11:00:00"}
    )
    assert later.status_code == 422, "an end makes nothing longer"
    assert "only shortens it" in later.text
    assert (await site.why(T0, "b01n01/1"))["shares"] != []
    gone = await site.client.delete(f"/api/v1/reservations/{key}")
    await site.sent(gone.json())
    assert (await site.client.get("/api/v1/reservations")).json()["allocations"] == []
    assert (await site.why(T0, "b01n01/1"))["owner"]["kind"] == "unallocated"


@pytest.mark.parametrize(
    ("path", "changes", "words"),
    [
        ("reservations", {"tenant": "apes"}, ["no tenant 'apes'", "Did you mean ape?"]),
        ("reservations", {"project": "side"}, ["no project 'side'", "main"]),
        ("reservations", {"nodes": ["b01n09"]}, ["no such node", "did you mean"]),
        ("reservations", {"slots": ["0000:99:00.0"]}, ["no GPU at", A]),
        ("reservations", {"slices": 8}, ["slices"]),
        ("reservations", {"to": "2025-01-01"}, ["to must be later"]),
        ("reservations", {"from": "soon"}, ["from: 'soon' is no time"]),
        ("corrections", {"id": "77"}, ["no record '77'"]),
        ("corrections", {"id": "open"}, ["still open", "`to`"]),
        ("corrections", {"project": "main"}, ["write the tenant beside it"]),
        ("corrections", {"tenant": "bee"}, ["no tenant 'bee'"]),
        (
            "corrections",
            {"nobody": True, "to": "2026-01-01T08:30:00"},
            ["nothing else", "from and to"],
        ),
        ("corrections", {"nobody": True, "tenant": "ape"}, ["leave nobody out"]),
    ],
)
async def test_a_slip_is_refused_with_what_to_write(
    site: Site, path: str, changes: dict[str, Any], words: list[str]
) -> None:
    await site.tell(job("7"), job("open", to_us=None))
    bodies: dict[str, dict[str, Any]] = {
        "reservations": {
            "tenant": "ape",
            "project": "main",
            "nodes": ["b01n01"],
            "from": "2026-01-01",
        },
        "corrections": {"source": "slurm:alpha", "id": "7", "reason": "r"},
    }
    answer = await site.client.post(f"/api/v1/{path}", json={**bodies[path], **changes})
    assert answer.status_code == 422
    detail = json.loads(answer.text)["detail"]
    assert all(word in detail for word in words), detail
    assert (await site.client.get(f"/api/v1/{path}")).json()["allocations"] == []


async def test_what_is_not_there_is_named(site: Site) -> None:
    for gpu, words in (
        ("a01n09/0", "Did you mean"),
        ("a01n01/7", "GPUs 0 to 1"),
        ("GPU-x", "is seen now"),
    ):
        answer = await site.client.get("/api/v1/why", params={"gpu": gpu, "at": "5"})
        assert answer.status_code == 404
        assert words in answer.json()["detail"]
    answer = await site.client.delete("/api/v1/reservations/r-1")
    assert answer.status_code == 404
    told = (await site.client.get("/api/v1/tenants/file")).json()
    assert [one["id"] for one in told["tenants"]] == ["ape"]
    assert [one["name"] for one in told["names"]] == ["lab"]


def told(until_us: int, **owner: str) -> dict[str, Any]:
    whose = {"kind": "tenant", "tenant": "ape", "project": "", "job": ""}
    row = {"owner_kind": "tenant", "tenant": "ape", "project": "", "job": "", "active_us": 1,
           "idle_us": 0, "down_us": 0, "unobserved_us": 0}  # fmt: skip
    return {
        "node": "n", "slot": A, "time": "t", "time_us": T0, "known_us": None, "model": "H800",
        "owner": {**whose, **owner}, "shares": [], "claims": [], "ledger": [row],
        "hour": {"until_us": until_us, "final": False, "computed_us": 1},
    }  # fmt: skip


def test_where_the_ledger_has_no_row_of_the_owner_it_is_said() -> None:
    words = "no row of this owner"
    assert words in text(told(T0 + 1, tenant="", kind="unallocated"))
    assert words not in text(told(T0 + 1))
    # What is not computed yet contradicts nothing.
    assert words not in text(told(T0, tenant="bee"))
