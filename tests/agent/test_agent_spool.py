"""The spool's file: bounded, in order, and nothing that happens to it ends the agent."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from manual_clock import ManualClock
from outbox_tools import Line, message

from collectors.agent.spool import Spool
from collectors.contract.bus import BusUnavailableError, Message, Partition, TopicSpec
from collectors.contract.topics import ALLOC, EVENTS, FACTS, GPU
from collectors.kit.sqlite_log import SqliteBus


@contextlib.asynccontextmanager
async def opened(spool: Spool) -> AsyncGenerator[Spool]:
    """Open within it."""
    await spool.open()
    try:
        yield spool
    finally:
        await spool.close()


async def emptied(spool: Spool) -> list[Message]:
    """All that is in it, taken out."""
    out: list[Message] = []
    while found := await spool.next(7):
        out += found
        await spool.done()
    return out


def numbered(count: int, topic: str = GPU, size: int = 10) -> list[Message]:
    return [message(f"{number}".rjust(size), topic) for number in range(count)]


async def test_emptied_in_order_with_what_others_hang_on_first(tmp_path: Path) -> None:
    records, events = numbered(20), numbered(10, EVENTS)
    allocations, facts = numbered(10, ALLOC), numbered(3, FACTS)
    async with opened(Spool(tmp_path / "spool", ManualClock())) as spool:
        for at in range(10):
            await spool.append([*records[2 * at : 2 * at + 2], events[at], allocations[at]])
        await spool.append(facts)
        assert spool.left == 43
        assert await emptied(spool) == [*allocations, *facts, *events, *records]
        assert (spool.left, spool.bytes, spool.dropped) == (0, 0, 0)


async def test_a_file_of_an_earlier_version_is_emptied(tmp_path: Path) -> None:
    """It was a bus log of two topics with a retention of 72 h, read by a group."""
    clock = ManualClock()
    old = SqliteBus(tmp_path / "spool", clock=clock)
    await old.create_topics([TopicSpec(name, 1, 72 * 3600, 2**20) for name in (GPU, EVENTS)])
    producer, consumer = old.producer(), old.consumer([GPU, EVENTS], "agent")
    await producer.start()
    await consumer.start()
    await producer.send([*numbered(10), Message(EVENTS, b"n1", b"event", 77)])
    await consumer.fetch(0)
    await consumer.commit({Partition(GPU, 0): 4})
    await old.trim({Partition(GPU, 0): 4})
    await consumer.stop()
    await old.close()
    async with opened(Spool(tmp_path / "spool", clock)) as spool:
        await spool.append(numbered(1, ALLOC))
        assert spool.left == 8
        event = Message(EVENTS, b"n1", b"event", 77)
        assert await emptied(spool) == [*numbered(1, ALLOC), event, *numbered(10)[4:]]


async def test_the_oldest_go_and_are_counted_for_good(tmp_path: Path) -> None:
    """All topics together keep within the bound; the flood pays for itself."""
    most_bytes = 20_000
    async with opened(Spool(tmp_path / "spool", ManualClock(), most_bytes=most_bytes)) as spool:
        await spool.append(numbered(5, ALLOC))
        for record in numbered(100, size=976):
            await spool.append([record])
            assert spool.bytes <= most_bytes
        dropped = 100 - (spool.left - 5)
        assert dropped > 70
        assert spool.dropped == dropped
    async with opened(Spool(tmp_path / "spool", ManualClock(), most_bytes=most_bytes)) as spool:
        assert spool.dropped == dropped
        spool.add_dropped(3)
        await spool.append(numbered(1, EVENTS))
    async with opened(Spool(tmp_path / "spool", ManualClock(), most_bytes=5_000)) as spool:
        assert spool.dropped == dropped + 3
        left = spool.left
        await spool.append(numbered(1, EVENTS))
        assert spool.bytes <= 5_000
        assert spool.dropped == dropped + 3 + left + 1 - spool.left
        found = await emptied(spool)
    assert found[:5] == numbered(5, ALLOC)
    assert found[-4:] == numbered(100, size=976)[-4:]


async def test_what_the_pipeline_would_refuse_as_too_old_is_dropped_and_counted(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with opened(Spool(tmp_path / "spool", clock)) as spool:
        await spool.append([*numbered(5), *numbered(2, ALLOC)])
        clock.move(71 * 3600)
        await spool.append(numbered(3))
        clock.move(2 * 3600)
        assert await emptied(spool) == [*numbered(2, ALLOC), *numbered(3)]
        assert spool.dropped == 5


async def test_a_clock_that_runs_wild_while_the_network_is_away_costs_nothing(
    tmp_path: Path,
) -> None:
    """A dead battery, then a leap by years, then NTP: records are judged once they leave."""
    clock = ManualClock(wall_us=0)
    async with opened(Spool(tmp_path / "spool", clock)) as spool:
        clock.wall = 1_700_000_000_000_000
        await spool.append(numbered(2))
        clock.wall += 10 * 365 * 86_400 * 1_000_000
        await spool.append(numbered(4)[2:])
        clock.wall = 1_700_000_100_000_000
        await spool.append(numbered(6)[4:])
        assert await emptied(spool) == numbered(6)


async def test_nobody_else_on_the_node_can_read_it(tmp_path: Path) -> None:
    async with opened(Spool(tmp_path / "new" / "spool", ManualClock())) as spool:
        await spool.append(numbered(1))
        for name in ("spool", "spool-wal"):
            assert (tmp_path / "new" / name).stat().st_mode & 0o077 == 0


async def test_an_emptied_file_gives_the_disk_back(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    async with opened(Spool(path, ManualClock())) as spool:
        for _ in range(20):
            await spool.append(numbered(50, size=20_000))
        full = path.stat().st_size
        assert full > 10 * 2**20
        while await spool.next(500):
            await spool.done()
        assert path.stat().st_size < 2**20


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database at all\n" * 1000)


def _torn(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xa5" * (len(data) - 8192)
    path.write_bytes(data)


def _of_the_future(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def _another_program(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE topics SET partitions = 'many'")
        connection.execute("DELETE FROM logs")
        connection.commit()


def _aside(folder: Path) -> list[Path]:
    return list(folder.glob("spool.broken-*"))


@pytest.mark.parametrize("harm", [_garbage, _torn, _of_the_future, _another_program])
async def test_a_broken_file_is_set_aside(tmp_path: Path, harm: object) -> None:
    path = tmp_path / "spool"
    async with opened(Spool(path, ManualClock())) as spool:
        await spool.append(numbered(200, size=200))
    assert callable(harm)
    harm(path)
    async with Line(path) as line:
        line.producer.away = True
        line.outbox.put(message("goes on"))
        await line.until(lambda: line.outbox.is_safe and line.spool.left == 1, step_s=0.5)
        assert line.spool.set_aside == 1
        assert line.outbox.progress().reason == ""
    harm(path)
    async with opened(Spool(path, ManualClock(wall_us=1))) as spool:
        with contextlib.suppress(BusUnavailableError):
            await spool.append(numbered(1))
        assert spool.set_aside == 1
    assert {one.name.partition("-")[2] for one in _aside(tmp_path)} <= {"0", "0-wal", "0-shm"}


async def test_a_file_that_breaks_later_is_set_aside_and_its_records_count_as_dropped(
    tmp_path: Path,
) -> None:
    path = tmp_path / "spool"
    async with opened(Spool(path, ManualClock())) as spool:
        for _ in range(40):
            await spool.append(numbered(50, size=2_000))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 8192 * 8192
    data[middle : middle + 100 * 8192] = b"\x5a" * (100 * 8192)
    path.write_bytes(data)
    async with Line(path, spool_rate=1e5) as line:
        line.producer.longest = 10_000
        assert line.spool.left == 2_000
        await line.until(lambda: line.spool.set_aside == 1, step_s=0.01)
        line.producer.away = True
        line.outbox.put(message("goes on"))
        await line.until(lambda: line.spool.left == 1, step_s=0.5)
        sent = line.outbox.counts.unspooled
        assert sent > 100
        assert line.spool.dropped == 2_000 - sent
    assert line.producer.texts[:50] == [one.value.decode() for one in numbered(50, size=2_000)]


@contextlib.contextmanager
def files_no_longer_than(size: int) -> Generator[None]:
    """As on a disk that is full, for this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_is_waited_for_in_bounded_memory(tmp_path: Path) -> None:
    async with Line(tmp_path / "spool", most=100) as line:
        line.producer.away = True
        line.outbox.put(message("on disk"))
        await line.until(lambda: line.spool.left == 1)
        with files_no_longer_than(10_000):
            for number in range(150):
                line.outbox.put(message(f"{number}"))
            await line.until(lambda: bool(line.spool.reason))
            await line.until(lambda: line.outbox.queued == 100, step_s=0.5)
            assert "spool" in line.outbox.progress().reason
            assert not line.task.done()
            assert line.outbox.counts.dropped == 50
        await line.until(lambda: line.outbox.is_safe, step_s=0.5)
        assert line.spool.left == 101
        assert line.spool.dropped == 50
        assert line.balanced()
    async with opened(Spool(tmp_path / "spool", ManualClock())) as spool:
        assert spool.dropped == 50


async def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.write_text("not a folder")
    async with Line(folder / "spool") as line:
        line.outbox.put(message("goes out"))
        await line.until(lambda: line.producer.texts == ["goes out"])
        line.producer.away = True
        line.outbox.put(message("waits"))
        await line.until(lambda: line.outbox.progress().is_away)
        assert line.outbox.progress().reason
        folder.unlink()
        folder.mkdir()
        await line.until(lambda: line.spool.left == 1, step_s=0.5)
        assert line.outbox.progress().reason == ""


async def test_the_lock_ends_with_the_process_that_has_it(tmp_path: Path) -> None:
    first, second = (Spool(tmp_path / "spool", ManualClock()) for _ in range(2))
    await first.open()
    with pytest.raises(BusUnavailableError, match="is in use by process"):
        await second.open()
    await first.close()
    await second.open()
    await second.close()
    await asyncio.sleep(0)
