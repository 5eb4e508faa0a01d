"""Jobs that are over, as an epilog left their records: none is too short to be seen.

The folder `ended` beside the mapping files keeps a record for an hour after the
job, with its end.  Each is told once in an agent's life; told again, it is the
same claim.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from collectors.attribution.holders import Holder
from collectors.attribution.mapping_files import MappingError, parse_record, read_file
from collectors.attribution.mapping_records import holder_of, slots_of, time_us
from collectors.attribution.places import Places
from collectors.attribution.settings import AttributionSettings
from collectors.kit.clock import Clock

FOLDER = "ended"
_MOST_FILES = 4_096
_SLACK_US = 2_000_000


class Ended(NamedTuple):
    """Who had which slots until when (µs since 1970)."""

    slots: list[int]
    holder: Holder
    end_us: int


class EndedJobs:
    """The folders `ended` of a node."""

    def __init__(self, settings: AttributionSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._done: set[str] = set()
        """Paths that were told, or never will be."""

    def poll(self, places: Places) -> list[Ended]:
        """Those that were not there before.  One on a GPU that is not known yet is tried again."""
        paths = list(self._paths())
        self._done.intersection_update(paths)
        found: list[Ended] = []
        for path in paths:
            if path in self._done:
                continue
            try:
                one = self._read(path, places)
            except (MappingError, OSError):
                continue
            self._done.add(path)
            if one is not None:
                found.append(one)
        return found

    def _paths(self) -> Iterator[str]:
        left = _MOST_FILES
        for folder in self._settings.job_mappings:
            try:
                with os.scandir(Path(folder) / FOLDER) as entries:
                    names = [one.name for one in entries if not one.name.startswith(".")]
            except OSError:  # no epilog of ours, or nothing has ended
                continue
            taken = sorted(name for name in names if name.endswith(".json"))[:left]
            left -= len(taken)
            yield from (str(Path(folder) / FOLDER / name) for name in taken)

    def _read(self, path: str, places: Places) -> Ended | None:
        """None where its times cannot be.  Raises MappingError, OSError."""
        record = parse_record(read_file(path)[1])
        start_us, end_us = time_us(record.start), time_us(record.end)
        latest_us = self._clock.wall_us() + _SLACK_US
        if start_us is None or end_us is None or not start_us <= end_us <= latest_us:
            return None
        return Ended(slots_of(record, places), holder_of(record, start_us), end_us)
