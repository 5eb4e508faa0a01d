"""Waste: GPUs that tenants held and that did nothing."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field
from sqlalchemy import Connection

from collectors.contract.inventory import Inventory
from pipeline.api import models_usage
from pipeline.api.books_routes import TheBooks
from pipeline.api.deps import Served, json_response
from pipeline.api.usage_period import PeriodQuery, head
from pipeline.books import versions
from pipeline.books.claims import Claim
from pipeline.books.periods import Period, Standing, standing
from pipeline.books.progress import in_batches
from pipeline.books.site_files import known_files
from pipeline.books.waste_report import COUNTERS, DEFINITION, GAUGES, MINUTE_US, waste_in

router = APIRouter(prefix="/api/v1/usage", tags=["usage"])
_MOST_DAYS = 1
_NODES_AT_ONCE = 32
_MOST_ROWS = 10_000


class WasteQuery(PeriodQuery):
    """Where waste is looked for."""

    tenant: list[str] = Field([])
    job: list[str] = Field([])
    node: list[str] = Field([])
    limit: int = Field(1_000, ge=1, le=_MOST_ROWS)


class _Site:
    """What the books say of a time."""

    def __init__(self, connection: Connection, inventory: Inventory, query: WasteQuery) -> None:
        self.inventory = inventory
        self.period: Period = query.period(inventory.time_zone, _MOST_DAYS)
        self.stands: Standing = standing(connection, self.period)
        tenants = known_files(connection).tenants
        found = versions.claims_between(
            connection, self.period.from_us, self.period.to_us, tenants=tenants
        )
        self.claims: dict[str, list[Claim]] = {
            node: claims for node, claims in found.items() if not query.node or node in query.node
        }


@router.get("/waste", response_model=models_usage.Waste, summary="Held, and doing nothing")
async def waste(api: Served, books: TheBooks, query: Annotated[WasteQuery, Query()]) -> Response:
    """Times in which a GPU was held and idle, or busy without work; the longest first."""
    site = await books.ask(lambda one, inventory: _Site(one, inventory, query))
    period = site.period
    bounds = period.from_us // MINUTE_US, period.to_us // MINUTE_US
    rows: list[dict[str, Any]] = []
    for nodes in in_batches(sorted(site.claims), _NODES_AT_ONCE):
        parts = await api.deps.series.minutes(
            *bounds, nodes=nodes, counters=COUNTERS, gauges=GAUGES
        )
        rows += await asyncio.to_thread(
            waste_in, parts, site.claims, site.inventory, nodes, (period.from_us, period.to_us)
        )
    wanted = [
        row
        for row in rows
        if (not query.tenant or row["tenant"] in query.tenant)
        and (not query.job or row["job"] in query.job)
    ]
    wanted.sort(key=lambda row: -row["minutes"])
    about = {**head(period, site.stands), "definition": DEFINITION, "total": len(wanted)}
    return json_response({**about, "rows": wanted[: query.limit]})
