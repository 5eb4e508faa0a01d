"""The broker away for half an hour of event time, the agent killed twice in it: nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from agent_child import INTERVAL_S, LONGEST_GAP_US, NODE, POWER_W, SLOTS, SPEED
from broker_fixtures import Broker
from kill_tools import differences, end, oracle_of, settings_of
from outbox_tools import falls

from collectors.agent.nodes import installed_node, site_of
from collectors.contract.bus import BusUnavailableError
from collectors.contract.inventory import Inventory
from collectors.contract.record import SlotLabels
from collectors.contract.topics import GPU
from collectors.kit.clock import SystemClock
from collectors.simulator.plain import PlainRecord, read_record
from pipeline.bus.kafka import KafkaBus
from pipeline.commands.wiring import topics
from pipeline.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]
AWAY_S = 30 * 60 / SPEED
AWAY_RECORDS = int(20 * 60 / INTERVAL_S) + 1
"""Taken without a broker, at least: a busy machine needs longer for them than AWAY_S."""
_CHILD = Path(__file__).with_name("agent_child.py")


class Agents:
    """One agent process after the other on one spool."""

    def __init__(self, broker: Broker, prefix: str, folder: Path) -> None:
        self.journal, self._log = folder / "journal", folder / "agent.log"
        self.journal.touch()
        self._arguments = [broker.address, prefix, str(folder / "spool"), str(self.journal)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The one that runs."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """A new one; returns once it has taken a record."""
        before = self.lines("put")
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, str(_CHILD), *self._arguments], stdout=out, stderr=out
            )
        self.wait_for("put", before + 1)

    def wait_for(self, word: str, count: int, within_s: float = 60.0) -> None:
        """Until the journal has so many such lines."""
        until_s = time.monotonic() + within_s
        while self.lines(word) < count:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < until_s, self.log()
            time.sleep(0.02)

    def lines(self, word: str) -> int:
        return sum(line.startswith(word) for line in self.journal.read_text().splitlines())

    def run(self, seconds: float) -> None:
        """Lets it work for a while."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
            raise AssertionError(self.log())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        with self.journal.open("a") as out:
            out.write("killed\n")

    def log(self) -> str:
        return self._log.read_text()[-4_000:]


def taken(journal: Path) -> tuple[list[tuple[int, int]], set[tuple[int, int]]]:
    """Every record that agents handed over, and those that a kill met in memory."""
    records: list[tuple[int, int]] = []
    unsafe: set[tuple[int, int]] = set()
    at_risk: set[tuple[int, int]] = set()
    for line in journal.read_text().splitlines():
        word, *rest = line.split()
        if word == "put":
            records.append((int(rest[0]), int(rest[1])))
            at_risk.add(records[-1])
        elif word == "safe":
            at_risk.clear()
        elif word == "killed":
            unsafe |= at_risk
            at_risk.clear()
    return records, unsafe


@pytest.fixture
def agents(broker: Broker, tmp_path: Path) -> Iterator[Agents]:
    agents = Agents(broker, "t-", tmp_path)
    yield agents
    with contextlib.suppress(AssertionError):
        agents.process.kill()
        agents.process.wait()


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return settings_of(
        bus=f"kafka://{broker.address}", data=tmp_path / "data", topic_prefix="t-",
        gpu_partitions=4, site="demo", kafka_session_timeout_s=1.0,
    )  # fmt: skip


def site() -> Inventory:
    labels = [SlotLabels(slot, f"GPU-{slot}", "NVIDIA H800") for slot in SLOTS]
    return site_of("test", [installed_node(NODE, labels)])


async def read_back(settings: Settings) -> list[tuple[int, PlainRecord]]:
    """All GPU records with the time at which the broker took them, in its order."""
    bus = KafkaBus(settings.bus.removeprefix("kafka://"), clock=SystemClock())
    consumer = bus.consumer([settings.topic_prefix + GPU], None)
    await consumer.start()
    ends, found = await consumer.end_offsets(), list[tuple[int, PlainRecord]]()
    reached = dict.fromkeys(ends, 0)
    while any(reached[one] < ends[one] for one in ends):
        for chunk in await consumer.fetch(1.0):
            reached[chunk.partition] = chunk.next_offset
            rows = zip(chunk.offsets, chunk.values, strict=True)
            found += [(offset, read_record(value)) for offset, value in rows]
    await consumer.stop()
    await bus.close()
    return found


def outage(broker: Broker, agents: Agents) -> tuple[int, int]:
    """Half an hour without a broker, two kills in it; then it is back and all is sent.

    Returns how many records had been taken when the broker went and when it was back.
    """
    agents.start()
    agents.run(3.0)
    broker.kill()
    gone_s, first = time.monotonic(), agents.lines("put")
    agents.run(AWAY_S / 3)
    agents.kill()
    time.sleep(1.5)
    agents.start()
    agents.run(AWAY_S / 3)
    agents.kill()
    time.sleep(1.0)
    agents.start()
    agents.run(max(1.0, gone_s + AWAY_S - time.monotonic()))
    agents.wait_for("put", first + AWAY_RECORDS, within_s=120.0)
    broker.start()
    back = agents.lines("put")
    return first, back


async def drained(settings: Settings, agents: Agents) -> None:
    """Until every record that was taken is on the bus."""
    async with asyncio.timeout(90):
        while True:
            records, unsafe = taken(agents.journal)
            with contextlib.suppress(BusUnavailableError):
                found = {(one.run, one.sequence) for _, one in await read_back(settings)}
                if found >= set(records[:-100]) - unsafe:
                    return
            await asyncio.sleep(1.0)


def spans_us(found: Sequence[PlainRecord]) -> int:
    """What a slot's records say was watched: the steps within each run, gaps left out."""
    total_us = 0
    runs: dict[int, dict[int, int]] = {}
    for record in found:
        runs.setdefault(record.run, {})[record.sequence] = record.time_us
    for times in runs.values():
        ordered = [times[number] for number in sorted(times)]
        steps = (after - before for before, after in itertools.pairwise(ordered))
        total_us += sum(step for step in steps if step <= LONGEST_GAP_US)
    return total_us


async def test_nothing_is_lost(broker: Broker, agents: Agents, settings: Settings) -> None:
    bus = KafkaBus(broker.address, clock=SystemClock())
    await bus.create_topics(topics(settings))
    await bus.close()
    first, back = await asyncio.to_thread(outage, broker, agents)
    await drained(settings, agents)
    await asyncio.to_thread(end, agents.process)
    assert "end queued=0 left=0 dropped=0" in agents.journal.read_text(), agents.log()

    records, unsafe = taken(agents.journal)
    runs = list(dict.fromkeys(run for run, _ in records))
    assert len(runs) == 3
    assert back - first >= AWAY_RECORDS
    found = [record for _, record in await read_back(settings)]
    stored = {(one.run, one.sequence) for one in found}
    assert set(records) - stored <= unsafe
    # A second's at most: a disk that is slow to answer is no loss of more.
    assert len(unsafe) <= 30, "a kill meets next to nothing in memory while the bus is away"
    assert stored <= set(records)

    inventory = site()
    count, wrong = await differences(settings, inventory)
    assert wrong == []
    assert count == len(found)
    await check_ledger(settings, inventory, found)
    check_fresh_first(found, records)


def check_fresh_first(found: Sequence[PlainRecord], records: Sequence[tuple[int, int]]) -> None:
    """The spool leaves in its order, and what is fresh passes it by, in its own."""
    number = {record: at for at, record in enumerate(records)}
    first_seen = list(dict.fromkeys(number[one.run, one.sequence] for one in found))
    assert falls(first_seen) == 2
    lowest_to_come = list(itertools.accumulate(reversed(first_seen), min))[::-1]
    passing = [one for one, low in zip(first_seen, lowest_to_come, strict=True) if one > low]
    assert len(passing) > 50


async def check_ledger(
    settings: Settings, inventory: Inventory, found: Sequence[PlainRecord]
) -> None:
    """The time when no agent ran is unobserved, and nothing else; energy is bridged over it."""
    bus = KafkaBus(settings.bus.removeprefix("kafka://"), clock=SystemClock())
    oracle, _ = await oracle_of(bus, settings.topic_prefix, inventory)
    await bus.close()
    truth = oracle.finish()
    ordered = sorted(found, key=lambda record: record.time_us)
    for index, slot in enumerate(SLOTS):
        rows = [row for key, row in truth.rows.items() if key.slot == slot]
        watched_us = sum(row["active_us"] + row["idle_us"] + row["down_us"] for row in rows)
        assert watched_us == spans_us(found)
        assert sum(row["down_us"] for row in rows) == 0
        first, last = (one.counters["energy_mj"][index] for one in (ordered[0], ordered[-1]))
        assert sum(row["energy_mj"] for row in rows) == last - first
        elapsed_us = ordered[-1].time_us - ordered[0].time_us
        # A busy machine reads the counter some time after the record's own.
        assert last - first == pytest.approx(elapsed_us * POWER_W[index] / 1000, rel=0.2)
    dead_us = (ordered[-1].time_us - ordered[0].time_us) - spans_us(found)
    assert dead_us > 2.5 * SPEED * 1e6
