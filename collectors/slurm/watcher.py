"""Asks Slurm, follows the agents, sends what should stand: four loops around one book."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from collectors.contract.bus import Bus, BusUnavailableError, Message, Producer, RefusedError
from collectors.contract.topics import ALLOC, Allocation
from collectors.kit.clock import Clock
from collectors.kit.lifecycle import Stage, run_stages
from collectors.slurm import accounting, queue
from collectors.slurm.book import Book
from collectors.slurm.follow import Follower
from collectors.slurm.memory import StateFile
from collectors.slurm.settings import SlurmSettings
from collectors.slurm.tools import SlurmAwayError, SlurmTools

_OVERLAP_S = 3_600
"""So far before its last answer slurmdbd is asked again: it hears of some ends late."""
_DEEP_S = 3_600
_BATCH = 500
_PAUSE_S = 1.0
_RETRY_S = 5.0
_SAVE_S = 30.0
_CLUSTER = re.compile(r"^ClusterName\s*=\s*(\S+)", re.MULTILINE)
_log = logging.getLogger(__name__)


class Watcher:
    """The watcher of one cluster."""

    def __init__(self, settings: SlurmSettings, bus: Bus, tools: SlurmTools, clock: Clock) -> None:
        self._settings, self._bus, self._tools, self._clock = settings, bus, tools, clock
        self.book = Book(settings.cluster or "")
        self._file = StateFile(settings.state_path)
        self._follower = Follower(bus, settings.topic_prefix, self.book, clock)
        self._deep_s = 0
        self._saved_us = 0
        self._wrong: dict[str, str] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what is known is saved then."""
        await self._until_answered(stop, self._find_cluster)
        left = self._file.load()
        if left is not None:
            self.book.restore(left)
        since_us = self._clock.wall_us() - self._settings.lookback_h * 3_600_000_000
        self.book.followed_us = max(self.book.followed_us, since_us)
        if stop.is_set():
            return
        _log.info("watching cluster=%s runs=%d", self.book.runs.cluster, len(self.book.runs))
        stages = [
            Stage("slurmctld", lambda done: self._every(done, self._settings.poll_s, self.ask_queue)),
            Stage("slurmdbd", lambda done: self._every(done, self._settings.accounting_s, self.ask_accounting)),
            Stage("follow", self._follower.run),
            Stage("publish", self._publish),
        ]  # fmt: skip
        await run_stages(stages, stop, self._clock)

    async def ask_queue(self) -> None:
        """One question to slurmctld.  Raises SlurmAwayError."""
        asked_s = self._clock.wall_us() // 1_000_000
        try:
            rows, refused = queue.parse_queue(await self._tools.run(queue.COMMAND))
        except ValueError as error:
            raise SlurmAwayError(f"squeue: an answer that cannot be read: {error}") from error
        self._say("squeue_entries", f"{refused} entries cannot be read" if refused else "")
        self.book.take_queue(rows, asked_s)

    async def ask_accounting(self) -> None:
        """One question to slurmdbd, now and then far back.  Raises SlurmAwayError."""
        asked_s = self._clock.wall_us() // 1_000_000
        far_s = asked_s - self._settings.lookback_h * 3_600
        deep = asked_s - self._deep_s >= _DEEP_S
        since_s = far_s if deep else max(far_s, self.book.accounted_s - _OVERLAP_S)
        answer = await self._tools.run(accounting.command(since_s))
        rows, refused = accounting.parse_accounting(answer.decode("utf-8", "replace"))
        self._say("sacct_lines", f"{refused} lines cannot be read" if refused else "")
        self.book.take_accounting(rows, asked_s)
        self._deep_s = asked_s if deep else self._deep_s
        if self._follower.caught_up:
            self.book.report(asked_s)
        # What is asked for has an hour's margin to what is forgotten.
        self.book.forget(far_s - _OVERLAP_S)

    async def find_cluster(self) -> None:
        """The name by which accounting knows this cluster.  Raises SlurmAwayError."""
        if not self.book.runs.cluster:
            text = (await self._tools.run(("scontrol", "show", "config"))).decode(
                "utf-8", "replace"
            )
            found = _CLUSTER.search(text)
            if found is None:
                raise SlurmAwayError("scontrol show config names no cluster: set `cluster`")
            self.book.runs.cluster = found[1]

    async def _find_cluster(self) -> None:
        await self.find_cluster()

    async def _until_answered(
        self, stop: asyncio.Event, question: Callable[[], Awaitable[None]]
    ) -> None:
        while not stop.is_set() and not await self._asked(question):
            await _pause(stop, _RETRY_S)

    async def _every(
        self, stop: asyncio.Event, seconds: float, question: Callable[[], Awaitable[None]]
    ) -> None:
        while not stop.is_set():
            await self._asked(question)
            await _pause(stop, seconds)

    async def _asked(self, question: Callable[[], Awaitable[None]]) -> bool:
        name = getattr(question, "__name__", "question")
        try:
            await question()
        except SlurmAwayError as error:
            self._say(name, str(error))
            return False
        self._say(name, "")
        return True

    def _say(self, what: str, wrong: str) -> None:
        """Once when something goes wrong, and once when it is well again."""
        if wrong and self._wrong.get(what) != wrong:
            _log.warning("slurm_away what=%s reason=%s", what, wrong)
        elif not wrong and what in self._wrong:
            _log.info("slurm_answers what=%s", what)
        self._wrong = (
            {**self._wrong, what: wrong}
            if wrong
            else {name: text for name, text in self._wrong.items() if name != what}
        )

    async def _publish(self, stop: asyncio.Event) -> None:
        producer = self._bus.producer()
        try:
            while not stop.is_set():
                sent = self._follower.caught_up and await self.publish(producer)
                await self._save(force=False)
                await _pause(
                    stop, _PAUSE_S if sent else _RETRY_S if self._follower.caught_up else 0.2
                )
            if self._follower.caught_up:
                await self.publish(producer)
        finally:
            await self._save(force=True)
            await producer.stop()

    async def publish(self, producer: Producer) -> bool:
        """Sends what the bus does not say yet; whether it took all of it."""
        while self.book.behind:
            records = self.book.changes(self._clock.wall_us())
            for begin in range(0, len(records), _BATCH):
                batch = records[begin : begin + _BATCH]
                try:
                    await self._send(producer, batch)
                except BusUnavailableError as error:
                    self._say("bus", str(error))
                    self.book.unsent(records[begin:])
                    return False
                self.book.sent(batch)
            await asyncio.sleep(0)
        self._say("bus", "")
        return True

    async def _send(self, producer: Producer, batch: Sequence[Allocation]) -> None:
        topic = self._settings.topic_prefix + ALLOC
        try:
            await producer.send(
                [Message(topic, one.key, msgspec.json.encode(one)) for one in batch]
            )
        except RefusedError as error:
            _log.error("allocations_refused count=%d reason=%s", len(error.refused), error)

    async def _save(self, *, force: bool) -> None:
        now_us = self._clock.monotonic_us()
        if force or now_us - self._saved_us >= _SAVE_S * 1e6:
            self._saved_us = now_us
            await self._file.save(self.book.remembered())


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Until `stop`, or so long."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
