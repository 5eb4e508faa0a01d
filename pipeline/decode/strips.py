"""Large fetches in portions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collectors.contract.bus import Chunk

STRIP_RECORDS = 1_024
"""Records worked on at a time: at 8 GPUs a record their columns are about 2 MB."""


def strips(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """The chunks in portions whose columns stay in the processor's cache.

    A chunk is divided only when it is much longer than a strip: second after
    second a partition then brings the same nodes together.
    """
    strip: list[Chunk] = []
    held = 0
    for chunk in chunks:
        for part in _parts(chunk):
            strip.append(part)
            held += len(part.values)
            if held >= STRIP_RECORDS:
                yield strip
                strip, held = [], 0
    if strip:
        yield strip


def _parts(chunk: Chunk) -> Iterator[Chunk]:
    size = len(chunk.values)
    if size <= 2 * STRIP_RECORDS:
        yield chunk
        return
    for start in range(0, size, STRIP_RECORDS):
        rows = slice(start, start + STRIP_RECORDS)
        yield Chunk(
            chunk.partition,
            chunk.offsets[rows],
            chunk.bus_us[rows],
            chunk.keys[rows],
            chunk.values[rows],
        )
