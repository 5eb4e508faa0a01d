"""A simulated day through real services while everything is killed, and what came of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from chaos_acts import HEALTHY_S, Acts, Done
from chaos_after import ends_of, frames_go_on, ledger_as_left, ledger_computed_whole, live_frames
from chaos_disk import Disk
from chaos_ledger import before, differences, read_file, shown
from chaos_minutes import minutes_apart, node_hours_apart, records_apart
from chaos_plan import FULL, KILL, PAUSE, plan
from chaos_processes import ROOT, Services, Target

from collectors.contract.topics import GPU
from collectors.kit.clock import SystemClock
from collectors.simulator.sites import make_site
from pipeline.books.rows import HOUR_US
from pipeline.settings import Settings

PETAWATCH = [sys.executable, "-c", "from collectors.cli import main; main()"]


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """How much of it; `gap_s` is the mean time between two acts for which a machine with nothing
    else to do would have leave, `interval_s` that between two records of a node, `postgres` where
    the books are."""

    site: str = "demo"
    hours: float = 24.0
    kills: int = 100
    pauses: int = 15
    fulls: int = 6
    seed: int = 1
    gap_s: float = 3.0
    interval_s: float = 5.0
    postgres: bool = False
    keep: bool = False
    """Leaves the folder with all logs."""


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
    examples: list[str]
    """Rows that differ, with what they should be and are."""
    minutes_apart: list[str]
    """Kept points of their node-hours that differ in the stores."""
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
            "postgres" if options.postgres else "books": Disk(folder / "books", 400),
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
        self._reference_folder.mkdir()
        arguments.append(str(self._reference_folder))
        command = [sys.executable, str(Path(__file__).with_name("chaos_reference.py")), *arguments]
        with (self._folder / "reference.log").open("wb") as out:
            self._reference = subprocess.Popen(command, stdout=out, stderr=out, env=_environ({}))

    @property
    def _reference_folder(self) -> Path:
        return self._folder / "reference"

    def _make_settings(self) -> Settings:
        assert self._services is not None
        told = self._services.settings
        return Settings(
            data=self._folder / "data", bus=told["PETAWATCH_BUS"], store=told["PETAWATCH_STORE"],
            influx_token=told["PETAWATCH_INFLUX_TOKEN"], site=self.options.site, flush_s=1.0,
            books=told.get("PETAWATCH_BOOKS", f"sqlite:///{self._folder}/books/books.db"), raw_interval_s=60.0,
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
        while sum((await ends_of(self._settings, [GPU])).values()) == 0:
            assert simulation.alive, simulation.log_end()
            await self._clock.sleep(0.2)

    def _carry_out(self, simulation: Target) -> None:
        o, targets = self.options, self.targets
        by_kind: dict[str, list[str]] = {}
        for target in targets.values():
            by_kind.setdefault(target.kind, []).append(target.name)
        todo = plan(
            by_kind, list(self._disks), kills=o.kills, pauses=o.pauses, fulls=o.fulls, seed=o.seed
        )
        records = o.hours * 3_600 / o.interval_s * len(make_site(o.site).nodes)
        acts = Acts(self._settings, targets, self._disks, simulation, records)
        self._done = acts.carry_out(todo)
        self._watch_killed_us = acts.watch_killed_us

    def _all_back(self) -> None:
        """A supervisor's work: whoever has ended is started, until all stay and answer."""
        until_s = time.monotonic() + HEALTHY_S
        calm_s = time.monotonic()
        while time.monotonic() - calm_s < 10.0:
            assert time.monotonic() < until_s, {n: t.log_end() for n, t in self.targets.items()}
            for one in self.targets.values():
                if not one.alive:
                    one.start()
                    calm_s = time.monotonic()
                elif not one.answers():
                    calm_s = time.monotonic()
            time.sleep(0.2)

    async def _compare(self, began_s: float) -> ChaosReport:
        await frames_go_on(self._settings, self._watch_killed_us, time.monotonic() + HEALTHY_S)
        left = await ledger_as_left(self._settings, self._said)
        frames = await live_frames(self._settings)
        for role in self._roles:
            role.end()
        actual = await ledger_computed_whole(self._settings, make_site(self.options.site))
        assert self._reference is not None
        assert self._reference.wait(1_200) == 0, (self._folder / "reference.log").read_text()
        expected = read_file(self._reference_folder / "expected.json")
        done: dict[str, Counter[str]] = {KILL: Counter(), PAUSE: Counter(), FULL: Counter()}
        for one in self._done:
            done[one.what][one.target] += 1
        differ = differences(expected, actual)
        complete = before(left.ledger, left.hour)["hours"]
        as_left = differences(before(expected, left.hour), {"hours": complete})["hours"]
        after = sum(at > self._watch_killed_us for at in frames)
        gaps = [next_us - us for us, next_us in itertools.pairwise(frames)]
        minutes: list[str] = []
        if places := node_hours_apart(expected, actual):
            undisturbed = Settings(data=self._reference_folder)
            minutes = [await records_apart(undisturbed, self._settings)]
            minutes += [f"ends {left.ends}"]
            minutes += await minutes_apart(undisturbed, self._settings, places)
        ok = not any(differ.values()) and not as_left and bool(complete) and after > 0
        return ChaosReport(
            ok, self.options.seed, self.options.hours, round(time.monotonic() - began_s, 1),
            {what: dict(sorted(count.items())) for what, count in done.items()},
            next(iter(self._disks.values())).kind, len(actual["hours"]), len(complete), differ,
            shown(expected, actual), minutes, as_left, len(frames), round(max(gaps, default=0) / 1e6, 1), after, self._done,
        )  # fmt: skip

    def _said(self) -> dict[str, str]:
        return {name: target.log_end() for name, target in self.targets.items()}

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


def run_chaos(options: ChaosOptions) -> ChaosReport:
    """Runs it in a temporary folder.  Raises what `Chaos.run` raises."""
    folder = Path(tempfile.mkdtemp(prefix="petawatch-chaos-"))
    # A PostgreSQL runs as another user, who must get to its data.
    folder.chmod(0o711)
    chaos = Chaos(options, folder)
    try:
        return chaos.run()
    finally:
        chaos.close()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
