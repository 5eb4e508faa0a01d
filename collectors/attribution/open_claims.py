"""The claims that are open, in a file that outlives the agent."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

from collectors.attribution.holders import Holder
from collectors.attribution.shares import Use
from collectors.contract.topics import Allocation

_log = logging.getLogger(__name__)


class OpenClaim(msgspec.Struct):
    """One holder of one slot, and what was published of it."""

    slot: int
    kind: str
    """The source: `slurm`, `kubernetes` or `process`."""
    holder: Holder
    allocation: Allocation
    misses: int = 0
    """Polls in a row in which it was not seen."""
    missed_us: int | None = None
    """When it was first not seen."""
    use: Use | None = None
    """What it used since it first shared the slot."""
    slices: int = 0
    """Of a MIG instance its compute slices; 0 for a whole GPU."""
    covered: bool = False
    """Whether its holder has the whole GPU, so that nothing is told of the instance."""


class Remembered(msgspec.Struct, frozen=True):
    """What an earlier life left."""

    boot: str
    seen_us: int
    """When the claims were last known to hold."""
    claims: list[OpenClaim]
    ended: list[Allocation] = []
    """Lately told ends: the telling may have died with the agent, so they are told again."""


class ClaimFile:
    """The file; without a path nothing is remembered."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.missing: dict[str, str] = {}

    def load(self) -> Remembered | None:
        """What is in it; an unreadable one counts as none and is replaced."""
        if self._path is None:
            return None
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Remembered)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            _log.error(
                "open_claims_unreadable path=%s reason=%s: what ended meanwhile stays open",
                self._path, error,
            )  # fmt: skip
            return None

    def save(self, remembered: Remembered) -> None:
        """Replaces it as a whole; a failure is told and tried again at the next call."""
        if self._path is None:
            return
        beside = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(msgspec.json.encode(remembered))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            self.missing = {"claims_file": f"{self._path}: {error.strerror}"}
        else:
            self.missing = {}
