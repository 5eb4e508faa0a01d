"""What is the SQLite log's own: its file, retention by the clock, compaction, trimming, cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bus_reading import read, read_all, send, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors.contract.bus import Message, Partition, TopicSpec
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from collectors.kit.sqlite_retention import COMPACTION_LAG_S, RECORD_OVERHEAD_BYTES

ONLY = Partition("t", 0)


class SetClock(SystemClock):
    """A clock whose wall time a test sets."""

    def __init__(self) -> None:
        self.now_us = 1_800_000_000_000_000

    def wall_us(self) -> int:
        return self.now_us


@asynccontextmanager
async def log(
    path: Path,
    clock: SystemClock | None = None,
    *,
    retention_s: int = 3600,
    retention_bytes: int = 2**28,
    compacted: bool = False,
) -> AsyncGenerator[SqliteBus]:
    """A log with the topic `t`."""
    bus = SqliteBus(path / "log.sqlite", clock=clock or SystemClock())
    await bus.create_topics([TopicSpec("t", 1, retention_s, retention_bytes, compacted)])
    try:
        yield bus
    finally:
        await bus.close()


def messages(count: int, size: int = 10, start: int = 0) -> list[Message]:
    """Records of `size` bytes that begin with their number."""
    return [
        Message("t", b"k", b"%d" % i + bytes(size - len(b"%d" % i)))
        for i in range(start, start + count)
    ]


async def test_time_retention_goes_by_the_bus_clock(tmp_path: Path) -> None:
    clock = SetClock()
    async with log(tmp_path, clock, retention_s=100) as bus:
        consumer = bus.consumer(["t"], None)
        await consumer.start()
        # An arrival time of long ago does not age a record.
        await send(bus, [Message("t", b"k", b"old", arrival_us=1) for _ in range(5)])
        clock.now_us += 101_000_000
        await send(bus, [Message("t", b"k", b"new", arrival_us=1)])
        assert values(await read(consumer, 1)) == [b"new"]
        assert consumer.lost == 5
        assert (await bus.backlog("t")).dropped == 5


async def test_byte_retention_keeps_the_newest(tmp_path: Path) -> None:
    async with log(tmp_path, retention_bytes=50_000) as bus:
        await send(bus, messages(500, size=1000))
        backlog = await bus.backlog("t")
        assert backlog.records == 50_000 // (1000 + 1 + RECORD_OVERHEAD_BYTES)
        assert backlog.bytes == backlog.records * (1000 + 1 + RECORD_OVERHEAD_BYTES)
        assert backlog.dropped == 500 - backlog.records
        (chunk,) = await read_all(bus, "t", backlog.records)
        assert list(chunk.offsets) == list(range(backlog.dropped, 500))
        await send(bus, messages(1, size=60_000))
        assert (await bus.backlog("t")).records == 1


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.one_of(
            st.lists(st.integers(0, 3000), min_size=1, max_size=40),  # sizes to send
            st.floats(0, 1),  # trim this share
            st.just("reopen"),
        ),
        max_size=12,
    )
)
def test_what_is_kept_is_the_end_of_what_was_sent(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[int] | float | str]
) -> None:
    asyncio.run(_keep_and_compare(tmp_path_factory.mktemp("log"), steps))


async def _keep_and_compare(path: Path, steps: list[list[int] | float | str]) -> None:
    sent: list[bytes] = []
    trimmed = 0
    for part in _between_reopens(steps):
        async with log(path, retention_bytes=20_000) as bus:
            for step in part:
                backlog = await bus.backlog("t")
                if isinstance(step, float):
                    count = int(step * backlog.records)
                    trimmed += count
                    await bus.trim({ONLY: len(sent) - backlog.records + count})
                elif isinstance(step, list):
                    sent += [b"%d." % (len(sent) + i) + bytes(size) for i, size in enumerate(step)]
                    await send(bus, [Message("t", b"k", value) for value in sent[-len(step) :]])
            backlog = await bus.backlog("t")
            kept = sent[len(sent) - backlog.records :]
            assert (
                backlog.bytes
                == sum(len(value) + 1 + RECORD_OVERHEAD_BYTES for value in kept)
                <= 20_000
            )
            assert backlog.dropped + trimmed + backlog.records == len(sent)
            got = await read_all(bus, "t", len(kept))
            assert values(got) == kept
            assert [offset for chunk in got for offset in chunk.offsets] == list(
                range(len(sent) - len(kept), len(sent))
            )


def _between_reopens(steps: list[list[int] | float | str]) -> list[list[list[int] | float | str]]:
    parts: list[list[list[int] | float | str]] = [[]]
    for step in steps:
        if step == "reopen":
            parts.append([])
        else:
            parts[-1].append(step)
    return parts


async def test_compaction_keeps_each_keys_last(tmp_path: Path) -> None:
    clock = SetClock()
    async with log(tmp_path, clock, compacted=True, retention_s=10**8) as bus:
        consumer = bus.consumer(["t"], None)
        await consumer.start()
        await send(bus, [Message("t", b"%d" % (i % 10), b"%d" % i) for i in range(2000)])
        assert (await bus.backlog("t")).records == 2000
        clock.now_us += (COMPACTION_LAG_S + 1) * 1_000_000
        await send(bus, [Message("t", b"%d" % (i % 10), b"%d" % i) for i in range(2000, 4000)])
        # Younger than the lag, so nothing of these goes yet.
        (chunk,) = await read(consumer, 2000)
        assert list(chunk.values) == [b"%d" % i for i in range(2000, 4000)]
        clock.now_us += (COMPACTION_LAG_S + 1) * 1_000_000
        await send(bus, [Message("t", b"x", b"%d" % i) for i in range(4000, 6000)])
        await consumer.seek(ONLY, 0)
        (chunk,) = await read(consumer, 2010)
        assert list(chunk.values) == [b"%d" % i for i in range(3990, 6000)]
        assert list(chunk.offsets) == list(range(3990, 6000))
        assert consumer.lost == 0
        backlog = await bus.backlog("t")
        assert backlog.records == 2010
        assert backlog.dropped == 0
