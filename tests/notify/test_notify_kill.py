"""The notifier killed at any moment, on a real broker and with a real receiver: nothing is lost,
keys are exact, and what comes twice is what a crash may have let out, counted."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from notify_tools import receiver

from collectors.contract.alerts import Delivery, Incident, Member, Subject, parse_alert_record
from collectors.contract.bus import Bus, Message
from collectors.contract.topics import ALERTS, dumps, topic_specs
from collectors.kit.clock import SystemClock
from pipeline.bus import open_bus

sys.path.insert(0, str(Path(__file__).parents[1] / "notify"))

pytestmark = pytest.mark.stack
_KILLS, _INCIDENTS = 5, 30
_GPU = Subject("gpu", "n1/0", "A", "r1", "n1", "0000:01:00.0")


def _incident(number: int, notice: int, state: str) -> Incident:
    name = f"i{number:02}"
    return Incident(
        name, state, "critical", "N1/0: off the bus", "lost", "off_bus", _GPU, number, number,
        revision=notice, notice=notice, members=(Member("f", "xid_79", "critical", _GPU, number),),
    )  # fmt: skip


async def _start(command: Sequence[str], log: Path, environ: Mapping[str, str]) -> Process:
    with log.open("ab") as out:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from collectors.cli import main; main()", *command,
            stdout=out, stderr=out, env={**os.environ, **environ},
        )  # fmt: skip


async def _send(bus: Bus, prefix: str, incidents: Sequence[Incident]) -> None:
    producer = bus.producer()
    await producer.start()
    await producer.send([Message(prefix + ALERTS, one.key, dumps(one)) for one in incidents])
    await producer.stop()


async def _publish(bus: Bus, prefix: str, rng: random.Random) -> None:
    """Opened, then resolved, one after the other, for as long as the kills go on."""
    producer = bus.producer()
    await producer.start()
    for number in range(_INCIDENTS):
        for notice, state in ((1, "open"), (2, "resolved")):
            one = _incident(number, notice, state)
            await producer.send([Message(prefix + ALERTS, one.key, dumps(one))])
            await SystemClock().sleep(rng.uniform(0.0, 0.2))
    await producer.stop()


async def _deliveries(bus: Bus, prefix: str) -> list[Delivery]:
    consumer = bus.consumer([prefix + ALERTS], None)
    await consumer.start()
    found: list[Delivery] = []
    (partition,) = consumer.assigned
    end_offset, reached = (await consumer.end_offsets())[partition], 0
    while reached < end_offset:
        for chunk in await consumer.fetch(1.0):
            reached = chunk.next_offset
            records = map(parse_alert_record, map(bytes, chunk.keys), map(bytes, chunk.values))
            found += [one for one in records if isinstance(one, Delivery)]
    await consumer.stop()
    return found


async def test_killed_notifiers_lose_nothing(kafka_url: str, tmp_path: Path) -> None:
    rng = random.Random(7)
    prefix = f"kill-notify-{secrets.token_hex(4)}-"
    bus = open_bus(kafka_url, SystemClock())
    await bus.create_topics(topic_specs(prefix, gpu_partitions=1))
    targets, log = tmp_path / "notify.toml", tmp_path / "notify.log"
    environ = {"PETAWATCH_TOPIC_PREFIX": prefix, "PETAWATCH_KAFKA_SESSION_TIMEOUT_S": "1"}
    command = ["pipeline", "--role", "notify", "--bus", kafka_url, "--site", "demo"]
    command += ["--data", str(tmp_path)]
    wanted = {(f"i{number:02}/{notice}") for number in range(_INCIDENTS) for notice in (1, 2)}
    with receiver() as told:
        targets.write_text(f'[[targets]]\nname = "t"\nkind = "webhook"\nurl = "{told.url}"\n')
        environ["PETAWATCH_NOTIFY"] = str(targets)
        publishing = asyncio.create_task(_publish(bus, prefix, rng))
        for _ in range(_KILLS):
            process = await _start(command, log, environ)
            before = len(told.got)
            # It has begun to tell; then at any moment.
            await told.wait(min(before + 1, len(wanted)), 60)
            await SystemClock().sleep(rng.uniform(0.0, 0.5))
            assert process.returncode is None, log.read_text()[-2_000:]
            process.kill()
            await process.wait()
        await publishing
        process = await _start(command, log, environ)
        # One more, so that the last process is known to be at work when it is ended.
        await _send(bus, prefix, [_incident(_INCIDENTS, 1, "open")])
        wanted.add(f"i{_INCIDENTS:02}/1")
        async with asyncio.timeout(60):
            while {key for key, _ in told.sent()} != wanted:
                await SystemClock().sleep(0.05)
        process.terminate()
        assert await process.wait() == 0
        order = [key for key, _ in told.sent()]
    _check(await _deliveries(bus, prefix), order, wanted)
    await bus.delete_topics([spec.name for spec in topic_specs(prefix)])
    await bus.close()


def _check(records: list[Delivery], order: list[str], wanted: set[str]) -> None:
    """Every notice came, in order; one came twice only where the log says that it may have."""
    times = Counter(order)
    begun = Counter(f"{one.incident}/{one.notice}" for one in records if one.outcome == "sending")
    sent = Counter(f"{one.incident}/{one.notice}" for one in records if one.outcome == "sent")
    assert set(sent) == wanted
    assert all(times[key] <= begun[key] for key in wanted)
    assert sum(times.values()) - len(wanted) <= _KILLS
    assert all(order.index(f"i{n:02}/1") < order.index(f"i{n:02}/2") for n in range(_INCIDENTS))
