"""Two `watch` on one bus: one publishes, and when it dies or is stopped the other goes on; each
transition is sent once."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from test_alerts_kill import KILLS, Child, Task, compare, played

from collectors.kit.clock import SystemClock
from pipeline.settings import Settings


class Pair:
    """Two of them, of which one leads.  It is killed; every other time, where it is a process, it is
    stopped until another one leads, and lives on."""

    def __init__(self, make: Callable[[], Child | Task]) -> None:
        self._make = make
        self._members: list[Child | Task] = []
        self._leader: Child | Task | None = None
        self._lives: dict[int, int] = {}
        self._turns = itertools.count()

    def _look(self) -> bool:
        """Whether one has begun to lead since the last look."""
        begun = False
        for one in self._members:
            one.check()
            if one.lives != self._lives.get(id(one), 0):
                self._lives[id(one)], self._leader, begun = one.lives, one, True
        return begun

    async def begin(self) -> None:
        while len(self._members) < 2:
            self._members.append(self._make())
            await self._members[-1].start()
        while self._leader is None:
            self._look()
            await asyncio.sleep(0.05)

    async def kill(self) -> None:
        self._look()
        leader = self._leader
        assert leader is not None
        self._leader = None
        if isinstance(leader, Child) and next(self._turns) % 2:
            await self._stop(leader)
        else:
            self._members.remove(leader)
            await leader.kill()

    async def _stop(self, leader: Child) -> None:
        assert leader.process is not None
        leader.process.send_signal(signal.SIGSTOP)
        while not self._look():
            await SystemClock().sleep(0.05)
        leader.process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        for one in self._members:
            await one.end()


@pytest.mark.timeout(200)
async def test_standby_on_the_embedded_bus(tmp_path: Path) -> None:
    """Of one process, which alone may have that bus open."""
    settings = msgspec.convert({"data": tmp_path, "site": "demo", "gpu_partitions": 4}, Settings)
    found = await played(
        settings, tmp_path, lambda bus, site: Pair(lambda: Task(bus, site, settings.topic_prefix))
    )
    compare(found, repeats=0)


@pytest.mark.stack
@pytest.mark.timeout(280)
async def test_standby_on_kafka(kafka_url: str, tmp_path: Path) -> None:
    settings = msgspec.convert(
        {"bus": kafka_url, "data": tmp_path, "site": "demo", "gpu_partitions": 4,
         "topic_prefix": f"standby-{secrets.token_hex(4)}-"}, Settings,
    )  # fmt: skip
    number = itertools.count()
    found = await played(
        settings, tmp_path,
        lambda _bus, _site: Pair(lambda: Child(settings, tmp_path / f"watch-{next(number)}.log")),
    )  # fmt: skip
    compare(found, repeats=0)
    steps = [after - before for before, after in itertools.pairwise(found.frames)]
    # Were there two at once, every other step would lead from one's numbers to the other's.
    assert len(steps) > 10
    assert sum(step != 1 for step in steps) <= 3 * KILLS
