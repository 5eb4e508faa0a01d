"""The outbox: fresh first, then the spool in order, and every message accounted for."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from outbox_tools import Line, SwitchedProducer, message

from collectors.agent.spool_file import SpoolFile
from collectors.contract.bus import BusUnavailableError, Message
from collectors.contract.topics import ALLOC, EVENTS, FACTS, GPU


async def test_passes_on_in_order_and_leaves_the_disk_alone(tmp_path: Path) -> None:
    async with Line(tmp_path / "spool") as line:
        before = (tmp_path / "spool-wal").stat().st_mtime_ns
        for number in range(50):
            line.outbox.put(message(f"{number}"))
        await line.until(lambda: len(line.producer.taken) == 50)
        assert line.outbox.counts.spooled == 0
        assert (tmp_path / "spool-wal").stat().st_mtime_ns == before
    assert line.producer.texts == [f"{number}" for number in range(50)]
    assert line.balanced()


async def test_bus_away_and_back(tmp_path: Path) -> None:
    """Fresh ones go first; what was spooled comes after them, in its order, from all topics."""
    async with Line(tmp_path / "spool") as line:
        line.producer.away = True
        for number in range(20):
            line.outbox.put(message(f"old {number}"))
        await line.until(lambda: line.outbox.counts.spooled == 20)
        attempts = line.producer.attempts
        line.outbox.put(message("event", EVENTS))
        await line.until(lambda: line.outbox.counts.spooled == 21)
        assert line.producer.attempts == attempts  # the bus is left alone for a while
        assert line.outbox.progress().is_away
        line.producer.away = False
        line.clock.move(60)
        line.outbox.put(message("fresh"))
        await line.until(lambda: len(line.producer.taken) == 22, step_s=0.01)
        assert line.producer.texts == ["fresh", "event"] + [f"old {n}" for n in range(20)]
        await line.until(lambda: line.spool.left == 0)
        assert not line.outbox.progress().is_away
        assert line.balanced()


async def test_what_the_bus_does_not_answer_is_on_disk_while_it_is_waited_for(
    tmp_path: Path,
) -> None:
    """kill -9 in the middle of a send that hangs loses nothing, nor does one that ends well later."""
    producer = SwitchedProducer()
    async with Line(tmp_path / "spool", producer=producer) as line:
        producer.goes_on.clear()
        line.outbox.put(message("in flight"))
        await line.until(lambda: producer.attempts == 1)
        line.outbox.put(message("behind it", EVENTS))
        await line.until(lambda: line.outbox.is_safe)
        assert line.spool.left == 2
        assert line.balanced()
        await line.kill(tmp_path / "image")
    producer.goes_on.set()
    async with Line(tmp_path / "image", producer=producer) as line:
        await line.until(lambda: len(producer.taken) == 2, step_s=0.01)
        assert sorted(producer.texts) == ["behind it", "in flight"]
        await line.until(lambda: line.spool.left == 0)


async def test_what_is_acknowledged_late_is_sent_once(tmp_path: Path) -> None:
    async with Line(tmp_path / "spool") as line:
        line.producer.goes_on.clear()
        line.outbox.put(message("slow"))
        await line.until(lambda: line.spool.left == 1)
        line.producer.goes_on.set()
        await line.until(lambda: line.spool.left == 0)
        assert line.outbox.counts.spooled == 0
        assert line.balanced()
    assert line.producer.texts == ["slow"]


async def test_what_an_earlier_process_spooled_is_sent(tmp_path: Path) -> None:
    async with Line(tmp_path / "spool") as line:
        line.producer.away = True
        line.outbox.put(message("from before"))
        await line.until(lambda: line.outbox.counts.spooled == 1)
    async with Line(tmp_path / "spool") as line:
        await line.until(lambda: line.producer.texts == ["from before"])


async def test_arrival_times_survive_the_disk(tmp_path: Path) -> None:
    async with Line(tmp_path / "spool") as line:
        line.producer.away = True
        line.outbox.put(Message(GPU, b"n", b"simulated", 123))
        line.outbox.put(Message(GPU, b"n", b"live"))
        await line.until(lambda: line.outbox.counts.spooled == 2)
        line.producer.away = False
        line.clock.move(60)
        await line.until(lambda: len(line.producer.taken) == 2, step_s=0.1)
    assert [one.arrival_us for one in line.producer.taken] == [123, None]


@pytest.mark.parametrize("topic", [ALLOC, FACTS])
async def test_a_fresh_allocation_never_overtakes_one_that_waits(
    tmp_path: Path, topic: str
) -> None:
    """In a compacted topic the last record counts: the end must not be followed by the beginning."""
    async with Line(tmp_path / "spool", spool_rate=4.0) as line:
        line.producer.away = True
        for number in range(30):
            line.outbox.put(message(f"{number}"))
        line.outbox.put(message("begins", topic, b"job"))
        await line.until(lambda: line.outbox.counts.spooled == 31)
        line.producer.away = False
        line.clock.move(60)
        line.outbox.put(message("ends", topic, b"job"))
        line.outbox.put(message("fresh"))
        await line.until(lambda: "ends" in line.producer.texts, step_s=0.05)
        assert line.producer.texts[:3] == ["fresh", "begins", "ends"]


async def test_the_spool_leaves_at_the_set_rate_and_says_how_far_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Line(tmp_path / "spool", spool_rate=10.0) as line:
        line.producer.away = True
        for number in range(240):
            line.outbox.put(message(f"{number}"))
        await line.until(lambda: line.outbox.counts.spooled == 240)
        line.producer.away = False
        line.clock.move(60)
        began_us = line.clock.monotonic
        counts = line.outbox.counts
        # What has been sent is counted first, and leaves the disk a moment later.
        await line.until(
            lambda: counts.unspooled >= 120 and line.spool.left == 240 - counts.unspooled,
            step_s=0.02,
        )
        took_s = (line.clock.monotonic - began_us) / 1e6
        assert took_s >= 11
        progress = line.outbox.progress()
        assert progress.left == 240 - line.outbox.counts.unspooled
        assert 0 < progress.rate <= 10.0
        assert progress.eta_s == progress.left / progress.rate
        fresh = f"fresh at {progress.left}"
        line.outbox.put(message(fresh))
        await line.until(lambda: fresh in line.producer.texts)
        assert line.spool.left > 50
    assert any(
        line.startswith("spool_drain left=") and "eta_s=" in line for line in caplog.messages
    )


async def test_stop_with_the_bus_away_keeps_everything(tmp_path: Path) -> None:
    async with Line(tmp_path / "spool") as line:
        line.producer.away = True
        for number in range(5):
            line.outbox.put(message(f"{number}"))
    assert line.outbox.counts.spooled == 5
    assert line.outbox.counts.dropped == 0
    assert line.balanced()


@pytest.mark.parametrize("blocked", [False, True])
async def test_a_stop_empties_the_disk_where_it_can_and_says_what_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, blocked: bool
) -> None:
    producer = SwitchedProducer()
    async with Line(tmp_path / "spool", producer=producer) as line:
        producer.away = True
        for number in range(120):
            line.outbox.put(message(f"{number}"))
        await line.until(lambda: line.outbox.counts.spooled == 120)
    assert "spool_left records=120" in caplog.text
    caplog.clear()
    producer.away = False
    if blocked:
        producer.missing = {GPU}
    async with Line(tmp_path / "spool", producer=producer) as line:
        assert line.spool.left == 120
    assert producer.texts == ([] if blocked else [f"{number}" for number in range(120)])
    assert ("spool_left records=120" in caplog.text) == blocked
    assert line.spool.left == (120 if blocked else 0)


async def test_stop_while_a_send_hangs_keeps_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collectors.agent.outbox._STOP_S", 0.1)
    async with Line(tmp_path / "spool") as line:
        line.producer.goes_on.clear()
        line.outbox.put(message("in flight"))
        await line.until(lambda: line.producer.attempts == 1)
        line.outbox.put(message("waiting"))
        line.stop.set()
        await asyncio.wait_for(line.task, 30)
        assert line.balanced()
    async with Line(tmp_path / "spool") as line:
        await line.until(lambda: line.producer.texts == ["in flight", "waiting"])


async def test_a_cancelled_outbox_keeps_everything(tmp_path: Path) -> None:
    """The stop's deadline was over."""
    line = Line(tmp_path / "spool")
    async with line:
        line.producer.goes_on.clear()
        line.outbox.put(message("in flight"))
        await line.until(lambda: line.producer.attempts == 1)
        line.outbox.put(message("waiting"))
        line.task.cancel()
        await asyncio.wait({line.task})
        line.killed = True
    async with Line(tmp_path / "spool") as line:
        await line.until(lambda: line.producer.texts == ["in flight", "waiting"])


async def test_a_stop_in_the_middle_of_a_write_keeps_everything_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop's deadline ends the wait for a slow disk, but not the write itself."""
    keep, begun, goes_on = SpoolFile.keep, threading.Event(), threading.Event()

    def slow(file: SpoolFile, messages: Sequence[Message]) -> Sequence[int]:
        begun.set()
        assert goes_on.wait(20)
        return keep(file, messages)

    async with Line(tmp_path / "spool") as line:
        line.producer.away = True
        monkeypatch.setattr(SpoolFile, "keep", slow)
        for number in range(3):
            line.outbox.put(message(f"{number}"))
        await line.until(begun.is_set)
        line.task.cancel()
        await asyncio.sleep(0)
        goes_on.set()
        await asyncio.wait({line.task})
        line.killed = True
        assert line.spool.left == line.outbox.counts.spooled == 3
        assert line.balanced()
    async with Line(tmp_path / "spool") as line:
        await line.until(lambda: len(line.producer.taken) == 3)
        assert line.producer.texts == ["0", "1", "2"]


async def test_refused_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with Line(tmp_path / "spool") as line:
        for text in ("a", "b" * 200, "c"):
            line.outbox.put(message(text))
        await line.until(lambda: line.producer.texts == ["a", "c"])
        assert line.outbox.counts.refused == 1
        assert line.balanced()
        line.producer.away = True
        for text in ("d", "e" * 200, "f"):
            line.outbox.put(message(text))
        await line.until(lambda: line.outbox.counts.spooled == 3)
        line.producer.away = False
        line.clock.move(60)
        await line.until(lambda: line.spool.left == 0, step_s=0.1)
        assert line.producer.texts == ["a", "c", "d", "f"]
        assert line.outbox.counts.refused == 2
        assert line.balanced()


async def test_a_missing_topic_holds_up_no_other(tmp_path: Path) -> None:
    """A new agent beside an old pipeline: its facts wait on disk, its records flow."""
    async with Line(tmp_path / "spool") as line:
        line.producer.missing = {FACTS}
        for number in range(3):
            line.outbox.put(message(f"facts {number}", FACTS))
            line.outbox.put(message(f"{number}"))
        await line.until(lambda: line.producer.texts == ["0", "1", "2"])
        await line.until(lambda: line.outbox.is_safe)
        assert line.spool.left == 3
        assert not line.outbox.progress().is_away
        assert line.balanced()
        line.producer.missing = set()
        await line.until(lambda: len(line.producer.taken) == 6, step_s=1.0)
        assert line.producer.texts[3:] == ["facts 0", "facts 1", "facts 2"]


async def test_without_a_spool_the_queue_is_bounded() -> None:
    async with Line(None, most=10) as line:
        line.producer.away = True
        line.outbox.put(message("first"))
        await line.until(lambda: line.producer.attempts == 1)
        for number in range(30):
            line.outbox.put(message(f"{number}"))
        await asyncio.sleep(0)
        assert line.outbox.queued <= 10
        assert line.outbox.counts.dropped == 21
        assert line.balanced()
        line.producer.away = False
        line.clock.move(60)
    assert line.producer.texts == [f"{number}" for number in range(20, 30)]


async def test_a_client_that_fails_in_its_own_way_ends_nothing(tmp_path: Path) -> None:
    class Strange(SwitchedProducer):
        async def send(self, messages: Sequence[Message]) -> None:
            self.attempts += len(messages)
            raise AssertionError("inside the client")

    producer = Strange()
    async with Line(tmp_path / "spool", producer=producer) as line:
        line.outbox.put(message("one"))
        await line.until(lambda: line.spool.left == 1)
        assert not line.task.done()
        assert line.balanced()


async def test_a_second_agent_on_the_same_file_is_told_what_to_do(tmp_path: Path) -> None:
    async with Line(tmp_path / "spool"):
        second = Line(tmp_path / "spool")
        with pytest.raises(BusUnavailableError, match="end that first, or choose another path"):
            await second.spool.open()
        await second.spool.close()
