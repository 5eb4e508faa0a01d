"""Usage out of the ledger: sums, capacity waterfall, tenants, jobs, the table to be signed off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Response
from pydantic import Field
from sqlalchemy import Connection

from collectors.contract.inventory import Inventory
from pipeline.api import models_usage, usage_csv
from pipeline.api.books_routes import TheBooks
from pipeline.api.deps import UsageReader, json_response, origin_name
from pipeline.api.problems import ProblemError
from pipeline.api.usage_period import MOST_DAYS, PeriodQuery, frozen_row, head
from pipeline.books import efficiency, queries, usage, waterfall
from pipeline.books.cells import Cell, read_cells
from pipeline.books.periods import Period, Resolution, Standing, slices, standing
from pipeline.books.rows import HOUR_US

router = APIRouter(prefix="/api/v1/usage", tags=["usage"])
T = TypeVar("T")
Format = Literal["json", "csv"]
_MOST_TENANT_HOURS = 7
"""Days of hours by tenant in one answer: these are not kept as sums."""
_WHEN = {"hour": "hour_us", "day": "day", "month": "month"}


class UsageQuery(PeriodQuery):
    """What sums are asked for."""

    by: list[str] = Field(["tenant"], description=f"Any of {', '.join(queries.GROUPS)}.")
    resolution: Resolution = "total"
    tenant: list[str] = Field([])
    project: list[str] = Field([])
    job: list[str] = Field([])
    model: list[str] = Field([])
    node: list[str] = Field([])
    format: Format = "json"


class WaterfallQuery(PeriodQuery):
    """Which waterfall is asked for."""

    by: waterfall.By = "site"
    resolution: Resolution = "total"


class EfficiencyQuery(PeriodQuery):
    """Which jobs are asked for."""

    tenant: list[str] = Field([])
    project: list[str] = Field([])
    job: list[str] = Field([])
    model: list[str] = Field([])
    sort: efficiency.Sort = "gpu_hours"
    waste: bool = Field(default=False, description="Only jobs that wasted what they held.")
    limit: int = Field(200, ge=1, le=10_000)
    offset: int = Field(0, ge=0)
    format: Format = "json"


class TableQuery(PeriodQuery):
    """Which table is asked for."""

    format: Format = "json"


async def _read(
    books: UsageReader,
    query: PeriodQuery,
    most_days: int,
    work: Callable[[Connection, Period], T],
) -> tuple[Period, Standing, T]:
    """The time meant, where the ledger stands in it, and what `work` found, on one snapshot."""

    def all_of_it(connection: Connection, inventory: Inventory) -> tuple[Period, Standing, T]:
        period = query.period(inventory.time_zone, most_days)
        stands = standing(connection, period)
        return period, stands, work(connection, period)

    try:
        return await books.ask(all_of_it)
    except ValueError as error:
        raise ProblemError(422, str(error)) from error


def _name(*words: str | None) -> str:
    return "-".join(word for word in words if word)


@router.get("", response_model=models_usage.Usage, summary="Usage out of the ledger")
async def sums(books: TheBooks, query: Annotated[UsageQuery, Query()]) -> Response:
    """Sums over the hours of a time by the keys named."""
    filters = {
        "tenant": query.tenant, "project": query.project, "job": query.job,
        "model": query.model, "node": query.node,
    }  # fmt: skip

    def work(connection: Connection, period: Period) -> list[dict[str, Any]]:
        return queries.usage(
            connection, period, by=query.by, resolution=query.resolution, filters=filters
        )

    period, stands, found = await _read(books, query, MOST_DAYS[query.resolution], work)
    rows = [{**row, "origin": origin_name(row["origin"])} for row in found]
    if query.format == "csv":
        columns = list(rows[0]) if rows else ["owner_kind", *query.by, "origin"]
        return usage_csv.csv_response(usage_csv.table(columns, rows), _name("usage", period.name))
    about = {**head(period, stands), "by": query.by, "resolution": query.resolution}
    return json_response({**about, "rows": rows})


@router.get("/waterfall", response_model=models_usage.Waterfall, summary="Capacity waterfall")
async def falls(books: TheBooks, query: Annotated[WaterfallQuery, Query()]) -> Response:
    """Installed → reporting → allocated → active → delivered, every drop named."""
    tenants, resolution = query.by == "tenant", query.resolution
    most_days = MOST_DAYS[resolution]
    if tenants and resolution == "hour":
        most_days = _MOST_TENANT_HOURS

    def work(connection: Connection, period: Period) -> list[Cell]:
        return read_cells(connection, period, resolution, tenants=tenants)

    period, stands, cells = await _read(books, query, most_days, work)
    covered = {when: stands.covered_us(hours) for when, hours in slices(period, resolution).items()}
    rows = [_timed(row, resolution) for row in waterfall.waterfall(cells, query.by, covered)]
    about = {**head(period, stands), "definition": waterfall.DEFINITION, "by": query.by}
    hours = stands.covered_us(period.hours) / HOUR_US
    return json_response({**about, "resolution": resolution, "hours": hours, "rows": rows})


def _timed(row: Mapping[str, Any], resolution: Resolution) -> dict[str, Any]:
    named = dict(row)
    when = named.pop("when")
    if resolution == "total":
        return named
    return {_WHEN[resolution]: when * HOUR_US if resolution == "hour" else when, **named}


def _all_cells(connection: Connection, period: Period) -> list[Cell]:
    return read_cells(connection, period, "total", tenants=True)


@router.get("/tenants", response_model=models_usage.Tenants, summary="Tenants, ranked")
async def tenants(books: TheBooks, query: Annotated[TableQuery, Query()]) -> Response:
    """What each tenant held, did with it and got out of it."""
    period, stands, cells = await _read(books, query, MOST_DAYS["total"], _all_cells)
    found = usage.tenant_table(cells)
    if query.format == "csv":
        rows: Sequence[Mapping[str, Any]] = found["rows"]
        columns = list(rows[0]) if rows else ["tenant"]
        return usage_csv.csv_response(usage_csv.table(columns, rows), _name("tenants", period.name))
    return json_response({**head(period, stands), "definition": usage.DEFINITION, **found})


@router.get("/efficiency", response_model=models_usage.Efficiency, summary="Jobs, and their waste")
async def jobs(books: TheBooks, query: Annotated[EfficiencyQuery, Query()]) -> Response:
    """Per job what it held, how much of that it used, and whether it was waste."""
    filters = {name: getattr(query, name) for name in efficiency.FILTERS}
    question = efficiency.JobQuestion(filters, query.sort, query.waste, query.limit, query.offset)

    def work(connection: Connection, period: Period) -> tuple[int, list[dict[str, Any]]]:
        return efficiency.job_table(connection, period, question)

    period, stands, found = await _read(books, query, MOST_DAYS["total"], work)
    total, rows = found
    if query.format == "csv":
        columns = list(rows[0]) if rows else ["tenant", "project", "job"]
        return usage_csv.csv_response(usage_csv.table(columns, rows), _name("jobs", period.name))
    about = {**head(period, stands), "definition": efficiency.DEFINITION}
    return json_response({**about, "total": total, "offset": query.offset, "rows": rows})


@router.get("/monthly.csv", response_class=Response, summary="A month, to be signed off")
async def monthly(books: TheBooks, query: Annotated[PeriodQuery, Query()]) -> Response:
    """One row per tenant and model, other time and totals below; definitions in the head."""
    period, stands, cells = await _read(books, query, MOST_DAYS["total"], _all_cells)
    inventory = await books.ask(lambda _, there: there)
    about = head(period, stands)
    lines = {
        "site": inventory.title,
        "period": period.name or f"{about['from']} – {about['to']}",
        "from": about["from"],
        "to": about["to"],
        "time_zone": about["time_zone"],
        "status": "final" if stands.final else "provisional",
        "as_of": about["as_of"],
        "nameplate": f"{inventory.precision} {inventory.sparsity}, {inventory.clock_basis}",
        "definitions": f"{usage.DEFINITION} {waterfall.DEFINITION}, docs/usage.md",
    }
    if stands.frozen is not None:
        signed = frozen_row(stands.frozen)
        lines |= {"status": "frozen", "frozen_at": signed["time"], "frozen_by": signed["by"],
                  "note": signed["note"], "sha256": signed["sha256"]}  # fmt: skip
    rows = usage.sign_off_rows(cells)
    name = _name("usage", inventory.name, period.name)
    return usage_csv.csv_response(usage_csv.sign_off(lines, rows), name)
