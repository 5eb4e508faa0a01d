"""The watcher over commands that answer, fail, hang or lie; and as a process on a real Kafka."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from slurm_world import TEXTS

from collectors.contract.bus import Bus, Message
from collectors.contract.facts import GpuFacts, NodeFacts
from collectors.contract.topics import ALLOC, FACTS, Allocation, dumps, topic_specs
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from collectors.slurm.settings import SlurmSettings
from collectors.slurm.tools import SlurmAwayError, SlurmTools
from collectors.slurm.watcher import Watcher
from pipeline.bus import open_bus

CAPTURES = Path(__file__).parents[1] / "captures/slurm"
NOW_S = 1_795_524_480
"""When the last of them was made."""
RUNNING = {"1/n1", "2/n1", "2/n2", "3/n2", "4/n2", "9/n1"}
"""What the first of them shows, by job and node."""
OVER = RUNNING | {"5/n2", "10/n1", "10/n2", "11/n2"}
"""What is to be said of the others; of 11 nobody says which GPU it had, and one is guessed."""


class FakeSlurm:
    """The commands as scripts that print files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._shift_s = SystemClock().wall_us() // 1_000_000 - NOW_S - 60
        self.says(
            "scontrol", "printf 'Configuration data\\nClusterName             = petawatch\\n'"
        )

    def says(self, command: str, script: str) -> None:
        path = self.folder / command
        beside = self.folder / f".{command}"
        beside.write_text(f"#!/bin/sh\n{script}\n")
        beside.chmod(0o755)
        beside.replace(path)

    def shows(self, command: str, capture: str) -> None:
        """What it printed once, as if that had been a minute ago."""
        text = (CAPTURES / capture).read_text(encoding="utf-8")
        moved = re.sub(r"\b17955\d{5}\b", lambda found: str(int(found[0]) + self._shift_s), text)
        (self.folder / capture).write_text(moved, encoding="utf-8")
        self.says(command, f"cat {self.folder}/{capture}")

    def runs(self) -> None:
        self.shows("squeue", "squeue-22.05.8-running.json")
        self.says("sacct", "exit 0")

    def is_over(self) -> None:
        self.shows("squeue", "squeue-22.05.8-ended.json")
        self.shows("sacct", "sacct-22.05.8.txt")

    @property
    def path(self) -> str:
        return f"{self.folder}:/usr/bin:/bin"


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path / "bin")


def tools(slurm: FakeSlurm, timeout_s: float = 30) -> SlurmTools:
    return SlurmTools(timeout_s=timeout_s, variables={"PATH": slurm.path})


async def test_an_answer_and_its_environment(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SLURM_CONF", "/etc/other.conf")
    slurm.says("squeue", 'echo "$SQUEUE_FORMAT|$TZ|$SLURM_TIME_FORMAT|$SLURM_CONF|$1"')
    assert await tools(slurm).run(["squeue", "$(id); *"]) == b"|UTC|%s|/etc/other.conf|$(id); *\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo first >&2; echo slurm_load_jobs error: down >&2; exit 1", "load_jobs error: down"),
        ("exit 3", "exit status 3"),
        ("exec sleep 60", "no answer within 0.2 s"),
    ],
)
async def test_what_is_no_answer(slurm: FakeSlurm, script: str, said: str) -> None:
    slurm.says("squeue", script)
    with pytest.raises(SlurmAwayError, match=said):
        await tools(slurm, 0.2 if "sleep" in script else 30).run(["squeue"])


async def test_a_command_that_is_not_there(slurm: FakeSlurm) -> None:
    with pytest.raises(SlurmAwayError, match="sacct-of-others is not installed here"):
        await tools(slurm).run(["sacct-of-others"])


async def test_one_that_complains_at_length_is_not_waited_for(slurm: FakeSlurm) -> None:
    slurm.says("squeue", "head -c 3000000 /dev/zero >&2; echo done")
    assert await tools(slurm).run(["squeue"]) == b"done\n"


async def tell_facts(bus: Bus, prefix: str = "") -> None:
    producer = bus.producer()
    await producer.start()
    for node in ("n1", "n2"):
        gpus = tuple(GpuFacts(text, number=number) for number, text in enumerate(TEXTS))
        one = NodeFacts(node, 0, "measured", "0", "nvml", gpus=gpus)
        await producer.send([Message(prefix + FACTS, one.key, dumps(one))])
    await producer.stop()


class Reader:
    """What the bus has of allocations, by their key."""

    def __init__(self, bus: Bus, prefix: str = "") -> None:
        self._consumer = bus.consumer([prefix + ALLOC], None)
        self.kept: dict[bytes, Allocation] = {}

    async def until(self, true: Callable[[dict[bytes, Allocation]], bool]) -> None:
        """Reads on; the test's own time limit ends it."""
        if not self._consumer.assigned:
            await self._consumer.start()
        while not true(self.kept):
            for chunk in await self._consumer.fetch(0.2):
                for key, value in zip(chunk.keys, chunk.values, strict=True):
                    self.kept[key] = msgspec.json.decode(value, type=Allocation)

    async def stop(self) -> None:
        await self._consumer.stop()


def told(kept: dict[bytes, Allocation], *, over: bool) -> set[str]:
    """By job and node what the bus has of runs that go on, or are over."""
    return {
        f"{one.job}/{one.subjects[0].node}"
        for one in kept.values()
        if (one.to_us is not None) == over and not one.deleted
    }


async def test_what_is_away_is_asked_again(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.says("squeue", "echo Unable to contact slurm controller >&2; exit 1")
    slurm.says("sacct", "echo Connection refused >&2; exit 1")
    bus = SqliteBus(tmp_path / "bus.db", clock=SystemClock())
    await bus.create_topics(topic_specs())
    await tell_facts(bus)
    settings = SlurmSettings(state=tmp_path / "slurm.json", poll_s=1, accounting_s=1)
    watcher = Watcher(settings, bus, tools(slurm), SystemClock())
    stop = asyncio.Event()
    running = asyncio.create_task(watcher.run(stop))
    reader = Reader(bus)
    slurm.shows("squeue", "squeue-22.05.8-running.json")
    await reader.until(lambda kept: told(kept, over=False) == RUNNING)
    slurm.is_over()
    await reader.until(lambda kept: told(kept, over=True) == OVER)
    stop.set()
    await running
    await reader.stop()
    await bus.close()
    assert told(reader.kept, over=False) == set()
    assert (tmp_path / "slurm.json").stat().st_mode & 0o077 == 0


@pytest.mark.stack
async def test_a_process_on_a_real_bus_is_killed_and_goes_on(
    slurm: FakeSlurm, tmp_path: Path, kafka_url: str
) -> None:
    prefix = f"slurm-{secrets.token_hex(4)}."
    bus = open_bus(kafka_url, SystemClock())
    await bus.create_topics(topic_specs(prefix, gpu_partitions=1))
    await tell_facts(bus, prefix)
    reader = Reader(bus, prefix)
    command = [
        sys.executable, "-m", "collectors", "watch-slurm", "--bus", kafka_url, "--topic-prefix", prefix,
        "--state", str(tmp_path / "slurm.json"), "--poll-s", "1", "--accounting-s", "1",
    ]  # fmt: skip
    environ = {**os.environ, "PATH": slurm.path}
    slurm.runs()
    process = await asyncio.create_subprocess_exec(*command, env=environ)
    try:
        await reader.until(lambda kept: told(kept, over=False) == RUNNING)
        process.kill()
        await process.wait()
        slurm.is_over()
        process = await asyncio.create_subprocess_exec(*command, env=environ)
        await reader.until(lambda kept: told(kept, over=True) == OVER)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reader.stop()
        await bus.delete_topics([spec.name for spec in topic_specs(prefix)])
        await bus.close()


def test_what_slurm_shows_can_be_looked_at(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.is_over()
    command = [sys.executable, "-m", "collectors", "watch-slurm", "--stdout"]
    environ = {**os.environ, "PATH": slurm.path}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert {run["job"] for run in runs} == {"1", "2", "3", "4", "5", "9", "10", "11"}
    slurm.says("sacct", "echo no permission >&2; exit 1")
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, "sacct: no permission" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
