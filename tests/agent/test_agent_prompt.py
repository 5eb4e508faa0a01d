"""Records that go past the queue: at once where all is well, and never out of order or twice."""

from __future__ import annotations

from pathlib import Path

from outbox_tools import Line, SwitchedProducer, message

from collectors.contract.bus import Message


class PromptBus(SwitchedProducer):
    """A bus that takes a record at once, unless it is `slow`."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = False

    def send_at_once(self, message: Message) -> bool:
        """As switched."""
        if not (self.slow or self.away):
            self.taken.append(message)
        return not (self.slow or self.away)


async def test_where_all_is_well_nothing_waits(tmp_path: Path) -> None:
    bus = PromptBus()
    async with Line(tmp_path / "spool", producer=bus) as line:
        for number in range(5):
            line.outbox.put(message(f"{number}"))
        # No turn of the loop has passed.
        assert bus.texts == ["0", "1", "2", "3", "4"]
        assert (line.outbox.queued, line.outbox.counts.sent) == (0, 5)
        assert bus.attempts == 0
        assert line.balanced()


async def test_what_was_not_taken_at_once_keeps_its_place(tmp_path: Path) -> None:
    bus = PromptBus()
    async with Line(tmp_path / "spool", producer=bus) as line:
        bus.slow = True
        line.outbox.put(message("0"))
        bus.slow = False
        line.outbox.put(message("1"))
        assert bus.texts == []
        await line.until(lambda: len(bus.taken) == 2)
    assert bus.texts == ["0", "1"]
    assert line.balanced()


async def test_nothing_overtakes_while_the_bus_is_away_or_the_disk_holds_some(
    tmp_path: Path,
) -> None:
    bus = PromptBus()
    async with Line(tmp_path / "spool", producer=bus, spool_rate=1.0) as line:
        bus.away = True
        line.outbox.put(message("0"))
        await line.until(lambda: line.outbox.counts.spooled == 1)
        bus.away = False
        line.outbox.put(message("1"))
        assert bus.texts == []
        await line.until(lambda: len(bus.taken) == 2, step_s=0.1)
        line.outbox.put(message("2"))
        await line.until(lambda: len(bus.taken) == 3)
    assert sorted(bus.texts) == ["0", "1", "2"]
    assert line.balanced()
