"""The two kinds of file that a kernel log is read from: a device of records, and a growing file."""

from __future__ import annotations

import os
import select
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from threading import Event as Flag

from collectors.contract.source import UnsupportedError

_RECORD_BYTES = 16_384
"""Above the kernel's own limit (8 KiB), or a read would fail."""
_CHUNK_BYTES = 262_144
_LINE_BYTES = 65_536
_LOOK_S = 0.5
"""How often a file is looked at that nothing tells of."""


class _Lines:
    """Whole lines out of pieces; what a reader leaves is there for the next."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._rest = b""

    def add(self, data: bytes) -> Iterator[str]:
        """The lines that are whole now."""
        *whole, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_LINE_BYTES:]
        self._waiting.extend(whole)
        while self._waiting:
            yield self._waiting.popleft().decode("utf-8", "replace")


class RecordFile:
    """`/dev/kmsg`, or a pipe of such records.  Raises UnsupportedError where it may not be read."""

    def __init__(self, path: Path, *, from_end: bool) -> None:
        self._fd = open_to_read(path)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._lines = _Lines()
        self._ended = False
        self.overruns = 0
        """How often records were overwritten before they were read."""
        if from_end and stat.S_ISCHR(os.fstat(self._fd).st_mode):
            os.lseek(self._fd, 0, os.SEEK_END)

    def lines(self) -> Iterator[str]:
        """What there is now, line by line."""
        yield from self._lines.add(b"")
        while True:
            try:
                data = os.read(self._fd, _RECORD_BYTES)
            except BlockingIOError:
                return
            except BrokenPipeError:
                self.overruns += 1
                continue
            self._ended = not data
            if not data:
                return
            yield from self._lines.add(data)

    def wait(self, timeout_s: float) -> None:
        """Returns when there is more, or after that time."""
        if self._ended:  # a pipe without a writer is always ready, and never has anything
            Flag().wait(min(timeout_s, _LOOK_S))
        else:
            self._poll.poll(timeout_s * 1_000)

    def close(self) -> None:
        """Closes it."""
        os.close(self._fd)


class GrowingFile:
    """A log that a logging daemon writes, from its present end on, also when it is rotated or cut."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = open_to_read(path)
        self._place = os.lseek(self._fd, 0, os.SEEK_END)
        self._lines = _Lines()
        self.overruns = 0
        """How often it was cut below what had been read."""

    def lines(self) -> Iterator[str]:
        """What there is now, line by line."""
        yield from self._lines.add(b"")
        yield from self._read()
        if self._renewed():
            yield from self._read()

    def _read(self) -> Iterator[str]:
        while data := os.read(self._fd, _CHUNK_BYTES):
            self._place += len(data)
            yield from self._lines.add(data)

    def _renewed(self) -> bool:
        """Whether there is another file now, or the same from its beginning."""
        try:
            now, mine = self._path.stat(), os.fstat(self._fd)
            if (now.st_ino, now.st_dev) != (mine.st_ino, mine.st_dev):
                fresh = open_to_read(self._path)
                os.close(self._fd)
                self._fd = fresh
            elif now.st_size < self._place:
                self.overruns += 1
                os.lseek(self._fd, 0, os.SEEK_SET)
            else:
                return False
        except (OSError, UnsupportedError):
            return False  # between two files: the next look finds it
        self._place, self._lines = 0, _Lines()
        return True

    def wait(self, timeout_s: float) -> None:
        """Returns after a short time."""
        Flag().wait(min(timeout_s, _LOOK_S))

    def close(self) -> None:
        """Closes it."""
        os.close(self._fd)


def open_to_read(path: Path) -> int:
    """A descriptor that never blocks.  Raises UnsupportedError with what to do."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise UnsupportedError(
            f"{path} may not be read: give the agent CAP_SYSLOG (in its unit AmbientCapabilities="
            "CAP_SYSLOG and DeviceAllow=/dev/kmsg r), or for a file the group that owns it"
        ) from error
    except OSError as error:
        raise UnsupportedError(
            f"{path} cannot be read ({error.strerror}); in a container, mount the host's"
        ) from error


def is_growing(path: Path) -> bool:
    """Whether it is a plain file."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
