"""Kafka records as columns, and the bus time of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from collectors.contract.bus import ARRIVAL_HEADER, Chunk, Partition


def columns(partition: Partition, records: Sequence[Any]) -> Chunk:
    """The client's records of one partition as a chunk."""
    return Chunk(
        partition,
        [record.offset for record in records],
        [bus_us(record) if record.headers else record.timestamp * 1000 for record in records],
        [record.key or b"" for record in records],
        [record.value or b"" for record in records],
    )


def bus_us(record: Any) -> int:
    """When the bus took a record: the broker's time, or the arrival header where there is one."""
    arrival = arrival_us(record)
    return record.timestamp * 1000 if arrival is None else arrival


def arrival_us(record: Any) -> int | None:
    """A record's arrival header."""
    for name, value in record.headers:
        if name == ARRIVAL_HEADER and len(value) == 8:
            return int.from_bytes(value, "little")
    return None
