"""`watch` and `notify` killed again and again while a site has faults: a webhook, a real Alertmanager
and a mailbox each hear of every incident, silences and an acknowledgement made between the kills hold on,
and neither store nor books are there."""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from email.message import Message as Mail
from pathlib import Path
from typing import Any

import httpx
import pytest
from acting import SILENT_NODE, People, desk_of, is_silent, opened
from aiosmtpd.handlers import Message as MessageHandler
from aiosmtpd.smtp import SMTP
from notify_tools import Receiver, receiver
from test_notify_alertmanager import alertmanager

from collectors.contract.alerts import (
    AlertRecord,
    Delivery,
    Incident,
    parse_alert_record,
)
from collectors.contract.bus import Bus
from collectors.contract.source import SourceOptions
from collectors.contract.topics import ALERTS, topic_specs
from collectors.kit.clock import SystemClock
from collectors.simulator.source import create
from pipeline.bus import open_bus

pytestmark = pytest.mark.stack
KILLS, SPEED, MINUTES = 3, 12.0, 4.0
WRONG = """
[[event]]
fault = "node_dark"
at = "40s"
for = "60s"
node = "a01n02"

[[event]]
fault = "power_brake"
at = "60s"
for = "30s"
rack = "b01"

[[event]]
fault = "xid"
at = "100s"
gpu = "a01n03/5"
strength = 79

[[event]]
fault = "node_dark"
at = "150s"
for = "40s"
node = "b01n04"
"""
TARGETS = """
[[targets]]
name = "hook"
kind = "webhook"
url = "{hook}"

[[targets]]
name = "am"
kind = "alertmanager"
url = "{am}"

[[targets]]
name = "mail"
kind = "message"
url_env = "TEST_MAIL_URL"
"""
SILENCED = "power_brake"
_CLOCK = SystemClock()


class Roles:
    """Both roles as processes."""

    def __init__(self, environ: Mapping[str, str], log: Path) -> None:
        self._environ, self._log, self._lives = environ, log, 0
        self._processes: list[Process] = []

    async def begin(self) -> None:
        code = "from collectors.cli import main; main()"
        with self._log.open("ab") as out:
            for role in ("watch", "notify"):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", code, "pipeline", "--role", role,
                    stdout=out, stderr=out, env={**os.environ, **self._environ},
                )  # fmt: skip
                self._processes.append(process)
        self._lives += 1
        while self._log.read_text().count("alerts_begin") < self._lives:
            assert all(one.returncode is None for one in self._processes), self.said()
            await _CLOCK.sleep(0.05)

    async def kill(self) -> None:
        for process in self._processes:
            assert process.returncode is None, self.said()
            process.kill()
        for process in self._processes:
            await process.wait()
        self._processes.clear()

    def said(self) -> str:
        return self._log.read_text()[-3_000:]


class Mailbox(MessageHandler):
    """Writes down the key of each mail."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    def handle_message(self, message: Mail) -> None:
        body: Any = message.get_payload(decode=True)
        self.keys += re.findall(r"^Key: (\S+)", body.decode(), re.MULTILINE)


@asynccontextmanager
async def mailbox() -> AsyncGenerator[tuple[Mailbox, str]]:
    """A real SMTP sink on loopback."""
    box = Mailbox()
    loop = asyncio.get_running_loop()
    sink: Any = await loop.create_server(lambda: SMTP(box), "127.0.0.1", 0)
    port = sink.sockets[0].getsockname()[1]
    try:
        yield box, f"mailto://127.0.0.1:{port}?from=a@example.org&to=b@example.org&format=text"
    finally:
        sink.close()
        await sink.wait_closed()


async def log_of(bus: Bus, prefix: str) -> list[AlertRecord]:
    """All of `petawatch.alerts`, in order."""
    consumer = bus.consumer([prefix + ALERTS], None)
    await consumer.start()
    (partition,) = consumer.assigned
    end, reached = (await consumer.end_offsets())[partition], 0
    found: list[AlertRecord] = []
    while reached < end:
        for chunk in await consumer.fetch(1.0):
            reached = chunk.next_offset
            found += map(parse_alert_record, map(bytes, chunk.keys), map(bytes, chunk.values))
    await consumer.stop()
    return found


def told_of(records: Collection[AlertRecord]) -> set[str]:
    """The keys that people must hear of."""
    return {
        f"{one.id}/{one.notice}" for one in records
        if isinstance(one, Incident) and one.notice and one.concerns == "operator"
        and one.severity != "info" and not is_silent(one)
    }  # fmt: skip


async def simulated(bus: Bus, prefix: str, tmp: Path, roles: Roles) -> People:
    """The site with its faults; the roles are killed meanwhile, and people act while nobody is there
    to hear it."""
    scenario = tmp / "wrong.toml"
    scenario.write_text(WRONG)
    options = SourceOptions(
        site="demo", speed=SPEED, minutes=MINUTES, topic_prefix=prefix,
        extra={"observable": "off", "scenario": str(scenario)},
    )  # fmt: skip
    producer = bus.producer()
    await producer.start()
    people = People(producer, prefix)
    await people.silence("s1", "rule", SILENCED)
    sending = asyncio.create_task(create(options, _CLOCK).run(producer, asyncio.Event()))
    rng = random.Random(5)
    for number in range(KILLS):
        await _CLOCK.sleep(rng.uniform(1.0, 4.0))
        while number and not people.taken_on and not opened(await log_of(bus, prefix)):
            await _CLOCK.sleep(0.2)
        await roles.kill()
        if number == 0:
            await people.silence("s2", "node", SILENT_NODE)
        elif not people.taken_on:
            await people.take_on(await log_of(bus, prefix))
        await roles.begin()
    await sending
    await producer.stop()
    return people


async def open_at(url: str) -> set[str]:
    """Incidents that Alertmanager holds for open."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{url}/api/v2/alerts", params={"active": "true"})
    return {one["labels"]["incident"] for one in answer.raise_for_status().json()}


def keys_of(hook: Receiver) -> list[str]:
    """The keys that a webhook got, in order."""
    return [key for key, _ in hook.sent()]


def whole(records: list[AlertRecord], hook: Receiver, box: Mailbox, at_am: set[str]) -> bool:
    """Whether everything has happened and everybody has heard of all of it."""
    wanted = told_of(records)
    last = {one.id: one for one in records if isinstance(one, Incident)}
    told = {key.split("/")[0] for key in wanted}
    still_open = {name for name in told if last[name].state == "open"}
    rules = {member.rule for one in last.values() for member in one.members}
    happened = {"node_silent", "xid_critical", SILENCED} <= rules
    happened &= any(one.subject.node == SILENT_NODE for one in last.values())
    heard = wanted <= set(keys_of(hook)) and wanted <= set(box.keys)
    return happened and heard and at_am == still_open


def check(records: list[AlertRecord], heard: Mapping[str, list[str]]) -> None:
    """Everything came; what came twice may have, by what was written down before."""
    wanted = told_of(records)
    silenced = {one.id for one in records if isinstance(one, Incident) and is_silent(one)}
    for name, keys in heard.items():
        written = [one for one in records if isinstance(one, Delivery) and one.target == name]
        begun = Counter(
            f"{one.incident}/{one.notice}" for one in written if one.outcome == "sending"
        )
        assert set(keys) <= wanted, name
        assert all(times <= begun[key] for key, times in Counter(keys).items()), name
        assert len(keys) - len(set(keys)) <= KILLS, name
        assert not silenced & {one.incident for one in written if one.outcome == "sent"}, name
    kinds = Counter(
        (one.id, one.notice, one.state)
        for one in records
        if isinstance(one, Incident) and one.notice
    )
    assert len({key[:2] for key in kinds}) == len(kinds)


async def check_acts(bus: Bus, prefix: str, people: People, records: list[AlertRecord]) -> None:
    """The API still knows what people said, and it is still said of the same incident: that went on
    under its name in the lives after."""
    desk = await desk_of(bus, prefix, lambda desk: desk.acknowledged(people.taken_on) is not None)
    silences = {one.id for one in desk.silences(_CLOCK.wall_us())}
    assert silences == {"s1", "s2"}
    revisions = [
        one.revision for one in records if isinstance(one, Incident) and one.id == people.taken_on
    ]
    assert revisions
    assert revisions == list(range(1, len(revisions) + 1))


@pytest.mark.timeout(400)
async def test_both_killed(kafka_url: str, tmp_path: Path) -> None:
    prefix = f"kill-both-{secrets.token_hex(4)}-"
    bus = open_bus(kafka_url, _CLOCK)
    specs = topic_specs(prefix, gpu_partitions=2)
    await bus.create_topics(specs)
    targets = tmp_path / "notify.toml"
    with receiver() as hook, receiver() as routed:
        async with alertmanager(tmp_path, routed) as am, mailbox() as (box, url):
            targets.write_text(TARGETS.format(hook=hook.url, am=am))
            environ = {
                "PETAWATCH_BUS": kafka_url, "PETAWATCH_SITE": "demo",
                "PETAWATCH_DATA": str(tmp_path), "PETAWATCH_TOPIC_PREFIX": prefix,
                "PETAWATCH_NOTIFY": str(targets), "TEST_MAIL_URL": url,
                "PETAWATCH_KAFKA_SESSION_TIMEOUT_S": "1",
            }  # fmt: skip
            roles = Roles(environ, tmp_path / "roles.log")
            try:
                await roles.begin()
                people = await simulated(bus, prefix, tmp_path, roles)
                while not whole(await log_of(bus, prefix), hook, box, await open_at(am)):
                    await _CLOCK.sleep(0.2)
            finally:
                await roles.kill()
    records = await log_of(bus, prefix)
    check(records, {"hook": keys_of(hook), "mail": box.keys})
    await check_acts(bus, prefix, people, records)
    await bus.delete_topics([spec.name for spec in specs])
    await bus.close()
