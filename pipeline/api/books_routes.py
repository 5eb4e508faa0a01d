"""Allocations, as the books know them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Response

from pipeline.api import models_ops
from pipeline.api.deps import Api, Served, UsageReader, json_response
from pipeline.api.problems import ProblemError
from pipeline.api.ranges import parse_time
from pipeline.books.queries import allocations_at

router = APIRouter(prefix="/api/v1", tags=["books"])


async def books_of(api: Served) -> UsageReader:
    """The books of a server.  Raises ProblemError (503) where it has none."""
    return books_behind(api)


def books_behind(api: Api) -> UsageReader:
    """The same, outside a request's parameters."""
    if api.deps.books is None:
        raise ProblemError(503, "This server has no books; ask one that runs the role books.")
    return api.deps.books


TheBooks = Annotated[UsageReader, Depends(books_of)]


@router.get("/allocations", response_model=models_ops.Allocations, summary="Who holds what")
async def allocations(
    api: Served,
    books: TheBooks,
    at: Annotated[str | None, Query(description="A time; now.")] = None,
    known: Annotated[str | None, Query(description="As known at that time; now.")] = None,
) -> Response:
    """The allocations that hold at a time, without those in whose stead a correction stands."""
    at_us = await api.now_us() if at is None else parse_time(at, "at")
    known_us = None if known is None else parse_time(known, "known")
    found = await books.ask(lambda one, _: allocations_at(one, at_us, known_us=known_us))
    rows = [msgspec.to_builtins(one) for one in found]
    return json_response({"time_us": at_us, "allocations": rows})
