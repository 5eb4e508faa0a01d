"""A topic read from its beginning to the end that it has now."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from collectors.contract.bus import Bus, Chunk

_FETCH_S = 0.5
_MOST_EMPTY = 20
"""Fetches without a record after which a topic has no more: a busy broker is silent for seconds."""


async def whole(bus: Bus, topic: str) -> AsyncGenerator[Chunk]:
    """Its chunks.  A compacted topic may end before its end offset, which so many empty fetches say,
    as long as the broker answers.  Raises BusUnavailableError."""
    consumer = bus.consumer([topic], None)
    await consumer.start()
    try:
        ends = await consumer.end_offsets()
        reached = dict.fromkeys(ends, 0)
        empty = 0
        while any(reached[p] < end for p, end in ends.items()) and empty < _MOST_EMPTY:
            chunks = await consumer.fetch(_FETCH_S)
            empty = 0 if chunks else empty + 1
            for chunk in chunks:
                reached[chunk.partition] = chunk.next_offset
                yield chunk
        if empty:
            # A broker that is away is silent too, but does not answer this.
            await consumer.end_offsets()
    finally:
        await consumer.stop()
