"""Whatever happens to the bus and to the process: nothing taken is lost, order holds, sums balance."""

from __future__ import annotations

import asyncio
import tempfile
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outbox_tools import Line, SwitchedProducer, falls, message

from collectors.contract.bus import Message
from collectors.contract.topics import ALLOC, EVENTS, FACTS, GPU

TOPICS = (GPU, EVENTS, ALLOC, FACTS)
PUTS = st.lists(st.tuples(st.sampled_from(TOPICS), st.sampled_from([b"a", b"b"])), max_size=6)


class Round(NamedTuple):
    """What happens to the bus, what is put, how much time goes by, and how the process ends."""

    bus: str
    missing: str | None
    first: list[tuple[str, bytes]]
    wait_s: float
    then: list[tuple[str, bytes]]
    end: str


ROUNDS = st.lists(
    st.builds(
        Round,
        bus=st.sampled_from(["up", "up", "down", "hang"]),
        missing=st.sampled_from([None, None, *TOPICS]),
        first=PUTS,
        wait_s=st.sampled_from([0.0, 0.5, 2.0, 5.0, 40.0]),
        then=PUTS,
        end=st.sampled_from(["", "", "kill", "stop"]),
    ),
    min_size=1,
    max_size=5,
)


class World:
    """A bus, a disk, and one agent after another on it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, count()
        self.producer = SwitchedProducer()
        self.put: list[Message] = []
        self.line = self._new(folder / "spool")

    def _new(self, path: Path) -> Line:
        return Line(path, producer=self.producer, spool_rate=2.0)

    async def start(self) -> None:
        await self.line.__aenter__()

    async def settle(self) -> None:
        """Until nothing is in memory alone."""
        line = self.line
        # Between what is counted and what the disk's thread has done, sums differ for a moment.
        await line.until(lambda: line.outbox.is_safe and line.balanced(), step_s=0.01)

    def _take(self, puts: list[tuple[str, bytes]]) -> None:
        for topic, key in puts:
            one = message(f"{len(self.put)}", topic, key)
            self.put.append(one)
            self.line.outbox.put(one)
            assert self.line.balanced()

    async def do(self, one: Round) -> None:
        producer = self.producer
        producer.away = one.bus == "down"
        (producer.goes_on.clear if one.bus == "hang" else producer.goes_on.set)()
        producer.missing = set() if one.missing is None else {one.missing}
        self._take(one.first)
        until_us = self.line.clock.monotonic + one.wait_s * 1e6
        await self.line.until(lambda: self.line.clock.monotonic >= until_us, step_s=0.5)
        self._take(one.then)
        if one.end:
            await self._end(kill=one.end == "kill")
        await self.line.until(self.line.balanced)

    async def _end(self, *, kill: bool) -> None:
        """kill -9 once nothing is in memory alone, or a stop at any moment; then a new process."""
        clock, path = self.line.clock, self._folder / f"spool{next(self._files)}"
        if kill:
            await self.settle()
            await self.line.kill(path)
        else:
            self.producer.goes_on.set()
            await self.line.__aexit__()
            assert self.line.balanced()
            path = self.line.path
        if kill:
            await self.line.__aexit__()
        self.line = self._new(path)
        self.line.clock.wall, self.line.clock.monotonic = clock.wall, 0  # as after a reboot
        await self.line.__aenter__()

    async def finish(self) -> None:
        """The bus is there again, for good."""
        self.producer.away = False
        self.producer.missing.clear()
        self.producer.goes_on.set()
        await self.line.until(
            lambda: self.line.outbox.queued == 0 and self.line.spool.left == 0, step_s=0.5
        )
        await self.line.__aexit__()


def check(put: list[Message], taken: list[Message]) -> None:
    assert {one.value for one in taken} == {one.value for one in put}
    for topic in TOPICS:
        seen = list(dict.fromkeys(int(one.value) for one in taken if one.topic == topic))
        assert falls(seen) <= 2, "fresh ones and the spool, each in its order"
    for topic in (ALLOC, FACTS):
        for key in {one.key for one in put}:
            said = [one.value for one in put if (one.topic, one.key) == (topic, key)]
            heard = [one.value for one in taken if (one.topic, one.key) == (topic, key)]
            assert list(dict.fromkeys(heard)) == said
            assert heard[-1:] == said[-1:]


async def run(rounds: list[Round]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        await world.start()
        for one in rounds:
            await world.do(one)
        await world.finish()
    check(world.put, world.producer.taken)


@settings(max_examples=25)
@given(ROUNDS)
def test_nothing_is_lost_and_order_holds(rounds: list[Round]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # The test's clock stands still while an outbox stops: the pace of a spool never comes due.
        patch.setattr("collectors.agent.outbox._STOP_S", 0.2)
        asyncio.run(run(rounds))
