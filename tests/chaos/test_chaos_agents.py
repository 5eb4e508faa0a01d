"""kill -9 of an agent and of its broker, again and again: owners as told, energy bridged, and the
time without an agent unobserved, all of it and no more."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_child import NODE, SLOTS, FastClock
from broker_fixtures import Broker
from kill_tools import differences, end, oracle_of, settings_of
from test_kill_agent import Agents, check_ledger, drained, read_back, site, taken

from collectors.contract.bus import Message
from collectors.contract.identity import slot_text
from collectors.contract.topics import ALLOC, Allocation, Subject, dumps
from collectors.kit.clock import SystemClock
from pipeline.bus.kafka import KafkaBus
from pipeline.commands.wiring import topics
from pipeline.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]
KILLS = 8
STATES = ("active_us", "idle_us", "down_us", "unobserved_us")


@pytest.fixture
def agents(broker: Broker, tmp_path: Path) -> Iterator[Agents]:
    agents = Agents(broker, "t-", tmp_path)
    yield agents
    if agents.process.poll() is None:
        agents.process.kill()
        agents.process.wait()


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return settings_of(
        bus=f"kafka://{broker.address}", data=tmp_path / "data", topic_prefix="t-",
        gpu_partitions=4, site="demo", kafka_session_timeout_s=6.0,
    )  # fmt: skip


async def allocate(bus: KafkaBus, prefix: str) -> list[Allocation]:
    """Two jobs one after the other, the second of one GPU alone."""
    now_us, minute_us = FastClock().wall_us(), 60_000_000
    told = [
        Allocation(
            "s", "1", "ant", "p", "1", (Subject(NODE),), now_us + 60_000_000 + 7,
            now_us + 12 * minute_us, known_us=now_us,
        ),
        Allocation(
            "s", "2", "bee", "p", "2", (Subject(NODE, (slot_text(SLOTS[0]),)),),
            now_us + 12 * minute_us, now_us + 19 * minute_us + 3, known_us=now_us,
        ),
    ]  # fmt: skip
    producer = bus.producer()
    await producer.start()
    await producer.send([Message(prefix + ALLOC, one.key, dumps(one)) for one in told])
    await producer.stop()
    return told


def kill_again_and_again(broker: Broker, agents: Agents, rng: random.Random) -> None:
    """The agent each time, the broker twice; the agent works again before it is killed anew."""
    agents.start()
    for number in range(KILLS):
        agents.run(rng.uniform(0.5, 2.5))
        if number == 2:
            broker.kill()
        if number == 5:
            broker.start()
        agents.kill()
        time.sleep(rng.uniform(0.4, 1.2))
        agents.start()
    agents.run(2.0)


async def test_only_the_time_without_an_agent_is_missing(
    broker: Broker, agents: Agents, settings: Settings
) -> None:
    bus = KafkaBus(broker.address, clock=SystemClock())
    await bus.create_topics(topics(settings))
    told = await allocate(bus, settings.topic_prefix)
    await bus.close()
    await asyncio.to_thread(kill_again_and_again, broker, agents, random.Random(5))
    await drained(settings, agents)
    await asyncio.to_thread(end, agents.process)

    records, unsafe = taken(agents.journal)
    assert len({run for run, _ in records}) == KILLS + 1
    found = [record for _, record in await read_back(settings)]
    assert set(records) - {(one.run, one.sequence) for one in found} <= unsafe
    inventory = site()
    _, wrong = await differences(settings, inventory)
    assert wrong == []
    await check_ledger(settings, inventory, found)
    await check_owners(settings, told)


async def check_owners(settings: Settings, told: list[Allocation]) -> None:
    """What each had is what was said, whatever was seen of it."""
    bus = KafkaBus(settings.bus.removeprefix("kafka://"), clock=SystemClock())
    oracle, _ = await oracle_of(bus, settings.topic_prefix, site())
    await bus.close()
    held: dict[tuple[str, int], int] = {}
    for key, row in oracle.finish().rows.items():
        us = sum(row[state] for state in STATES)
        held[key.tenant, key.slot] = held.get((key.tenant, key.slot), 0) + us
    first, second = (int(one.to_us or 0) - one.from_us for one in told)
    assert [held.get(("ant", slot)) for slot in SLOTS] == [first, first]
    assert [held.get(("bee", slot)) for slot in SLOTS] == [second, None]
