"""Incidents, silences and what people do with them, as the API has them, for the pages' tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException

_SLOT = "0000:4b:00.0"
"""Of the fleet's GPU 3."""


def subject(scope: str, rack: str, node: str = "") -> dict[str, Any]:
    """A place of the fleet."""
    name = {"rack": f"Hall 1/{rack}", "node": node, "gpu": f"{node}·3"}[scope]
    place = {"scope": scope, "name": name, "hall": "Hall 1", "rack": rack}
    if node:
        place["node"] = node
    if scope == "gpu":
        place["slot"] = _SLOT
    return place


def incident(name: str, **changes: Any) -> dict[str, Any]:
    """An open one, of 64 GPUs of a rack."""
    members = [
        {"fingerprint": f"{name}{number}", "rule": "rack_cooling", "severity": "critical",
         "subject": subject("gpu", "A03", "a03n02"), "since_us": 1_795_499_400_000_000}
        for number in range(3)
    ]  # fmt: skip
    return {
        "id": name, "state": "open", "severity": "critical", "title": "Rack A03 (Hall 1): rack cooling, 64 GPUs",
        "family": "thermal", "cause": "rack_cooling", "confidence": 0.92, "subject": subject("rack", "A03"),
        "opened_us": 1_795_499_400_000_000, "opened": "2026-11-24T05:50:00.000000Z", "resolved": None, "resolved_us": None,
        "revision": 2, "notice": 1, "members": members, "member_count": 65, "concerns": "operator",
        "tenants": ["Meridian Language Models", "Lantau Vision"], "jobs": ["48009"], "gpus": 64, "pflops": 63.3,
        "runbook": "rack_cooling", "action": "Send somebody to the rack: pump and valves first.",
        "text": "All 8 nodes are 6.1 °C warmer than their power explains.", "origin": "simulated",
        "acknowledged": None, "silenced": False, **changes,
    }  # fmt: skip


class FakeAlerts:
    """What is open, and what was asked for."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As at the start of each test."""
        gone = {"resolved": "2026-11-24T04:10:00.000000Z", "resolved_us": 1_795_493_400_000_000}
        self.incidents = {
            "i1": incident("i1"),
            "i2": incident(
                "i2", severity="warning", title="B12n07: fewer GPUs than installed", family="lost",
                cause="gpu_missing", subject=subject("node", "B12", "b12n07"), gpus=1, pflops=0.3,
                members=[], tenants=[], confidence=None, text="One of 8 is not reported.",
            ),
            "i4": incident(
                "i4", severity="warning", title="b12n07·3: row remap waits for a reset", family="memory",
                cause="row_remap_waits", subject=subject("gpu", "B12", "b12n07"), gpus=1, pflops=0.3,
                members=[], acknowledged={"actor": "kim", "time": "2026-11-24T05:51:00Z", "text": ""},
            ),
            "i3": incident("i3", state="resolved", title="A01n02·3: XID critical", **gone),
        }  # fmt: skip
        self.silences: dict[str, dict[str, Any]] = {}
        self.comments: list[str] = []
        self.tests = 0


def routes(alerts: FakeAlerts) -> APIRouter:
    """The API's routes over it."""
    router = APIRouter(prefix="/api/v1")

    def find(name: str) -> dict[str, Any]:
        if name not in alerts.incidents:
            raise HTTPException(404, f"No incident is called {name!r}.")
        return alerts.incidents[name]

    @router.get("/incidents")
    async def _incidents(state: str = "open", search: str = "") -> dict[str, Any]:
        rows = [
            one
            for one in alerts.incidents.values()
            if state in ("all", one["state"]) and search.lower() in one["title"].lower()
        ]
        return {"incidents": rows, "next": None}

    @router.get("/incidents/{name}")
    async def _incident(name: str) -> dict[str, Any]:
        one = find(name)
        told = {"target": "on-call", "outcome": "sent", "time": "2026-11-24T05:50:02.000000Z"}
        acts = [
            {"time": "2026-11-24T05:52:00.000000Z", "actor": "local", "action": "incident.comment",
             "subject": name, "detail": {"text": text}}
            for text in alerts.comments
        ]  # fmt: skip
        alert = {
            "rule": "rack_cooling", "state": "firing", "at": "2026-11-24T05:50:00.000000Z",
            "evidence": {"warmer_c": 6.1, "resistance_ratio": 1.42}, "text": one["text"],
        }  # fmt: skip
        return {
            "incident": one,
            "alerts": [alert],
            "deliveries": [told],
            "comments": [],
            "acts": acts,
        }

    @router.post("/incidents/{name}/acknowledge")
    async def _acknowledge(name: str) -> dict[str, str]:
        find(name)["acknowledged"] = {"actor": "local", "time": "2026-11-24T05:51:00Z", "text": ""}
        return {"id": name}

    @router.delete("/incidents/{name}/acknowledge")
    async def _let_go(name: str) -> dict[str, str]:
        find(name)["acknowledged"] = None
        return {"id": name}

    @router.post("/incidents/{name}/comments")
    async def _comment(name: str, said: Annotated[dict[str, str], Body()]) -> dict[str, str]:
        if not said["text"]:
            raise HTTPException(422, "text: write something.")
        alerts.comments.append(said["text"])
        return {"id": "c"}

    _add_others(router, alerts, find)
    return router


def _add_others(
    router: APIRouter, alerts: FakeAlerts, find: Callable[[str], dict[str, Any]]
) -> None:
    @router.get("/silences")
    async def _silences() -> dict[str, Any]:
        return {"silences": list(alerts.silences.values())}

    @router.post("/silences")
    async def _silence(wanted: Annotated[dict[str, Any], Body()]) -> dict[str, str]:
        name = f"s{len(alerts.silences)}"
        alerts.silences[name] = {
            "id": name, "match": wanted["match"], "until": "2026-11-24T06:50:00.000000Z",
            "actor": "local", "text": wanted["text"], "active": True,
        }  # fmt: skip
        find(wanted["match"]["incident"])["silenced"] = True
        return {"id": name}

    @router.delete("/silences/{name}")
    async def _end(name: str) -> dict[str, str]:
        ended = alerts.silences.pop(name)
        find(ended["match"]["incident"])["silenced"] = False
        return {"id": name}

    @router.get("/alerts")
    async def _alerts() -> dict[str, Any]:
        one = {
            "subject": subject("gpu", "A03", "a03n02"),
            "rule": "outlier",
            "text": "Hot, and steady.",
        }
        return {"alerts": [one]}

    @router.post("/alerts/test")
    async def _test() -> dict[str, str]:
        alerts.tests += 1
        return {"id": "t"}

    @router.get("/runbooks/{name}")
    async def _runbook(name: str) -> dict[str, str]:
        return {"name": name, "text": f"# {name}\n\nCheck the **pump** first.\n\n- valves\n"}
