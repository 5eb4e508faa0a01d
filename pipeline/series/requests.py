"""A batch as the requests that InfluxDB gets: ready lines, a few thousand each."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from pipeline.series import lines
from pipeline.series.columns import batched_raw
from pipeline.series.port import Refused, WriteBatch

_ROWS_RENDERED = 8_000
"""Rows joined before they are rendered: below it the cost of a call is felt, above it the copying."""


class Kept(Enum):
    """How long lines are kept: raw samples for days, minutes and masks for months."""

    RAW = "raw"
    MINUTES = "minutes"


def requests_of(batch: WriteBatch, refused: list[Refused]) -> Iterator[tuple[Kept, bytes]]:
    """Requests, rendered one at a time; rows that no line can say go to `refused`."""
    for samples in batched_raw(batch.raw, _ROWS_RENDERED):
        raw, bad = lines.writable_raw(samples)
        refused += bad
        if len(raw):
            yield from _requests(Kept.RAW, lines.raw_blocks(raw))
    if batch.minutes is not None:
        parts, bad = lines.writable_parts(batch.minutes)
        refused += bad
        if len(parts):
            yield from _requests(Kept.MINUTES, lines.part_blocks(parts))
    if batch.masks is not None:
        masks, bad = lines.writable_masks(batch.masks)
        refused += bad
        if len(masks):
            yield from _requests(Kept.MINUTES, lines.mask_blocks(masks))


def _requests(kept: Kept, blocks: Iterator[lines.Block]) -> Iterator[tuple[Kept, bytes]]:
    return ((kept, bytes(block.lines)) for block in blocks)
