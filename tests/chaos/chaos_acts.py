"""Carries a plan out: kills, pauses and full disks, spread over what is simulated."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Mapping, Sequence

import msgspec
from chaos_after import ends_of
from chaos_disk import Disk
from chaos_plan import FULL, PAUSE, Act
from chaos_processes import Target

from collectors.contract.bus import BusUnavailableError
from collectors.contract.topics import GPU, LIVE
from collectors.kit.clock import SystemClock
from pipeline.settings import Settings

HEALTHY_S = 60.0
"""So long after a start whoever does not work has failed."""
_POLL_S = 0.25


class Done(msgspec.Struct, frozen=True):
    """One act as it was carried out; `at_s` from the start of all on, `sent` of the records."""

    at_s: float
    sent: float
    what: str
    target: str
    for_s: float
    ended: bool
    """Whether the process had come to an end by then, and was started again."""


class Acts:
    """What is done to `targets` and `disks` while `simulation` sends about `records` records."""

    def __init__(
        self,
        settings: Settings,
        targets: Mapping[str, Target],
        disks: Mapping[str, Disk],
        simulation: Target,
        records: float,
    ) -> None:
        self._settings, self._targets, self._disks = settings, targets, disks
        self._simulation, self._records = simulation, records
        self._frames = 0
        self.watch_killed_us = 0
        """When `watch` was killed last; 0 never."""

    def carry_out(self, todo: Sequence[Act]) -> list[Done]:
        """All of it.  Raises AssertionError where something does not come back, or the simulation
        fails."""
        done: list[Done] = []
        began_s = time.monotonic()
        for number, act in enumerate(todo):
            sent = self._until_sent(act.sent)
            at_s = time.monotonic() - began_s
            ended = self._full(act) if act.what == FULL else self._hit(act)
            one = Done(
                round(at_s, 2), round(sent, 4), act.what, act.target, round(act.for_s, 2), ended
            )
            done.append(one)
            if sys.stderr.isatty() or number % 10 == 9:
                print(f"{number + 1} of {len(todo)} at {at_s:.0f} s", file=sys.stderr, flush=True)
        return done

    def _until_sent(self, share: float) -> float:
        """Returns the share of the records that is on the bus, once it is so much or all."""
        simulation = self._simulation
        while True:
            assert simulation.alive or simulation.process.returncode == 0, simulation.log_end()
            over = not simulation.alive
            sent = self._on_bus(GPU) / self._records
            if sent >= share or over:
                return sent
            self._start_all()
            time.sleep(_POLL_S)

    def _on_bus(self, topic: str) -> int:
        """Records so far; 0 where the broker does not say."""
        try:
            return sum(asyncio.run(ends_of(self._settings, [topic])).values())
        except BusUnavailableError:
            return 0

    def _start_all(self) -> None:
        """A supervisor's work."""
        for one in self._targets.values():
            one.start()

    def _until_it_shows(self) -> None:
        """Live frames must have gone on since `watch` was killed before."""
        until_s = time.monotonic() + HEALTHY_S
        while (frames := self._on_bus(LIVE)) <= self._frames:
            assert time.monotonic() < until_s, self._targets["watch"].log_end()
            self._start_all()
            time.sleep(_POLL_S)
        self._frames = frames

    def _hit(self, act: Act) -> bool:
        target = self._targets[act.target]
        ended = not target.alive
        target.start()
        # A service that never came up in between would only be away, all of the time.
        until_s = time.monotonic() + HEALTHY_S
        while not target.answers():
            assert time.monotonic() < until_s, target.log_end()
            target.start()
            time.sleep(0.1)
        if act.what == PAUSE:
            target.signal(signal.SIGSTOP)
            time.sleep(act.for_s)
            target.signal(signal.SIGCONT)
            return ended
        if act.target == "watch":
            self._until_it_shows()
        target.kill()
        if act.target == "watch":
            self.watch_killed_us = SystemClock().wall_us()
        time.sleep(act.for_s)
        target.start()
        return ended

    def _full(self, act: Act) -> bool:
        """No room for what a service or the books write; who gives up is started again."""
        writers = [one for one in self._targets.values() if one.name.startswith(act.target)]
        disk = self._disks[act.target]
        disk.fill([one.process.pid for one in writers if one.alive])
        time.sleep(act.for_s)
        disk.clear()
        ended = any(not one.alive for one in writers)
        for one in writers:
            if one.kind in {"broker", "database"} and one.alive:
                # Both give up what failed for want of room until they are started anew, as
                # docs/operations.md says: Kafka a log directory, InfluxDB what it writes to.
                one.kill()
        self._start_all()
        return ended
