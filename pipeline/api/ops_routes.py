"""How the pipeline is: law 6, lag, clock offsets, Prometheus, liveness and readiness."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Response

from collectors.contract.bus import BusUnavailableError
from pipeline import health as boards
from pipeline.api import models_ops, prometheus
from pipeline.api.deps import Served, json_response
from pipeline.api.fleet_routes import clock_offsets
from pipeline.api.prometheus_fleet import render_fleet_log
from pipeline.series.port import StoreUnavailableError

router = APIRouter(tags=["operation"])
_READY_S = 3.0


def _per_node(records: Sequence[boards.HealthRecord], name: str) -> dict[str, int]:
    """A node's figure, added up over the workers that have had the node."""
    totals: dict[str, int] = defaultdict(int)
    for record in records:
        for row in record.values.get(name, ()):
            totals[row.labels.get("node", "")] += int(row.value)
    return totals


def _balance(records: Sequence[boards.HealthRecord]) -> tuple[dict[str, int], dict[str, list[Any]]]:
    terms = {name.removeprefix("records_"): _per_node(records, name) for name in boards.BALANCE}
    nodes = sorted({node for values in terms.values() for node in values})
    columns: dict[str, list[Any]] = {"node": nodes}
    for term, values in terms.items():
        columns[term] = [values.get(node, 0) for node in nodes]
    sums = {term: sum(columns[term]) for term in terms}
    accounted = sums["stored"] + sums["rejected"] + sums["dropped"] + sums["in_flight"]
    return {**sums, "difference": sums["sent"] - accounted}, columns


def _lag(records: Sequence[boards.HealthRecord]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for record in records:
        for name, field in ((boards.LAG_RECORDS, "records"), (boards.LAG_S, "seconds")):
            for row in record.values.get(name, ()):
                topic, partition = row.labels.get("topic", ""), row.labels.get("partition", "0")
                empty: dict[str, Any] = {
                    "role": record.role,
                    "instance": record.instance,
                    "topic": topic,
                    "partition": int(partition),
                    "records": None,
                    "seconds": None,
                }
                key = (record.role, record.instance, topic, partition)
                rows.setdefault(key, empty)[field] = row.value
    return list(rows.values())


def _without_nodes(record: boards.HealthRecord) -> dict[str, Any]:
    """A board without the per-node rows, which stand in columns of their own."""
    apart = {*boards.BALANCE, boards.CLOCK_OFFSET_US}
    values = {k: v for k, v in record.values.items() if k not in apart}
    return msgspec.to_builtins(msgspec.structs.replace(record, values=values))


@router.get(
    "/api/v1/health", response_model=models_ops.PipelineHealth, summary="How the pipeline is"
)
async def health(api: Served) -> Response:
    """What became of every record per node, how far consumers are behind, whose clock is off."""
    records = api.hub.health()
    balance, nodes = _balance(records)
    body = {
        "time_us": api.deps.clock.wall_us(),
        "live": {"state": api.hub.state(), "age_s": api.hub.age_s(), "viewers": api.hub.viewers},
        "balance": balance,
        "nodes": nodes,
        "lag": _lag(records),
        "clock_offset_us": clock_offsets(api),
        "roles": [_without_nodes(record) for record in records],
    }
    return json_response(body)


@router.get("/metrics", summary="Prometheus text", response_class=Response)
async def metrics(api: Served) -> Response:
    """The latest value of each metric of each GPU, and this process and the roles themselves.

    Values older than 3 minutes are left out, and a store that is away costs the fleet's alone.
    """
    blocks: list[bytes] = []
    up = 1
    try:
        latest = await api.fleet.fleet(await api.now_us())
        inventory = api.deps.inventory()
        blocks += await asyncio.to_thread(
            prometheus.render_fleet, latest, inventory, dict(api.hub.labels)
        )
    except StoreUnavailableError:
        up = 0
    blocks += prometheus.render_process(api.answers)
    blocks += prometheus.render_health(api.hub.health())
    installed = api.places().nodes
    blocks += render_fleet_log(api.fleet_log, installed, api.deps.clock.wall_us())
    kind = "# TYPE petawatch_series_store_up gauge\n"
    blocks.append(f"{kind}petawatch_series_store_up {up}\n".encode())
    return Response(b"".join(blocks), media_type=prometheus.CONTENT_TYPE)


@router.get("/healthz", summary="Alive")
async def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "alive"}


@router.get("/readyz", summary="Ready")
async def readyz(api: Served) -> Response:
    """The bus and the series store answer; else 503, saying which does not."""
    answers = await asyncio.gather(
        _answers("bus", api.deps.bus.health()),
        _answers("series store", api.deps.series.health()),
    )
    reasons = [reason for reason in answers if reason]
    body: Mapping[str, Any] = {"status": "not ready" if reasons else "ready", "reasons": reasons}
    response = json_response(body)
    response.status_code = 503 if reasons else 200
    return response


async def _answers(name: str, asked: Awaitable[dict[str, str]]) -> str | None:
    """Why a part is not there; no address or version, since strangers may ask."""
    try:
        async with asyncio.timeout(_READY_S):
            await asked
    except TimeoutError:
        return f"The {name} has not answered within {_READY_S:g} s."
    except (BusUnavailableError, StoreUnavailableError):
        return f"The {name} does not answer."
    return None
