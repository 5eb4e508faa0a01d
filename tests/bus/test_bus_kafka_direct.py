"""The batch of a single record: what the client's own reader makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from collectors.kit.kafka_direct import pressed

_LZ4 = 3
_NAMED: list[tuple[str, bytes | None]] = [("arrival", b"12345678")]


def _plain(value: bytes) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, 77, 5, 41, 2**31 - 1)
    builder.append(0, 1_700_000_000_123, b"node-1", value, _NAMED)
    return bytes(builder.build())


@pytest.mark.parametrize("size", [100, 2_400, 60_000])
def test_a_pressed_batch_is_smaller_and_says_the_same(size: int) -> None:
    value = b"tensor_activity " * (size // 16)
    batch = pressed(_plain(value))
    assert len(batch) < len(_plain(value))
    records: Any = MemoryRecords(batch)
    read: Any = records.next_batch()
    assert read.validate_crc()
    assert read.compression_type == _LZ4
    assert (read.producer_id, read.producer_epoch, read.base_sequence) == (77, 5, 41)
    [record] = list(read)
    assert (record.key, record.value, record.timestamp) == (b"node-1", value, 1_700_000_000_123)
    assert list(record.headers) == [("arrival", b"12345678")]
    assert not records.has_next()


def test_what_cannot_be_pressed_stays_as_it_is() -> None:
    batch = _plain(bytes(range(256)))
    assert pressed(batch) == batch
