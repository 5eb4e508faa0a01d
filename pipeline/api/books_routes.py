"""Usage and allocations, as the books know them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response

from pipeline.api import models_ops
from pipeline.api.deps import (
    Api,
    Served,
    UsageReader,
    UsageResolution,
    json_response,
    origin_name,
)
from pipeline.api.problems import ProblemError
from pipeline.api.ranges import DAY_US, parse_time, time_text

router = APIRouter(prefix="/api/v1", tags=["books"])


def _books(api: Api) -> UsageReader:
    if api.deps.books is None:
        raise ProblemError(503, "This server has no books; ask one that runs the role books.")
    return api.deps.books


@router.get("/usage", response_model=models_ops.Usage, summary="Usage out of the ledger")
async def usage(
    api: Served,
    from_: Annotated[str, Query(alias="from")],
    to: Annotated[str, Query()],
    by: Annotated[list[str], Query()] = ["tenant"],  # noqa: B006 (FastAPI copies it)
    resolution: UsageResolution = "total",
) -> Response:
    """Sums over [from, to) by the keys named."""
    books = _books(api)
    from_us, to_us = parse_time(from_, "from"), parse_time(to, "to")
    most_days = 31 if resolution == "hour" else 1_100
    if not 0 < to_us - from_us <= most_days * DAY_US:
        raise ProblemError(
            422,
            f"from must lie before to, with resolution={resolution} by at most {most_days} days.",
        )
    try:
        rows = await books.usage(from_us, to_us, by=by, resolution=resolution)
    except ValueError as error:
        raise ProblemError(422, str(error)) from error
    body = {"from": time_text(from_us), "to": time_text(to_us), "by": by, "resolution": resolution}
    named = [{**row, "origin": origin_name(row["origin"])} for row in rows]
    return json_response({**body, "rows": named})


@router.get("/allocations", response_model=models_ops.Allocations, summary="Who holds what")
async def allocations(
    api: Served, at: Annotated[str | None, Query(description="A time; now.")] = None
) -> Response:
    """The allocations that hold at a time, in their last known version."""
    books = _books(api)
    at_us = await api.now_us() if at is None else parse_time(at, "at")
    rows = [msgspec.to_builtins(one) for one in await books.allocations(at_us)]
    return json_response({"time_us": at_us, "allocations": rows})
