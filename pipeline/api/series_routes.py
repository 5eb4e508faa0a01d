"""Series of a node's GPUs over a time, as stored or at a resolution that suits the range."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.identity import parse_slot
from pipeline.api import models, queries
from pipeline.api.deps import Api, Served, json_response
from pipeline.api.problems import ProblemError, unknown
from pipeline.api.ranges import MAX_RAW_VALUES, MINUTE_US, Range, make_range, time_text
from pipeline.api.series import Wanted, minute_series, raw_series, wanted
from pipeline.series.columns import concat_raw, merge_parts, select_raw
from pipeline.series.port import RawSamples

router = APIRouter(prefix="/api/v1", tags=["series"])


def _slots(texts: Sequence[str]) -> list[int] | None:
    try:
        return [parse_slot(text) for text in texts] or None
    except ValueError as error:
        raise ProblemError(422, f"slot: {error}.") from error


async def _read_raw(
    api: Api, node: str, slots: Sequence[int] | None, want: Wanted, span: Range
) -> tuple[RawSamples, int | None]:
    """The samples from the range's start that fit into one answer, and where to go on.

    Read a piece at a time, since nobody knows beforehand how many samples a
    minute holds: recordings may have a hundred a second.
    """
    metrics = [*want.gauges, *want.counters]
    most = max(1, MAX_RAW_VALUES // len(metrics))
    pieces: list[RawSamples] = []
    held, at_us, step_us = 0, span.from_us, MINUTE_US
    while at_us < span.to_us and held <= most:
        end_us = min(span.to_us, at_us + step_us)
        piece = await api.deps.series.raw(at_us, end_us, node=node, slots=slots, metrics=metrics)
        pieces.append(piece)
        held += len(piece)
        at_us = end_us
        if len(piece) < most // 4:
            step_us *= 2
    samples = concat_raw(pieces)
    if held <= most:
        return samples, None
    times = np.sort(samples.time_us)
    cut_us = int(times[most])
    if cut_us == times[0]:
        # More GPUs at one moment than fit: that moment is given whole, else nobody could go on.
        cut_us += 1
    return select_raw(samples, samples.time_us < cut_us), cut_us


async def _raw(
    api: Api, node: str, slots: Sequence[int] | None, want: Wanted, span: Range, *, exact: bool
) -> tuple[list[dict[str, Any]], int | None]:
    samples, next_us = await _read_raw(api, node, slots, want, span)
    return await asyncio.to_thread(raw_series, samples, want, exact=exact), next_us


async def _minutes(
    api: Api, node: str, slots: Sequence[int] | None, want: Wanted, span: Range
) -> list[dict[str, Any]]:
    parts = await api.deps.series.minutes(
        span.from_minute,
        span.to_minute,
        nodes=[node],
        slots=slots,
        counters=want.counters,
        gauges=want.gauges,
    )
    return await asyncio.to_thread(lambda: minute_series(merge_parts(parts), want, span))


@router.get(
    "/series",
    response_model=models.SeriesAnswer,
    response_model_exclude_none=True,
    summary="Series of a node's GPUs",
)
async def series(api: Served, query: Annotated[queries.SeriesQuery, Query()]) -> Response:
    """Columns per slot and metric, over from ≤ time < to."""
    names = {node.name for node in api.deps.inventory().nodes}
    if query.node not in names:
        raise unknown("node", query.node, names)
    exact = query.resolution == "raw"
    metrics = query.metric or [metric.name for metric in CATALOGUE]
    want = wanted(metrics, derived=not exact)
    span = make_range(
        query.from_,
        query.to,
        query.resolution,
        now_us=await api.now_us(),
        raw_keep_us=int(api.settings.raw_keep_s * 1e6),
    )
    slots = _slots(query.slot)
    next_us: int | None = None
    if span.step:
        found = await _minutes(api, query.node, slots, want, span)
    else:
        found, next_us = await _raw(api, query.node, slots, want, span, exact=exact)
    body: dict[str, Any] = {
        "node": query.node,
        "resolution": "minute" if span.step else "raw",
        "step_s": span.step * 60 or None,
        "from": time_text(span.from_us),
        "to": time_text(span.to_us),
        "series": found,
    }
    if next_us is not None:
        body["next"] = time_text(next_us)
    return await asyncio.to_thread(json_response, body)
