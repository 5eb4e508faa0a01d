"""Where a bus time begins in a Kafka partition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.bus.kafka_records import arrival_us, bus_us


async def first_at_or_after(
    target: TopicPartition, wanted_us: int, options: Mapping[str, Any]
) -> int:
    """The first offset taken at or after a bus time, or the end.

    The broker's time index answers, except where the oldest record carries an
    arrival header: such a partition was filled faster than life, its index
    knows only when, and it is bisected by reading single records.  A client of
    its own asks, since another's question would wait behind its long fetch.
    """
    at_once: dict[str, Any] = {**options, "fetch_min_bytes": 1, "auto_offset_reset": "earliest"}
    client: Any = AIOKafkaConsumer(**at_once)
    await client.start()
    try:
        first = (await client.beginning_offsets([target]))[target]
        end = (await client.end_offsets([target]))[target]
        # The index is in milliseconds: round up, or an earlier record would do.
        found = (await client.offsets_for_times({target: -(-wanted_us // 1000)})).get(target)
        client.assign([target])
        if first < end and arrival_us(await _peek(client, target, first)) is not None:
            return await _bisect(client, target, (first, end), wanted_us)
        return end if found is None or found.offset < 0 else found.offset
    finally:
        await client.stop()


async def _bisect(
    client: Any, target: TopicPartition, bounds: tuple[int, int], wanted_us: int
) -> int:
    low, high = bounds
    while low < high:
        middle = (low + high) // 2
        record = await _peek(client, target, middle)
        if bus_us(record) >= wanted_us:
            high = middle
        else:
            low = record.offset + 1
    return low


async def _peek(client: Any, target: TopicPartition, offset: int) -> Any:
    """The record at an offset, or the next that is kept."""
    client.seek(target, offset)
    return await client.getone(target)
