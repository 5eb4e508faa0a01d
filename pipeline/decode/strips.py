"""Large fetches in portions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collectors.contract.bus import Chunk

STRIP_RECORDS = 1_024
"""Records worked on at a time: at 8 GPUs a record their columns are about 2 MB."""


def strips(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """The chunks in portions whose columns stay in the processor's cache."""
    strip: list[Chunk] = []
    room = STRIP_RECORDS
    for chunk in chunks:
        at = 0
        while at < len(chunk.values):
            end = min(len(chunk.values), at + room)
            rows = slice(at, end)
            strip.append(
                Chunk(
                    chunk.partition,
                    chunk.offsets[rows],
                    chunk.bus_us[rows],
                    chunk.keys[rows],
                    chunk.values[rows],
                )
            )
            room -= end - at
            at = end
            if room == 0:
                yield strip
                strip, room = [], STRIP_RECORDS
    if strip:
        yield strip
