"""Two `watch` on one bus: one publishes, and when it dies or is stopped the other goes on; each
transition is sent once."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import signal
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path

import msgspec
import pytest
from test_alerts_kill import BEGUN, KILLS, LEADS, Child, Task, compare, played

from collectors.contract.bus import Bus
from collectors.kit.clock import SystemClock
from pipeline.settings import Settings
from pipeline.watch.alerts.state import read_state

SESSION_S = 4
"""Long enough for a busy machine's processes not to be taken for dead."""
STOPS = KILLS // 2


class Pair:
    """Two of them, of which one leads.  It is killed; every other time, where it is a process, it is
    stopped until another one leads, and lives on."""

    def __init__(self, make: Callable[[], Child | Task], bus: Bus, prefix: str) -> None:
        self._make, self._bus, self._prefix = make, bus, prefix
        self._members: list[Child | Task] = []
        self._leader: Child | Task | None = None
        self._lives: dict[int, int] = {}
        self._turns = itertools.count()
        self._joined = False

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
        while self._leader is None or not self._settled():
            self._look()
            await asyncio.sleep(0.05)

    def _settled(self) -> bool:
        """Whether the second one's joining, which may give it the lead at once, is over: before it
        is known where the first one began nobody could go on."""
        said = {one: one.said for one in self._members if isinstance(one, Child)}
        terms = sorted(
            ((line, one) for one, lines in said.items() for line in lines if LEADS in line),
            key=itemgetter(0),
        )
        if self._joined or not said:
            return True
        if len(terms) < 2:
            return False
        line, leader = terms[-1]
        since = said[leader][said[leader].index(line) :]
        same = [
            one for one in said[leader] if one.endswith(line.rpartition(" ")[2]) and LEADS in one
        ]
        self._joined = len(same) > 1 or any(BEGUN in one for one in since)
        return self._joined

    async def kill(self) -> None:
        # Before it is known where the first one began there is nothing to go on from.
        while await read_state(self._bus, self._prefix) == (None, None):
            await SystemClock().sleep(0.1)
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


@pytest.mark.timeout(400)
async def test_standby_on_the_embedded_bus(tmp_path: Path) -> None:
    """Of one process, which alone may have that bus open."""
    settings = msgspec.convert({"data": tmp_path, "site": "demo", "gpu_partitions": 4}, Settings)
    found = await played(
        settings, tmp_path, lambda bus, site: Pair(lambda: Task(bus, site, ""), bus, "")
    )
    compare(found, repeats=0)


@pytest.mark.stack
@pytest.mark.timeout(400)
async def test_standby_on_kafka(kafka_url: str, tmp_path: Path) -> None:
    settings = msgspec.convert(
        {"bus": kafka_url, "data": tmp_path, "site": "demo", "gpu_partitions": 4,
         "topic_prefix": f"standby-{secrets.token_hex(4)}-"}, Settings,
    )  # fmt: skip
    number = itertools.count()
    found = await played(
        settings, tmp_path,
        lambda bus, _site: Pair(
            lambda: Child(settings, tmp_path / f"watch-{next(number)}.log", SESSION_S),
            bus, settings.topic_prefix,
        ),
    )  # fmt: skip
    # Who is stopped between having asked and having sent sends what it had in hand afterwards.
    compare(found, repeats=STOPS * len(found.wanted))
    assert max(found.sent.values()) <= 1 + STOPS
    steps = [after - before for before, after in itertools.pairwise(found.frames)]
    # Were there two at once, every other step would lead from one's numbers to the other's.
    assert len(steps) > 10
    assert sum(step != 1 for step in steps) <= 3 * KILLS
