"""Who holds which GPU, as exporters' labels say: allocation records, over restarts too.

An open claim is kept in a small file, so that after kill -9 it goes on as the
same record, and one whose holder has gone meanwhile ends when it was last seen.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.topics import PRECEDENCE, Allocation, Subject
from collectors.scrape.series import Holder

_log = logging.getLogger(__name__)
_SAVE_US = 60_000_000
KEPT_US = 900_000_000
"""A node that is silent for longer has its claims ended when it was last heard."""


class OpenClaim(msgspec.Struct):
    """One holder on one slot; `seen_us` is when a page last said so."""

    node: str
    slot: str
    kind: str
    name: str
    namespace: str
    from_us: int
    seen_us: int

    def allocation(self, known_us: int, to_us: int | None) -> Allocation:
        """The record.  No tenant is named: the site maps namespaces and accounts to tenants."""
        holder = Holder(self.kind, self.name, self.namespace)
        return Allocation(
            f"scrape:{self.node}:{self.kind}", f"{self.slot} {holder.text} {self.from_us}",
            tenant="", project="", job=self.name, subjects=(Subject(self.node, (self.slot,)),),
            from_us=self.from_us, to_us=to_us, known_us=known_us,
            precedence=PRECEDENCE["scheduler"], namespace=self.namespace,
        )  # fmt: skip


class Claims:
    """The open claims of all nodes.  `path` None keeps them in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._open: dict[str, dict[tuple[int, Holder], OpenClaim]] = {}
        self._dirty = False
        self._saved_us = 0
        for claim in _load(path):
            key = (parse_slot(claim.slot), Holder(claim.kind, claim.name, claim.namespace))
            self._open.setdefault(claim.node, {})[key] = claim

    def update(
        self, node: str, holders: Mapping[int, Iterable[Holder]], time_us: int
    ) -> list[Allocation]:
        """What began and ended, given who is on which slot of a node now."""
        known = self._open.setdefault(node, {})
        now = {(slot, holder) for slot, several in holders.items() for holder in several}
        out = [
            self._end(known, key, time_us)
            for key, claim in list(known.items())
            if key not in now or time_us - claim.seen_us > KEPT_US
        ]
        for key in now:
            if key in known:
                known[key].seen_us = time_us
                continue
            slot, holder = key
            claim = OpenClaim(node, slot_text(slot), *holder, time_us, time_us)
            known[key] = claim
            self._dirty = True
            out.append(claim.allocation(time_us, None))
        return out

    def expire(self, time_us: int) -> list[Allocation]:
        """Ends the claims of nodes that have been silent for too long."""
        return [
            self._end(known, key, time_us)
            for known in self._open.values()
            for key, claim in list(known.items())
            if time_us - claim.seen_us > KEPT_US
        ]

    def _end(
        self, known: dict[tuple[int, Holder], OpenClaim], key: tuple[int, Holder], time_us: int
    ) -> Allocation:
        claim = known.pop(key)
        self._dirty = True
        late = time_us - claim.seen_us > KEPT_US
        # The page that no longer says so ends it: between two pages the later is the nearer bound
        # of what was billed, except after a silence.
        return claim.allocation(time_us, claim.seen_us if late else time_us)

    def save(self, time_us: int, *, now: bool = False) -> None:
        """Writes the file where something changed, and now and then when each was last seen."""
        due = self._dirty or time_us - self._saved_us >= _SAVE_US or now
        if self._path is None or not due:
            return
        rows = [claim for known in self._open.values() for claim in known.values()]
        part = self._path.with_suffix(".part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part.write_bytes(msgspec.json.encode(rows))
            os.replace(part, self._path)  # noqa: PTH105 - both are of one folder
        except OSError as error:
            _log.warning("claims_not_saved path=%s reason=%s", self._path, error)
        self._dirty, self._saved_us = False, time_us


def _load(path: Path | None) -> list[OpenClaim]:
    if path is None:
        return []
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[OpenClaim])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        _log.warning("claims_unreadable path=%s reason=%s", path, error)
        return []
