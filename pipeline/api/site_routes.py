"""What is installed and how each part of it is now: sites, racks, nodes, GPUs, the catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.facts import NodeFacts
from collectors.contract.identity import slot_text
from collectors.contract.inventory import InstalledNode
from collectors.contract.record import Origin, SlotLabels
from pipeline.api import frames, models, queries
from pipeline.api.deps import Api, Served, json_response
from pipeline.api.fleet import Latest
from pipeline.api.fleet_routes import clock_offsets, facts_row
from pipeline.api.instances import instance_rows
from pipeline.api.live_routes import snapshot
from pipeline.api.places import Places, nameplate
from pipeline.api.problems import unknown
from pipeline.api.series import DERIVED

router = APIRouter(prefix="/api/v1", tags=["site"])
_NO_SUMS: dict[str, Any] = {"pflops": None, "power_kw": None, "utilization": None}


@router.get("/sites", response_model=models.Sites, summary="What is installed")
async def sites(api: Served) -> Response:
    """The site's halls, racks, nodes and GPUs in numbers."""
    places = api.places()
    nodes, inventory = places.nodes.values(), places.inventory
    site = {
        "site": inventory.name,
        "title": inventory.title,
        "time_zone": inventory.time_zone,
        "nameplate": nameplate(inventory),
        "halls": len({node.hall for node in nodes}),
        "racks": len({(node.hall, node.rack) for node in nodes}),
        "nodes": len(nodes),
        "gpus": places.gpus,
        "pflops_nameplate": sum(len(node.slots) * node.pflops_per_gpu for node in nodes),
    }
    return json_response({"sites": [site]})


@router.get("/racks", response_model=models.Racks, summary="All racks now")
async def racks(api: Served) -> Response:
    """Sums per rack; those that the live figures lack have what is installed alone."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for node in api.places().nodes.values():
        empty = {"hall": node.hall, "rack": node.rack, "gpus_installed": 0}
        row = rows.setdefault((node.hall, node.rack), empty)
        row["gpus_installed"] += len(node.slots)
    for row in snapshot(api)["racks"]:
        rows[row["hall"], row["rack"]] = row
    return json_response({"racks": list(rows.values())})


def _node_row(
    node: InstalledNode, places: Places, columns: Mapping[str, NDArray[np.uint8] | None]
) -> dict[str, Any]:
    state = places.cells(node.name, columns["state"])
    temperature = places.cells(node.name, columns["temperature_c"])
    counts: dict[str, int | None] = {
        f"gpus_{name}": None if state is None else int(np.count_nonzero(state & bit))
        for name, bit in frames.STATES.items()
    }
    known: list[int] = (
        [] if temperature is None else temperature[temperature != frames.ABSENT].tolist()
    )
    return {
        "node": node.name,
        "hall": node.hall,
        "rack": node.rack,
        "model": node.model,
        "gpus": len(node.slots),
        "pflops_nameplate": len(node.slots) * node.pflops_per_gpu,
        **counts,
        "temperature_max_c": max(known, default=None),
    }


def _node_sums(columns: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """The sums of each node that a detail holds in columns."""
    names = [name for name in _NO_SUMS if name in columns]
    rows = zip(*(columns[name] for name in names), strict=True)
    return {
        node: dict(zip(names, row, strict=True))
        for node, row in zip(columns.get("node", ()), rows, strict=False)
    }


@router.get("/nodes", response_model=models.Nodes, summary="All nodes now")
async def nodes(api: Served) -> Response:
    """Every node of the inventory, silent ones too."""
    places = api.places()
    columns = {name: api.column(name, places) for name in ("state", "temperature_c")}
    sums = _node_sums(api.hub.detail().get("nodes", {}))
    rows = [
        {**_node_row(node, places, columns), **sums.get(node.name, _NO_SUMS)}
        for node in places.nodes.values()
    ]
    return json_response({"nodes": rows})


class _GpuRows:
    """Makes a GPU's row out of the inventory, the live frame, the labels and the latest values."""

    def __init__(self, api: Api, places: Places, owners: Sequence[str | None]) -> None:
        self._places = places
        self._labels = api.hub.labels
        self._owners = owners
        state = api.column("state", places)
        self.states: Sequence[int | None] = (
            [None] * places.gpus if state is None else state.tolist()
        )

    def row(self, node: InstalledNode, index: int, latest: Latest, now_us: int) -> dict[str, Any]:
        """The row of a node's GPU by its index there."""
        slot = node.slots[index]
        position = self._places.offset[node.name] + index
        seats = {seat.slot: seat for seat in self._labels.get(node.name, ())}
        seat = seats.get(slot, SlotLabels(slot))
        at = latest.newest(node.name, slot)
        return {
            "node": node.name,
            "slot": slot_text(slot),
            "uuid": seat.uuid or None,
            "model": seat.model or node.model,
            "serial": seat.serial or None,
            "occupant": seat.occupant or None,
            "tenant": self._owners[position],
            **_flags(self.states[position]),
            "origin": "none" if at is None else Origin(latest.origin[at]).name.lower(),
            "age_s": None if at is None else max(0.0, (now_us - int(latest.time_us[at])) / 1e6),
            "values": {} if at is None else latest.row(at),
        }


def _flags(state: int | None) -> dict[str, bool | None]:
    names = ("reporting", "active", "throttled", "down")
    return {name: None if state is None else bool(state & frames.STATES[name]) for name in names}


@router.get("/nodes/{node}", response_model=models.NodeDetail, summary="A node and its GPUs now")
async def node_detail(api: Served, node: str) -> Response:
    """Who holds and occupies each GPU, and the latest value of each metric (at most 3 min old)."""
    places = api.places()
    entry = places.nodes.get(node)
    if entry is None:
        raise unknown("node", node, places.nodes)
    now_us = await api.now_us()
    latest = await api.fleet.node(now_us, node)
    rows = _GpuRows(api, places, await api.owners(places))
    gpus = [rows.row(entry, index, latest, now_us) for index in range(len(entry.slots))]
    ages = [gpu["age_s"] for gpu in gpus if gpu["age_s"] is not None]
    told = api.fleet_log.facts.get(node)
    seats = api.hub.labels.get(node, ())
    body = {
        "node": node,
        "hall": entry.hall,
        "rack": entry.rack,
        "model": entry.model,
        "pflops_nameplate": len(entry.slots) * entry.pflops_per_gpu,
        "tenants": sorted({gpu["tenant"] for gpu in gpus if gpu["tenant"]}),
        "age_s": min(ages, default=None),
        "gpus": gpus,
        "instances": instance_rows(node, latest, seats, told[1].gpus if told else (), now_us),
        "agent": _agent(api, node, told),
    }
    return json_response(body)


def _agent(api: Api, node: str, told: tuple[int, NodeFacts] | None) -> dict[str, Any] | None:
    if told is None:
        return None
    offset_us = clock_offsets(api).get(node)
    row = facts_row(told[1], told[0], api.deps.clock.wall_us(), offset_us)
    return {**row, "installed": True}


def _asked(query: queries.GpuQuery, node: InstalledNode) -> bool:
    return all(
        wanted in (None, has)
        for wanted, has in (
            (query.node, node.name),
            (query.rack, node.rack),
            (query.hall, node.hall),
            (query.model, node.model),
        )
    )


def _in_state(wanted: str | None, state: int | None) -> bool:
    if wanted is None:
        return True
    if state is None:
        return False
    return (
        not state & frames.REPORTING if wanted == "silent" else bool(state & frames.STATES[wanted])
    )


@router.get("/gpus", response_model=models.Gpus, summary="GPUs now, filtered")
async def gpus(api: Served, query: Annotated[queries.GpuQuery, Query()]) -> Response:
    """A page of the GPUs that all filters let through, in map order."""
    places = api.places()
    if query.node is not None and query.node not in places.nodes:
        raise unknown("node", query.node, places.nodes)
    owners = await api.owners(places)
    rows = _GpuRows(api, places, owners)
    found = [
        (node, index)
        for node in places.nodes.values()
        if _asked(query, node)
        for index in range(len(node.slots))
        if query.tenant in (None, owners[places.offset[node.name] + index])
        and _in_state(query.state, rows.states[places.offset[node.name] + index])
    ]
    page = found[query.offset : query.offset + query.limit]
    now_us = await api.now_us()
    latest = await api.fleet.fleet(now_us)
    body = [rows.row(node, index, latest, now_us) for node, index in page]
    return json_response({"total": len(found), "offset": query.offset, "gpus": body})


@router.get("/metrics/catalogue", response_model=models.MetricCatalogue, summary="All metrics")
async def catalogue() -> Response:
    """Names, units and ranges, the same on the wire, in the stores and here."""
    metrics = [
        {
            "name": metric.name,
            "number": metric.number,
            "unit": metric.unit,
            "help": metric.help,
            "kind": metric.kind.value,
            "valid": metric.valid,
            "decimals": metric.decimals,
            "shown": metric.shown,
        }
        for metric in CATALOGUE
    ]
    return json_response({"metrics": metrics, "derived": DERIVED})
