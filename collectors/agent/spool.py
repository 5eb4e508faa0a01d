"""The agent's disk: what the bus could not take, kept in order until it can."""

from __future__ import annotations

import asyncio
import glob
import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from collectors.agent.spool_file import SpoolFile
from collectors.contract.bus import BusUnavailableError, Message
from collectors.contract.topics import ALLOC, FACTS, GPU
from collectors.kit.clock import Clock
from collectors.kit.sqlite_schema import OFFSET_BITS

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
SPOOL_BYTES = 512 * 2**20
_KEEP_S = 72 * 3600
"""The pipeline refuses records that are older."""
COMPACTED = (ALLOC, FACTS)
"""Endings of topics in which the last record of a key counts: a fresh one must not overtake
one that waits."""
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Kept(NamedTuple):
    """Where records stand in a file; a file that was set aside takes its positions with it."""

    file: int
    positions: tuple[int, ...]


class Spool:
    """A bounded file of records, emptied in order; kill -9 and a power cut leave it whole.

    It outlives its disk: while the file cannot be written `append` says so,
    and a file that is broken is set aside and begun anew.  `left`, `bytes`,
    `dropped` and `holds_compacted` are as of the last call.
    """

    def __init__(
        self, path: Path, clock: Clock, *, topic_prefix: str = "", most_bytes: int = SPOOL_BYTES
    ) -> None:
        self._path, self._clock, self._most_bytes = path, clock, most_bytes
        self._gpu = topic_prefix + GPU
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._file: SpoolFile | None = None
        self._number = 0
        self._given = Kept(0, ())
        self._passed: dict[int, int] = {}
        self._unsaved = self._carried = self._saved = 0
        self.left = self.bytes = 0
        """Records in the file, and what they take."""
        self.holds_compacted = False
        self.set_aside = 0
        """Files that were broken, since the start."""
        self.reason = ""
        """Why it cannot be used now."""

    @property
    def dropped(self) -> int:
        """Records that were dropped since the file was made."""
        return self._saved + self._carried + self._unsaved

    async def open(self) -> None:
        """Opens or creates the file.

        Raises BusUnavailableError where another process has it; whatever else
        is wrong is logged, and may be over at the next call.
        """
        for _ in range(2):  # the second time a broken file has been set aside
            try:
                await self._call(lambda _: None)
            except BusUnavailableError as error:
                if isinstance(error.__cause__, BlockingIOError):
                    raise
            else:
                return

    async def append(self, messages: Sequence[Message]) -> Kept:
        """Keeps messages.  Raises BusUnavailableError: none of them is kept."""
        positions = await self._call(lambda file: file.keep(messages))
        await self._save_dropped()
        return Kept(self._number, tuple(positions))

    async def remove(self, kept: Kept) -> None:
        """Removes what was sent after all; where that fails, it is sent again."""
        if kept.file == self._number and kept.positions:
            await self._try(lambda file: file.remove(kept.positions))

    async def next(self, most: int = 500, but: Collection[str] = ()) -> list[Message]:
        """The oldest of one topic, none of those in `but`; empty where none can be had now."""

        def find(file: SpoolFile) -> list[tuple[int, Message]]:
            file.expire(self._gpu, _KEEP_S)
            return file.peek(most, but, self._passed)

        found = await self._try(find) or []
        self._given = Kept(self._number, tuple(position for position, _ in found))
        return [message for _, message in found]

    async def done(self) -> None:
        """What `next` returned has been sent: it is removed, and not returned again."""
        given, self._given = self._given, Kept(0, ())
        if given.file != self._number or not given.positions:
            return
        last = given.positions[-1]
        self._passed[last >> OFFSET_BITS] = last

        def pass_on(file: SpoolFile) -> None:
            file.pass_on(last)
            if file.left() == (0, 0):
                file.shrink()

        await self._try(pass_on)

    async def check(self) -> None:
        """Looks whether a file that could not be used can be now."""
        await self._try(lambda _: None)

    def add_dropped(self, count: int) -> None:
        """Counts records that were dropped in memory; the file remembers them too."""
        self._unsaved += count

    async def _save_dropped(self) -> None:
        count = self._unsaved
        if count and await self._try(lambda file: (file.add_dropped(count), True)):
            self._unsaved -= count

    async def close(self) -> None:
        """Closes the file, and says what stays in it; another process may have it then."""
        if self.left:
            _log.warning(
                "spool_left records=%d bytes=%d: they stay on disk until the next start sends them",
                self.left, self.bytes,
            )  # fmt: skip
        await self._save_dropped()
        await asyncio.get_running_loop().run_in_executor(self._executor, self._close)
        self._executor.shutdown(wait=False)

    async def _try(self, work: Callable[[SpoolFile], _T]) -> _T | None:
        try:
            return await self._call(work)
        except BusUnavailableError:
            return None

    async def _call(self, work: Callable[[SpoolFile], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, work)

    def _run(self, work: Callable[[SpoolFile], _T]) -> _T:
        try:
            if self._file is None:
                self._file = self._opened()
            result = work(self._file)
        except (sqlite3.Error, BusUnavailableError, OSError) as error:
            self._failed(error)
            raise BusUnavailableError(self.reason) from (error.__cause__ or error)
        except Exception as error:
            # It is no log of ours that reads like that.
            self._say(error)
            self._set_aside()
            raise BusUnavailableError(self.reason) from error
        self._look(self._file)
        if self.reason:
            _log.warning("spool_works_again path=%s", self._path)
            self.reason = ""
        return result

    def _opened(self) -> SpoolFile:
        file = SpoolFile(self._path, self._clock, self._most_bytes)
        if self._carried:
            file.add_dropped(self._carried)
            self._carried = 0
        return file

    def _look(self, file: SpoolFile) -> None:
        self.left, self.bytes = file.left()
        self.holds_compacted = file.holds(COMPACTED)
        self._saved = file.dropped()

    def _failed(self, error: Exception) -> None:
        """Says what is wrong, once; a file that is broken is set aside, any other opened again."""
        cause = error if isinstance(error, sqlite3.Error) else error.__cause__
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        self._say(error)
        is_alien = isinstance(error, BusUnavailableError) and cause is None
        if code in _BROKEN or is_alien:
            self._set_aside()
        elif code != sqlite3.SQLITE_FULL:  # from a full disk it can still be read
            self._close()

    def _say(self, error: Exception) -> None:
        reason = f"spool {self._path}: {error}"
        in_use = isinstance(error.__cause__, BlockingIOError)
        if reason != self.reason and not in_use:  # of which whoever opens it hears by exception
            _log.error("spool_failed %s: records wait in memory until it works", reason)
        self.reason = reason

    def _set_aside(self) -> None:
        """Renames the file with its companions; the next call begins a new one."""
        was_known = self._file is not None
        self._close()
        aside = f"{self._path.name}.broken-{self._clock.wall_us() // 1_000_000}"
        try:
            # One is enough to look into; a failing disk must not be filled with them.
            for old in self._path.parent.glob(f"{glob.escape(self._path.name)}.broken-*"):
                old.unlink()
            for ending in ("", "-wal", "-shm"):
                part = self._path.with_name(self._path.name + ending)
                if part.exists():
                    part.replace(part.with_name(aside + ending))
        except OSError as error:
            _log.error("spool_not_set_aside path=%s reason=%s", self._path, error.strerror)
            return
        text = str(self.left) if was_known else "an unknown number of"
        _log.error("spool_set_aside path=%s as=%s with=%s records", self._path, aside, text)
        self._carried += self._saved + self.left
        self._saved = self.left = self.bytes = 0
        self.holds_compacted = False
        self.set_aside += 1
        self._number += 1
        self._passed.clear()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


async def to_its_end(work: asyncio.Task[Any]) -> None:
    """Waits for the disk, a cancellation notwithstanding: its thread goes on with what it has
    begun, and only afterwards is it known what it holds."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
