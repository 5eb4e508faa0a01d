"""Months: which are frozen, freezing one, whether it still is as it was, and what came since."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from collectors.contract.inventory import Inventory
from pipeline.api import models_months as models
from pipeline.api import usage_csv
from pipeline.api.actor import Actor, Acts
from pipeline.api.books_routes import TheBooks
from pipeline.api.deps import Served, json_response, origin_name
from pipeline.api.problems import ProblemError
from pipeline.api.ranges import time_text
from pipeline.api.usage_period import frozen_row, head
from pipeline.books import months
from pipeline.books.acts import Act
from pipeline.books.cells import GFLOP_PER_PFLOP_HOUR
from pipeline.books.frozen import frozen_month, read_adjustments
from pipeline.books.periods import days_of, month_period, standing
from pipeline.books.progress import ledger_hours
from pipeline.books.rows import HOUR_US
from pipeline.books.schema_months import adjustments
from pipeline.books.usage import MJ_PER_KWH

router = APIRouter(prefix="/api/v1", tags=["usage"])
MonthName = Annotated[str, Path(pattern=r"^\d{4}-(0[1-9]|1[0-2])$", examples=["2026-10"])]
_SUMS = ("month", "owner_kind", "tenant", "project", "model", "origin", "cause")
_EACH = ("month", "hour", "node", *_SUMS[1:4], "job", *_SUMS[4:], "known_us")


class AdjustmentsQuery(BaseModel):
    """Which adjustments are asked for."""

    model_config = ConfigDict(extra="forbid")

    month: str | None = Field(None, description="Of this frozen month.")
    booked: str | None = Field(None, description="Those that became known in this month.")
    each: bool = Field(default=False, description="Every hour, node and job instead of sums.")
    format: Literal["json", "csv"] = "json"


@router.get("/months", response_model=models.Months, summary="Months, frozen and not")
async def listing(books: TheBooks) -> Response:
    """All months of which the ledger has something, the newest first."""

    def work(connection: Connection, inventory: Inventory) -> list[dict[str, Any]]:
        zone = ZoneInfo(inventory.time_zone)
        named = reversed(months.months_of(ledger_hours(connection), zone))
        return [_month(connection, month, zone) for month in named]

    zone, rows = await books.ask(lambda one, site: (site.time_zone, work(one, site)))
    return json_response({"time_zone": zone, "months": rows})


def _month(connection: Connection, month: str, zone: ZoneInfo) -> dict[str, Any]:
    period = month_period(month, zone)
    about = head(period, standing(connection, period))
    names = ("from", "to", "ledger_from", "final", "frozen")
    return {"month": month, **{name: about[name] for name in names}}


@router.post("/months/{month}/freeze", response_model=models.Month, summary="Freeze a month")
async def freeze(
    api: Served, books: TheBooks, actor: Actor, acts: Acts, month: MonthName, body: models.FreezeIn
) -> Response:
    """Its hours stay as they are from now on; 409 says what keeps it from being frozen."""
    inventory = api.deps.inventory()
    said = "".join(one for one in body.by if one.isprintable()).strip()
    who = f"{actor} ({said})" if said else actor

    def work(connection: Connection, at_us: int) -> Act:
        frozen = months.freeze(connection, inventory, month, who, body.note, at_us)
        return Act(who, "month.freeze", month, {"sha256": frozen.sha256, "note": body.note})

    try:
        await acts.decide(work)
    except months.MonthRefusedError as error:
        raise ProblemError(409, str(error)) from error
    zone = ZoneInfo(inventory.time_zone)
    return json_response(await books.ask(lambda one, _: _month(one, month, zone)))


@router.get("/months/{month}/check", response_model=models.Checked, summary="Check a month")
async def check(books: TheBooks, month: MonthName) -> Response:
    """Adds a frozen month up anew from the ledger's rows, and compares it with what was frozen."""
    frozen = await books.ask(lambda one, _: frozen_month(one, month))
    if frozen is None:
        raise ProblemError(404, f"{month} is not frozen.")
    zone = ZoneInfo(frozen.time_zone)
    days: list[months.Day] = []
    # Day by day, since a large month takes longer than one question may; its rows do not change.
    for _, hours in days_of(frozen.hours, zone):
        days += await books.ask(partial(_counted, hours, zone))
    copied = await books.ask(lambda one, _: list(months.copied_days(one, month)))
    found = months.compared(frozen, copied, days)
    differences = [
        {**row, "origin": origin_name(row["origin"])} if "origin" in row else row
        for row in found.differences
    ]
    return json_response(
        {
            "month": month,
            "same": found.same,
            "frozen": frozen_row(found.frozen),
            "sha256": found.sha256,
            "differences": differences,
        }
    )


def _counted(
    hours: range, zone: ZoneInfo, connection: Connection, _: Inventory
) -> list[months.Day]:
    return list(months.counted_days(connection, hours, zone))


@router.get("/adjustments", response_model=models.Adjustments, summary="Adjustments of months")
async def since(books: TheBooks, query: Annotated[AdjustmentsQuery, Query()]) -> Response:
    """What frozen months would be more or less by, to be booked in the month in which it became
    known."""
    if (query.month is None) == (query.booked is None):
        raise ProblemError(422, "Write month=2026-10, or booked=2026-11.")

    def work(connection: Connection, inventory: Inventory) -> tuple[ZoneInfo, list[dict[str, Any]]]:
        zone = ZoneInfo(inventory.time_zone)
        period = month_period(query.month or query.booked or "", zone)
        where = adjustments.c.month == period.name
        if query.booked is not None:
            where = adjustments.c.known_us.between(period.from_us, period.to_us - 1)
        elif frozen_month(connection, str(period.name)) is None:
            raise ValueError(f"{period.name} is not frozen, so there are none of it")
        return zone, read_adjustments(connection, where, by=_EACH if query.each else _SUMS)

    try:
        zone, found = await books.ask(work)
    except ValueError as error:
        raise ProblemError(422, f"{error}.") from error
    rows = [_shown(row, zone) for row in found]
    if query.format == "csv":
        columns = list(rows[0]) if rows else list(_EACH if query.each else _SUMS)
        name = f"adjustments-{query.month or query.booked}"
        return usage_csv.csv_response(usage_csv.table(columns, rows), name)
    about = {"time_zone": zone.key, "month": query.month, "booked": query.booked}
    return json_response({**about, "rows": rows})


def _shown(row: Mapping[str, Any], zone: ZoneInfo) -> dict[str, Any]:
    """An adjustment with the figures that people read; those of a single hour say which."""
    named: dict[str, Any] = {**row, "origin": origin_name(row["origin"])}
    if "hour" in named:
        known_us, hour = named.pop("known_us"), named.pop("hour")
        moment = dt.datetime.fromtimestamp(known_us / 1e6, zone)
        named = {"hour_us": hour * HOUR_US, **named, "known": time_text(known_us),
                 "booked": f"{moment:%Y-%m}"}  # fmt: skip
    return {
        **named,
        "gpu_hours": row["gpu_us"] / HOUR_US,
        "active_gpu_hours": row["active_us"] / HOUR_US,
        "pflop_hours": row["gflop"] / GFLOP_PER_PFLOP_HOUR,
        "kwh": row["energy_mj"] / MJ_PER_KWH,
    }
