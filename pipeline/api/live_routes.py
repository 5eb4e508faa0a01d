"""The fleet now: snapshot, history, push, tenants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response, WebSocket

from pipeline.api import models
from pipeline.api.deps import Api, Served, json_response
from pipeline.api.guard import SESSION_KEY

router = APIRouter(prefix="/api/v1", tags=["live"])
_LISTS = ("tenants", "racks", "halls", "nodes_missing")


def snapshot(api: Api) -> dict[str, Any]:
    """The newest frame's figures with the lists of the detail, and how fresh they are.

    Before the first frame: what is installed, and nothing that is measured.
    """
    header, detail = api.hub.header(), api.hub.detail()
    body = _unmeasured(api) if header is None else {**detail, **header}
    body.pop("nodes", None)  # they are many, and have a route of their own
    body.pop("columns", None)
    for name in _LISTS:
        body[name] = detail.get(name) or body.get(name) or []
    age_s = api.hub.age_s()
    body["age_s"] = None if age_s is None else round(age_s, 3)
    body["state"] = api.hub.state()
    return body


def _unmeasured(api: Api) -> dict[str, Any]:
    places = api.places()
    time_us = api.deps.clock.wall_us()
    nothing = ("time", "time_us", "pflops_delivered", "pflops_lo", "pflops_hi", "coverage")
    return {
        **dict.fromkeys((*nothing, "power_kw", "efficiency_gflops_w", "temperature_c")),
        "site": places.inventory.name,
        "title": places.inventory.title,
        "origin": "none",
        "layout": places.inventory.layout_id,
        "gpus_installed": places.gpus,
        "gpus_reporting": 0,
        "nodes_installed": len(places.nodes),
        "nodes_reporting": 0,
        "pflops_nameplate": places.inventory.pflops(time_us),
        "hottest": [],
    }


@router.get("/live", response_model=models.Live, summary="The fleet now")
async def live(api: Served) -> Response:
    """One consistent snapshot: sums of the fleet, of every tenant, rack and hall."""
    return json_response(snapshot(api))


@router.get(
    "/live/history", response_model=models.LiveHistory, summary="The fleet over the last minutes"
)
async def history(api: Served, minutes: Annotated[float, Query(gt=0, le=30)] = 15.0) -> Response:
    """A point per live frame, at most 1,800."""
    return json_response(api.hub.history.columns(minutes))


@router.get("/tenants", response_model=models.Tenants, summary="All tenants now")
async def tenants(api: Served) -> Response:
    """What each tenant holds and gets at this moment."""
    body = snapshot(api)
    rows: list[Mapping[str, Any]] = body["tenants"]
    return json_response({"time_us": body["time_us"], "state": body["state"], "tenants": rows})


@router.get("/layout", response_model=models.Layout, summary="The map's layout")
async def layout(api: Served) -> Response:
    """Which GPU each byte of a frame's columns is; `id` says when it has changed."""
    return json_response(api.places().layout())


@router.websocket("/live/ws")
async def push(socket: WebSocket) -> None:
    """Live frames as binary messages, the same bytes for every viewer."""
    api: Api = socket.app.state.api
    await api.hub.serve(socket, socket.scope.get(SESSION_KEY))
