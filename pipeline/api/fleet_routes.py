"""What happened on the nodes, and what their agents can and cannot measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response

from collectors.contract.facts import NodeFacts
from collectors.contract.identity import slot_text
from collectors.contract.inventory import InstalledNode
from collectors.contract.site_fit import fit_of
from collectors.contract.topics import Event
from collectors.contract.xids import ACTIONS, advice
from pipeline import health as boards
from pipeline.api import models_fleet, queries
from pipeline.api.deps import Api, Served, json_response
from pipeline.api.ranges import parse_time, time_text

router = APIRouter(prefix="/api/v1", tags=["fleet"])


def event_row(event: Event) -> dict[str, Any]:
    """An event with its meaning; what its agent said of it goes before our table."""
    told = advice(event.kind, event.code, event.text)
    action = event.action or told.action
    return {
        "time": time_text(event.time_us),
        "time_us": event.time_us,
        "node": event.node,
        "kind": event.kind,
        "slot": event.slot or None,
        "uuid": event.uuid or None,
        "code": event.code,
        "name": told.name,
        "text": event.text,
        "source": event.source,
        "severity": told.severity,
        "action": action,
        "advice": ACTIONS.get(action, ""),
        "concerns": event.concerns or told.concerns,
        "occupant": event.occupant or None,
        "count": event.count,
    }


def _filter(query: queries.EventQuery) -> Callable[[Event], bool]:
    from_us = parse_time(query.from_, "from") if query.from_ else None
    to_us = parse_time(query.to, "to") if query.to else None

    def wanted(event: Event) -> bool:
        return (
            query.node in (None, event.node)
            and query.kind in (None, event.kind)
            and query.code in (None, event.code)
            and query.concerns in (None, event.concerns)
            and (from_us is None or event.time_us >= from_us)
            and (to_us is None or event.time_us < to_us)
        )

    return wanted


@router.get("/events", response_model=models_fleet.Events, summary="What happened on the nodes")
async def events(api: Served, query: Annotated[queries.EventQuery, Query()]) -> Response:
    """XIDs and other events, newest first, with the maker's advice and whom they concern."""
    total, found = api.fleet_log.events(_filter(query), query.limit)
    return json_response({"total": total, "events": [event_row(event) for event in found]})


def clock_offsets(api: Api) -> dict[str, float]:
    """Node → bus time minus the node's, µs, as the roles have found it."""
    return {
        row.labels.get("node", ""): row.value
        for record in api.hub.health()
        for row in record.values.get(boards.CLOCK_OFFSET_US, ())
    }


def facts_row(
    facts: NodeFacts, bus_us: int, now_us: int, offset_us: float | None
) -> dict[str, Any]:
    """What an agent said, and how long ago."""
    row = msgspec.structs.asdict(facts)
    row["gpus"] = [msgspec.structs.asdict(gpu) for gpu in facts.gpus]
    del row["time_us"]
    age_s = max(0.0, (now_us - bus_us) / 1e6)
    return {**row, "known": True, "age_s": age_s, "clock_offset_us": offset_us}


def fit_row(installed: InstalledNode | None, facts: NodeFacts) -> dict[str, Any]:
    """Where an agent and the inventory differ about a node's GPUs, and what to write."""
    fit = fit_of(installed, facts.gpus)
    return {
        "unlisted": [slot_text(slot) for slot in fit.unlisted],
        "unheard": [slot_text(slot) for slot in fit.unheard],
        "slots_line": fit.line,
    }


@router.get("/agents", response_model=models_fleet.Agents, summary="What each agent can measure")
async def agents(api: Served, query: Annotated[queries.AgentQuery, Query()]) -> Response:
    """Every node of the inventory, and agents of nodes that it lacks: driver, version, clock,
    spool, how each GPU's FLOP are found, which signals it does not give and why, and whether its
    GPUs stand where the inventory says."""
    offsets, now_us = clock_offsets(api), api.deps.clock.wall_us()
    installed = api.places().nodes
    known = api.fleet_log.agents(installed)
    rows: list[dict[str, Any]] = []
    for node in sorted({*installed, *known}):
        if query.node not in (None, node):
            continue
        told = known.get(node)
        row: dict[str, Any] = {"node": node, "known": False, "clock_offset_us": offsets.get(node)}
        if told is not None:
            row = facts_row(told[1], told[0], now_us, offsets.get(node))
            row |= fit_row(installed.get(node), told[1])
            row["heard_since_us"] = api.fleet_log.first_us[node]
        rows.append({**row, "installed": node in installed})
    return json_response({"agents": rows})
