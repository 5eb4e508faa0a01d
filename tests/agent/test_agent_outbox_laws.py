"""Whatever happens to the bus and to the process: nothing taken is lost, order holds, sums balance."""

from __future__ import annotations

import asyncio
import tempfile
from itertools import count
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from outbox_tools import Line, SwitchedProducer, falls, message

from collectors.contract.bus import Message
from collectors.contract.topics import ALLOC, EVENTS, FACTS, GPU

TOPICS = (GPU, EVENTS, ALLOC, FACTS)
STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(TOPICS), st.integers(0, 2), st.integers(1, 5)),
    st.tuples(st.sampled_from(["up", "down", "hang", "kill", "stop"])),
    st.tuples(st.just("wait"), st.floats(0.1, 40.0)),
    st.tuples(st.sampled_from(["missing", "there"]), st.sampled_from(TOPICS)),
)


class World:
    """A bus, a disk, and one agent after another on it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, count()
        self.producer = SwitchedProducer()
        self.put: list[Message] = []
        self.line = self._new(folder / "spool")

    def _new(self, path: Path) -> Line:
        return Line(path, producer=self.producer, spool_rate=40.0)

    async def start(self) -> None:
        await self.line.__aenter__()

    async def settle(self) -> None:
        """Until nothing is in memory alone."""
        await self.line.until(lambda: self.line.outbox.is_safe, step_s=0.01)
        assert self.line.balanced()

    async def do(self, step: tuple[object, ...]) -> None:
        name, *rest = step
        producer = self.producer
        if name == "put":
            topic, key, number = rest
            assert isinstance(topic, str)
            assert isinstance(number, int)
            for _ in range(number):
                one = message(f"{len(self.put)}", topic, f"key {key}".encode())
                self.put.append(one)
                self.line.outbox.put(one)
                assert self.line.balanced()
        elif name in {"up", "down"}:
            producer.away = name == "down"
            producer.goes_on.set()
        elif name == "hang":
            producer.goes_on.clear()
        elif name == "wait":
            await self.line.until(self._passing(rest[0]), step_s=1.0)
        elif name in {"missing", "there"}:
            assert isinstance(rest[0], str)
            (producer.missing.add if name == "missing" else producer.missing.discard)(rest[0])
        else:
            await self._end(kill=name == "kill")
        assert self.line.balanced()

    def _passing(self, seconds: object):  # noqa: ANN202 - a condition
        assert isinstance(seconds, float)
        until_us = self.line.clock.monotonic + seconds * 1e6
        return lambda: self.line.clock.monotonic >= until_us

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


async def run(steps: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        await world.start()
        for step in steps:
            await world.do(step)
        await world.finish()
    check(world.put, world.producer.taken)


@settings(max_examples=40)
@given(st.lists(STEPS, max_size=16))
def test_nothing_is_lost_and_order_holds(steps: list[tuple[object, ...]]) -> None:
    asyncio.run(run(steps))
