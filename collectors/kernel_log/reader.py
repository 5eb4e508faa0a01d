"""Follows the kernel log and tells what it says of GPUs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from collectors.contract.source import DeviceEvent
from collectors.kernel_log.files import GrowingFile, RecordFile, is_growing
from collectors.kernel_log.lines import LogLine, read_line
from collectors.kernel_log.messages import parse_message
from collectors.kit.clock import Clock, SystemClock

KMSG = Path("/dev/kmsg")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MAX_EVENTS = 1_000
"""Of one call: the rest waits in the log itself, which is bounded by the kernel."""
_log = logging.getLogger(__name__)


class Reached(msgspec.Struct, frozen=True):
    """How far the log of one boot has been read and told."""

    boot: str
    sequence: int


class KernelLog:
    """The kernel log of this node.

    `path` is `/dev/kmsg`, or a plain file that holds the kernel's messages, in
    whatever form.  With `state`, a file, it goes on where an earlier process of
    this boot had come to, and begins with the oldest record kept where there
    was none: so nothing is missed between two lives.  Without it, and of plain
    files, it tells only what comes from now on.

    `lost` counts records that the kernel had overwritten before they were read.
    One thread at a time; `close` when no `wait` is under way.
    """

    def __init__(
        self,
        path: Path = KMSG,
        *,
        state: Path | None = None,
        clock: Clock | None = None,
        boot_id: Path = BOOT_ID,
    ) -> None:
        self._path = path
        self._state = state
        self._clock: Clock = SystemClock() if clock is None else clock
        self._boot_id = boot_id
        self._file: RecordFile | GrowingFile | None = None
        self._reached: Reached | None = None
        self._told = False
        self._catching_up = True
        self.lost = 0

    def wait(self, timeout_s: float) -> Sequence[DeviceEvent]:
        """What has been said since the last call; waits at most so long for something.

        An event that is told late has its `time_us`.  Raises UnsupportedError
        with what must be granted where the log cannot be read.
        """
        file = self._file = self._file or self._open()
        self._save()
        events = self._read(file)
        if not events and timeout_s > 0:
            file.wait(timeout_s)
            events = self._read(file)
        self._told = self._told or bool(events)
        return events

    def _open(self) -> RecordFile | GrowingFile:
        if is_growing(self._path):
            return GrowingFile(self._path)
        self._reached = Reached(self._boot(), -1)
        if self._state is not None:
            known = self._load(self._state)
            if known is not None and known.boot == self._reached.boot:
                self._reached = known
        return RecordFile(self._path, from_end=self._state is None)

    def _read(self, file: RecordFile | GrowingFile) -> list[DeviceEvent]:
        events: list[DeviceEvent] = []
        for text in file.lines():
            line = read_line(text)
            if line is None or not self._is_new(line):
                continue
            event = parse_message(line.message)
            if event is not None:
                events.append(event._replace(time_us=self._time_us(line)))
            if len(events) >= MAX_EVENTS:
                return events
        self._catching_up = False
        return events

    def _is_new(self, line: LogLine) -> bool:
        """Whether it has not been told; counts what is missing before it."""
        if line.sequence is None or self._reached is None:
            return True
        before = self._reached.sequence
        if line.sequence <= before:
            return False
        if before >= 0:
            self.lost += line.sequence - before - 1
        self._reached = Reached(self._reached.boot, line.sequence)
        return True

    def _time_us(self, line: LogLine) -> int | None:
        """Where the line does not say: by its time since boot while catching up, else now."""
        if line.time_us is not None or line.boot_us is None or not self._catching_up:
            return line.time_us
        since_us = max(0, self._clock.monotonic_us() - line.boot_us)
        return self._clock.wall_us() - since_us

    def _boot(self) -> str:
        try:
            return self._boot_id.read_text(encoding="ascii").strip()
        except OSError:
            return ""

    def _load(self, state: Path) -> Reached | None:
        try:
            return msgspec.json.decode(state.read_bytes(), type=Reached)
        except (OSError, msgspec.MsgspecError):
            return None

    def _save(self) -> None:
        """Notes what the caller has taken: an event may come twice after a crash, never not at all."""
        if not self._told or self._state is None or self._reached is None:
            return
        self._told = False
        fresh = self._state.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(self._reached))
            fresh.replace(self._state)
        except OSError as error:
            _log.warning("kernel_log_state_unsaved path=%s %s", self._state, error)

    def close(self) -> None:
        """Notes how far it came, and closes."""
        if self._file is not None:
            self._told = True
            self._save()
            self._file.close()
            self._file = None
