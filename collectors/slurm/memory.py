"""What the watcher knows, in a file that outlives it."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import msgspec

from collectors.slurm.book import Remembered

_log = logging.getLogger(__name__)


class StateFile:
    """The file; what is lost with it comes back from the bus and slurmdbd, within the lookback."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = b""

    def load(self) -> Remembered | None:
        """What is in it; an unreadable one counts as none and is replaced."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Remembered)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            _log.error("state_unreadable path=%s reason=%s", self._path, error)
            return None

    async def save(self, remembered: Remembered) -> None:
        """Replaces it as a whole; a failure is told, and tried again at the next call."""
        data = msgspec.json.encode(remembered)
        if data == self._before:
            return
        try:
            await asyncio.to_thread(self._write, data)
        except OSError as error:
            _log.error("state_unwritable path=%s reason=%s", self._path, error.strerror)
        else:
            self._before = data

    def _write(self, data: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
