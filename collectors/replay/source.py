"""A recording as a source: the agent's own integrals and records, at any speed."""

from __future__ import annotations

import asyncio
import difflib
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from collectors.agent.assembler import NodeAssembler, Reading
from collectors.agent.nodes import installed_node, site_of
from collectors.contract.bus import BusUnavailableError, Message, Producer, RefusedError
from collectors.contract.identity import new_run
from collectors.contract.inventory import Inventory
from collectors.contract.models import find_model, gpu_models
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.source import SourceOptions
from collectors.contract.topics import GPU
from collectors.contract.wire import encode
from collectors.kit.clock import Clock
from collectors.replay.recording import Recording, Survey
from collectors.replay.samples import Rejects

_log = logging.getLogger(__name__)
_GAP_STEPS = 5
_LEAST_GAP_US = 1_000_000
"""Without rows for longer than both of these, time is unobserved."""
_BATCH = 100
"""At full speed the rest of the process gets its turn between two of these."""
_COALESCE_US = 50_000
"""Records due within this time of each other are sent together."""
_LONGEST_RETRY_S = 30.0
_EXTRAS = {"model", "zone", "files"}

Progress = Callable[[int, int], None]
"""Told (rows done, rows in all)."""


def find_zone(name: str) -> tzinfo:
    """The time zone of a name; raises ValueError that says what to write."""
    if name.upper() in {"UTC", "Z", ""}:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"no time zone {name!r}: write one as Europe/Berlin, or UTC") from error


def check_model(name: str) -> str:
    """The name, if it is empty or has a row among the GPU models.  Raises ValueError."""
    if not name or find_model(name) is not None:
        return name
    near = difflib.get_close_matches(name, gpu_models(), n=3, cutoff=0.3)
    raise ValueError(f"no GPU model {name!r}; did you mean {', '.join(near) or 'none of ours'}?")


class ReplaySource:
    """A `Source` of the contract.

    `speed` is times real time, None as fast as it goes.  Times are shifted so
    that the last row is now when it is sent, unless `keep_time`.
    """

    def __init__(
        self,
        recording: Recording,
        clock: Clock,
        *,
        speed: float | None = 1.0,
        keep_time: bool = False,
        topic_prefix: str = "",
        progress: Progress | None = None,
    ) -> None:
        self._recording, self._clock = recording, clock
        self._speed, self._keep_time = speed, keep_time
        self._topic = topic_prefix + GPU
        self._progress = progress
        self._undated_us = None if keep_time else clock.wall_us()
        self.survey: Survey = recording.survey(undated_us=self._undated_us)
        rejects = self.survey.rejects
        for reason, count in sorted(rejects.counts.items()):
            _log.warning(
                "rows_left_out reason=%s count=%d first=%s", reason, count, rejects.first[reason]
            )
        self.refused = 0
        """Records that the bus will never take."""
        self.unsent = 0
        """Rows that were due when the replay was told to stop while the bus was away."""
        self._assemblers: dict[str, NodeAssembler] = {}

    @property
    def origin(self) -> Origin:
        """Replayed."""
        return Origin.REPLAYED

    @property
    def inventory(self) -> Inventory:
        """The nodes and GPUs that the recording has."""
        nodes = [
            installed_node(name, list(node.labels.values()), "Recording")
            for name, node in sorted(self.survey.nodes.items())
        ]
        return site_of("recording", nodes)

    def shift_us(self, now_us: int) -> int:
        """What is added to every time when the replay starts now: the last row is then now
        when it is sent, and no row is ahead of its sending."""
        if self._keep_time:
            return 0
        survey = self.survey
        span_us = survey.last_us - survey.first_us
        takes_us = 0 if self._speed is None else round(span_us / self._speed)
        shift_us = min(now_us + takes_us - survey.last_us, now_us - survey.first_us)
        # Whole milliseconds, so that times stay as readable as they were.
        return shift_us - shift_us % 1000

    def records(self, shift_us: int) -> Iterator[NodeRecord]:
        """All records in order of time, one per node and timestamp."""
        self._assemblers = {}
        for tick in self._recording.ticks(Rejects(), undated_us=self._undated_us):
            time_us = tick.time_us + shift_us
            assembler = self._assemblers.get(tick.node)
            if assembler is None:
                assembler = self._assemblers[tick.node] = self._assembler(tick.node, time_us)
            readings = [Reading(one.labels, 0, one.values) for one in tick.samples]
            yield assembler.assemble(time_us, readings)

    def _assembler(self, node: str, start_us: int) -> NodeAssembler:
        survey = self.survey.nodes[node]
        return NodeAssembler(
            node, Origin.REPLAYED, new_run(start_us, secrets.randbits(20)),
            longest_gap_us=max(_LEAST_GAP_US, _GAP_STEPS * survey.step_us), expected=survey.labels,
        )  # fmt: skip

    async def play(
        self, deliver: Callable[[list[NodeRecord]], Awaitable[None]], stop: asyncio.Event
    ) -> None:
        """Hands records on when they are due, several at once where they are close."""
        shift_us = self.shift_us(self._clock.wall_us())
        began_us = self._clock.monotonic_us()
        first_us = self.survey.first_us + shift_us
        batch: list[NodeRecord] = []
        done = 0
        for record in self.records(shift_us):
            due_us = began_us
            if self._speed is not None:
                due_us += int((record.time_us - first_us) / self._speed)
            wait_us = due_us - self._clock.monotonic_us()
            if batch and (len(batch) >= _BATCH or wait_us > _COALESCE_US):
                await deliver(batch)
                done += sum(len(one.slots) for one in batch)
                self._tell(done)
                batch = []
            if wait_us > _COALESCE_US:
                await self._pause(wait_us / 1e6, stop)
            if stop.is_set():
                return
            batch.append(record)
        if batch:
            await deliver(batch)
            done += sum(len(one.slots) for one in batch)
        self._tell(done - self.unsent)

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, self.survey.rows)

    async def _pause(self, seconds: float, stop: asyncio.Event) -> None:
        """Sleeps, but not past `stop`."""
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({sleeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        sleeping.cancel()
        stopping.cancel()

    async def run(self, producer: Producer, stop: asyncio.Event) -> None:
        """See the contract."""

        async def deliver(batch: list[NodeRecord]) -> None:
            await self._send(producer, batch, stop)

        await self.play(deliver, stop)

    async def _send(self, producer: Producer, batch: list[NodeRecord], stop: asyncio.Event) -> None:
        """Sends, again and again while the bus is away, until `stop`."""
        messages = [self._message(record) for record in batch]
        retry_s = 1.0
        while True:
            try:
                await producer.send(messages)
            except RefusedError as error:
                self.refused += len(error.refused)
                _log.error("records_refused count=%d reason=%s", len(error.refused), error)
            except BusUnavailableError as error:
                _log.warning("bus_away retry_s=%.0f reason=%s", retry_s, error)
                await self._pause(retry_s, stop)
                retry_s = min(retry_s * 2, _LONGEST_RETRY_S)
                if not stop.is_set():
                    continue
                self.unsent += sum(len(record.slots) for record in batch)
            return

    def _message(self, record: NodeRecord) -> Message:
        """Where event time does not go with the wall clock, it also stands for the arrival."""
        lifelike = self._speed is not None and self._speed <= 1 and not self._keep_time
        arrival_us = None if lifelike else record.time_us
        return Message(self._topic, record.node.encode(), encode(record), arrival_us)


def create(options: SourceOptions, clock: Clock) -> ReplaySource:
    """The entry point `petawatch.sources: replay`.

    `path` is the recording; `extra` may hold a `model`, a `zone`, and more
    `files`, one a line.  Raises ValueError, OSError.
    """
    unknown = sorted(set(options.extra) - _EXTRAS)
    if unknown:
        raise ValueError(f"a replay has no {', '.join(unknown)}; it takes: {', '.join(_EXTRAS)}")
    if options.site is not None or options.truth is not None:
        raise ValueError("a replay has no site and no truth of its own: leave them out")
    more = [Path(name) for name in options.extra.get("files", "").splitlines()]
    paths = [options.path, *more] if options.path is not None else more
    if not paths:
        raise ValueError("which recording? Give a file.")
    recording = Recording(
        paths, zone=find_zone(options.extra.get("zone", "UTC")), node=options.node,
        model=check_model(options.extra.get("model", "")),
    )  # fmt: skip
    return ReplaySource(
        recording, clock, speed=options.speed, keep_time=options.keep_time,
        topic_prefix=options.topic_prefix,
    )  # fmt: skip
