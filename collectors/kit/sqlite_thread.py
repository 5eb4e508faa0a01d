"""The one thread that works on a SQLite log, so that the event loop never waits on a disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from collectors.contract.bus import BusUnavailableError
from collectors.kit.clock import Clock
from collectors.kit.sqlite_file import LogFile

_T = TypeVar("_T")


class LogThread:
    """Opens the log at the first call and serves one call after the other."""

    def __init__(self, path: Path, clock: Clock, *, read_only: bool, fsync: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._clock = clock
        self._fsync = fsync
        self._file: LogFile | None = None
        self._closed = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="bus-log")

    async def call(self, work: Callable[[LogFile], _T]) -> _T:
        """What `work` returns.  Raises BusUnavailableError where the file fails."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, work)

    def _run(self, work: Callable[[LogFile], _T]) -> _T:
        try:
            if self._file is None:
                self._file = LogFile(
                    self.path, self._clock, read_only=self.read_only, fsync=self._fsync
                )
            return work(self._file)
        except sqlite3.Error as error:
            raise BusUnavailableError(f"the bus log {self.path} failed: {error}") from error

    async def close(self) -> None:
        """Closes the file after the calls before it; the thread ends.  Once is enough."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._executor, self._close)
        self._executor.shutdown(wait=False)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
