"""A simulated day through real services while everything is killed, and what came of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from chaos_disk import Disk
from chaos_ledger import Ledger, before, differences, read_file, read_ledger
from chaos_plan import FULL, KILL, PAUSE, Act, plan
from chaos_processes import ROOT, Services, Target
from sqlalchemy import Connection, func, select

from collectors.contract.topics import ALLOC, FLUSHED, GPU, LIVE
from collectors.kit.clock import SystemClock
from collectors.simulator.sites import make_site
from pipeline.books import progress, schema
from pipeline.books.rows import HOUR_US
from pipeline.bus import open_bus
from pipeline.commands.wiring import Installation, install
from pipeline.settings import Settings

PETAWATCH = [sys.executable, "-c", "from collectors.cli import main; main()"]
_SETTLED_S = 240.0
_HEALTHY_S = 60.0


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """How much of it; `gap_s` is the mean time between two acts,
    `interval_s` that between two records of a node."""

    site: str = "demo"
    hours: float = 24.0
    kills: int = 100
    pauses: int = 15
    fulls: int = 6
    seed: int = 1
    gap_s: float = 3.0
    interval_s: float = 5.0


class Done(msgspec.Struct, frozen=True):
    """One act as it was carried out; `at_s` from the first one's time on."""

    at_s: float
    what: str
    target: str
    for_s: float
    ended: bool
    """Whether the process had come to an end by then, and was started again."""


class ChaosReport(msgspec.Struct, frozen=True):
    """What was done, and whether the ledger is what it would have been."""

    ok: bool
    seed: int
    hours: float
    wall_s: float
    done: dict[str, dict[str, int]]
    """What → target → how often."""
    disks: str
    rows: int
    complete_rows: int
    differences: dict[str, int]
    """By table, all hours computed."""
    differences_as_left: int
    """In the complete hours as the role itself had left them."""
    frames: int
    longest_without_frames_s: float
    frames_after_the_last_kill_of_watch: int
    acts: list[Done]


class Chaos:
    """One run in a folder of its own; `close` ends all that it started."""

    def __init__(self, options: ChaosOptions, folder: Path) -> None:
        self.options = options
        self._folder = folder
        size = 300 + int(100 * options.hours)
        self._disks = {
            "kafka": Disk(folder / "kafka", size),
            "influx": Disk(folder / "influx", 400),
            "books": Disk(folder / "books", 200),
        }
        self._services: Services | None = None
        self._roles: list[Target] = []
        self._done: list[Done] = []
        self._watch_killed_us = 0
        self._reference: subprocess.Popen[bytes] | None = None
        self._clock = SystemClock()
        now_hour = self._clock.wall_us() // HOUR_US
        self.start_us = int((now_hour - int(options.hours) - 2.5) * HOUR_US)

    def run(self) -> ChaosReport:
        """All of it.  Raises MissingServicesError, and AssertionError where something that was
        started again does not come back."""
        began_s = time.monotonic()
        self._services = Services(self._folder, self._disks)
        self._start_reference()
        self._settings = self._make_settings()
        self._make_topics()
        self._start_roles()
        simulation = self._simulate()
        asyncio.run(self._flows(simulation))
        self._carry_out(simulation)
        self._all_back()
        assert simulation.process.wait(1_200) == 0, simulation.log_end()
        return asyncio.run(self._compare(began_s))

    def _start_reference(self) -> None:
        o = self.options
        arguments = [o.site, str(o.seed), str(self.start_us), str(o.hours), str(o.interval_s)]
        arguments.append(str(self._expected))
        command = [sys.executable, str(Path(__file__).with_name("chaos_reference.py")), *arguments]
        with (self._folder / "reference.log").open("wb") as out:
            self._reference = subprocess.Popen(command, stdout=out, stderr=out, env=_environ({}))

    @property
    def _expected(self) -> Path:
        return self._folder / "expected.json"

    def _make_settings(self) -> Settings:
        assert self._services is not None
        told = self._services.settings
        return Settings(
            data=self._folder / "data", bus=told["PETAWATCH_BUS"], store=told["PETAWATCH_STORE"],
            influx_token=told["PETAWATCH_INFLUX_TOKEN"], site=self.options.site, flush_s=1.0,
            books=f"sqlite:///{self._disks['books'].folder}/books.db", raw_interval_s=60.0,
            gpu_partitions=4, kafka_session_timeout_s=6.0, books_interval_s=2.0,
        )  # fmt: skip

    def _petawatch(self, name: str, kind: str, *arguments: str) -> Target:
        s = self._settings
        env = _environ(
            {
                "BUS": s.bus, "STORE": s.store, "INFLUX_TOKEN": s.influx_token or "",
                "SITE": s.site or "", "DATA": str(s.data), "BOOKS": s.books,
                "FLUSH_S": str(s.flush_s), "RAW_INTERVAL_S": "60", "GPU_PARTITIONS": "4",
                "KAFKA_SESSION_TIMEOUT_S": "6", "BOOKS_INTERVAL_S": "2",
            }
        )  # fmt: skip
        made = Target(name, kind, [*PETAWATCH, *arguments], self._folder / f"{name}.log", env)
        made.start()
        return made

    def _make_topics(self) -> None:
        """As soon as the broker answers."""
        made = self._petawatch("topics", "", "pipeline", "--create-topics")
        for _ in range(20):
            if made.process.wait(60) == 0:
                return
            made.start()
        raise AssertionError(made.log_end())

    def _start_roles(self) -> None:
        for kind, role, count in (
            ("worker", "store", 2),
            ("watch", "watch", 1),
            ("books", "books", 2),
        ):
            for number in range(count):
                name = f"{role}-{number}" if count > 1 else role
                self._roles.append(self._petawatch(name, kind, "pipeline", "--role", role))

    def _simulate(self) -> Target:
        """At such a speed that it goes on a little longer than what is to happen."""
        o = self.options
        acts = o.kills + o.pauses + o.fulls
        speed = o.hours * 3_600 / max(20.0, acts * (o.gap_s + 1.0) * 1.1)
        return self._petawatch(
            "simulate", "", "simulate", "--site", o.site, "--seed", str(o.seed),
            "--minutes", str(o.hours * 60), "--speed", f"{speed:.1f}",
            "--start-us", str(self.start_us), "--telemetry-faults", "all",
            "--interval", str(o.interval_s),
        )  # fmt: skip

    @property
    def targets(self) -> dict[str, Target]:
        """All that may be killed, by name."""
        assert self._services is not None
        return {one.name: one for one in (*self._services.targets, *self._roles)}

    async def _flows(self, simulation: Target) -> None:
        """Until the first records are on the bus."""
        while sum((await _ends(self._settings, [GPU])).values()) == 0:
            assert simulation.alive, simulation.log_end()
            await self._clock.sleep(0.2)

    def _carry_out(self, simulation: Target) -> None:
        o, targets = self.options, self.targets
        by_kind: dict[str, list[str]] = {}
        for target in targets.values():
            by_kind.setdefault(target.kind, []).append(target.name)
        todo = plan(
            by_kind, list(self._disks), kills=o.kills, pauses=o.pauses, fulls=o.fulls,
            seed=o.seed, gap_s=o.gap_s,
        )  # fmt: skip
        began_s = time.monotonic()
        for number, act in enumerate(todo):
            time.sleep(act.wait_s)
            assert simulation.alive or simulation.process.returncode == 0, simulation.log_end()
            at_s = time.monotonic() - began_s
            ended = self._full(act) if act.what == FULL else self._hit(act)
            self._done.append(
                Done(round(at_s, 2), act.what, act.target, round(act.for_s, 2), ended)
            )
            if sys.stderr.isatty() or number % 10 == 9:
                print(f"{number + 1} of {len(todo)} at {at_s:.0f} s", file=sys.stderr, flush=True)

    def _hit(self, act: Act) -> bool:
        target = self.targets[act.target]
        ended = not target.alive
        target.start()
        if act.what == PAUSE:
            target.signal(signal.SIGSTOP)
            time.sleep(act.for_s)
            target.signal(signal.SIGCONT)
            return ended
        target.kill()
        time.sleep(act.for_s)
        target.start()
        if act.target == "watch":
            self._watch_killed_us = self._clock.wall_us()
        return ended

    def _full(self, act: Act) -> bool:
        """No room for what a service or the books write; who gives up is started again."""
        writers = [one for one in self.targets.values() if one.name.startswith(act.target)]
        disk = self._disks[act.target]
        disk.fill([one.process.pid for one in writers if one.alive])
        time.sleep(act.for_s)
        disk.clear()
        ended = any(not one.alive for one in writers)
        for one in self.targets.values():
            one.start()
        return ended

    def _all_back(self) -> None:
        """A supervisor's work: whoever has ended is started, until all stay."""
        until_s = time.monotonic() + _HEALTHY_S
        calm_s = time.monotonic()
        while time.monotonic() - calm_s < 10.0:
            assert time.monotonic() < until_s, {n: t.log_end() for n, t in self.targets.items()}
            for one in self.targets.values():
                if not one.alive:
                    one.start()
                    calm_s = time.monotonic()
            time.sleep(0.2)

    async def _compare(self, began_s: float) -> ChaosReport:
        installation = install(
            self._settings, self._clock, make_site(self.options.site),
            series=True, books=True,
        )  # fmt: skip
        await installation.start()
        try:
            last = await self._settled(installation)
            database = installation.opened_database()
            left = await read_ledger(database)
            frames = await self._frames()
            for role in self._roles:
                role.end()
            books = installation.books()
            await books.finish()
            await books.close()
            actual = await read_ledger(database)
        finally:
            await installation.close()
        assert self._reference is not None
        assert self._reference.wait(1_200) == 0, (self._folder / "reference.log").read_text()
        return self._report(read_file(self._expected), actual, left, last, frames, began_s)

    async def _settled(self, installation: Installation) -> int:
        """Until the roles have taken in all there is; returns the hour that goes on."""
        ends = await _ends(self._settings, [GPU, ALLOC, FLUSHED])
        until_s = time.monotonic() + _SETTLED_S
        while True:
            behind, last = await installation.opened_database().read(partial(_behind, ends=ends))
            if not behind:
                return last
            assert time.monotonic() < until_s, (
                behind,
                {n: t.log_end() for n, t in self.targets.items()},
            )
            await self._clock.sleep(0.5)
            # A flush announces itself, so the end of that topic moves once more.
            ends = {**ends, **await _ends(self._settings, [FLUSHED])}

    async def _frames(self) -> list[int]:
        """When the bus took each live frame, µs."""
        bus = open_bus(self._settings.bus, self._clock)
        consumer = bus.consumer([LIVE], None)
        await consumer.start()
        ends, times = await consumer.end_offsets(), list[int]()
        reached = dict.fromkeys(ends, 0)
        while any(reached[one] < end for one, end in ends.items()):
            chunks = await consumer.fetch(2.0)
            for chunk in chunks:
                reached[chunk.partition] = chunk.next_offset
                rows = zip(chunk.keys, chunk.bus_us, strict=True)
                times += [bus_us for key, bus_us in rows if key == b"frame"]
            if not chunks:
                break
        await consumer.stop()
        await bus.close()
        return times

    def _report(
        self, expected: Ledger, actual: Ledger, left: Ledger, last: int, frames: Sequence[int],
        began_s: float,
    ) -> ChaosReport:  # fmt: skip
        done: dict[str, Counter[str]] = {KILL: Counter(), PAUSE: Counter(), FULL: Counter()}
        for one in self._done:
            done[one.what][one.target] += 1
        differ = differences(expected, actual)
        as_left = differences(before(expected, last), before(left, last))["hours"]
        after = sum(at > self._watch_killed_us for at in frames)
        gaps = [b - a for a, b in itertools.pairwise(frames)]
        complete = len(before(left, last)["hours"])
        ok = not any(differ.values()) and not as_left and complete > 0 and after > 0
        return ChaosReport(
            ok, self.options.seed, self.options.hours, round(time.monotonic() - began_s, 1),
            {what: dict(sorted(count.items())) for what, count in done.items()},
            next(iter(self._disks.values())).kind, len(actual["hours"]), complete, differ, as_left,
            len(frames), round(max(gaps, default=0) / 1e6, 1), after, self._done,
        )  # fmt: skip

    def close(self) -> None:
        """Ends and removes all."""
        if self._reference is not None and self._reference.poll() is None:
            self._reference.kill()
            self._reference.wait()
        if self._services is not None:
            for target in (*self._roles, *self._services.targets):
                if target.alive:
                    target.kill()
        for disk in self._disks.values():
            disk.close()


def _environ(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process with these settings and no others."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PETAWATCH_")}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, **{f"PETAWATCH_{k}": v for k, v in settings.items()}}


async def _ends(settings: Settings, topics: Sequence[str]) -> dict[tuple[str, int], int]:
    bus = open_bus(settings.bus, SystemClock())
    consumer = bus.consumer(topics, None)
    await consumer.start()
    ends = await consumer.end_offsets()
    await consumer.stop()
    await bus.close()
    return {(one.topic, one.number): end for one, end in ends.items()}


def _behind(connection: Connection, ends: Mapping[tuple[str, int], int]) -> tuple[list[Any], int]:
    """What the books have not read or computed yet, and the hour that goes on."""
    clocks, positions = progress.read_clocks(connection), progress.read_positions(connection)
    done = {(GPU, number): offset for number, (offset, _) in clocks.items()} | positions
    behind: list[Any] = [(at, end) for at, end in ends.items() if done.get(at, 0) < end]
    table = schema.node_hours.c
    until_us = connection.execute(select(func.max(table.until_us))).scalar() or 0
    last = until_us // HOUR_US
    reached_us = max((bus_us for _, bus_us in clocks.values()), default=0)
    if reached_us - until_us > 10_000_000:
        behind.append(("computed until", until_us, reached_us))
    behind += [one for one in progress.read_pending(connection) if one[0] < last]
    return behind, last


def run_chaos(options: ChaosOptions) -> ChaosReport:
    """Runs it in a temporary folder.  Raises what `Chaos.run` raises."""
    folder = Path(tempfile.mkdtemp(prefix="petawatch-chaos-"))
    chaos = Chaos(options, folder)
    try:
        return chaos.run()
    finally:
        chaos.close()
        shutil.rmtree(folder, ignore_errors=True)
