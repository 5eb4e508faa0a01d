"""Who has which GPU by a scheduler's mapping files: what is left over in them is not believed.

- A file of an earlier boot is left over: by the boot id in it; without one, when it
  is older than the boot and was there when the agent began to look.
- So is that of a job whose cgroup was there and has been gone for a while.
- Of several jobs on a GPU of which the last to begin is said not to share it, only that
  one has it: schedulers never hand out a GPU twice.
- Of several of which some have a cgroup, one that has had none for a while is over.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from collectors.attribution.boot import boot_id, boot_us
from collectors.attribution.cgroup import job_of_folder
from collectors.attribution.holders import SLURM, Holder, Seats, SourceAwayError
from collectors.attribution.mapping_files import (
    PLAIN_NAME,
    MappingError,
    MappingRecord,
    Stamp,
    parse_lines,
    parse_record,
    read_file,
)
from collectors.attribution.mapping_records import holder_of, known, slots_of, time_us
from collectors.attribution.places import Places
from collectors.attribution.pods import folders
from collectors.attribution.settings import AttributionSettings
from collectors.kit.clock import Clock

_MOST_FILES = 4_096
_SLACK_US = 60_000_000
_CONTROLLERS = ("memory", "devices", "cpuset", "freezer", "cpu", "systemd")
_log = logging.getLogger(__name__)


class _Seat(NamedTuple):
    """One job on some slots, by one file."""

    path: str
    slots: Sequence[int]
    holder: Holder
    sluid: str
    abandoned: bool
    """Whether it has had no cgroup for a while, which proves nothing by itself."""
    order: tuple[int, int]
    """Greater began later: its start, or when the file was written; the place in the file."""


class Mappings:
    """The mapping folders of a node."""

    def __init__(self, settings: AttributionSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._stamps: dict[str, tuple[Stamp, bool]] = {}
        """By file its last stamp, and whether it came while the agent looked."""
        self._looked = False
        self._grouped: dict[str, tuple[int, bool]] = {}
        """By job when its cgroup was last there (µs, monotonic), and whether it ever was."""
        self._ignored: dict[str, str] = {}
        self.sluids: dict[str, str] = {}
        """By SLUID the numbers of the jobs that have files."""

    @property
    def missing(self) -> dict[str, str]:
        """What is wrong with the files."""
        if not self._ignored:
            return {}
        path, reason = next(iter(self._ignored.items()))
        more = f" (and {len(self._ignored) - 1} more)" if len(self._ignored) > 1 else ""
        return {"job_mappings": f"{path} is ignored: {reason}{more}"}

    def poll(self, places: Places) -> Seats:
        """Who holds which slot by the files.  Raises SourceAwayError where a folder cannot be read."""
        ignored: dict[str, str] = {}
        seats: list[_Seat] = []
        stamps: dict[str, tuple[Stamp, bool]] = {}
        for path in self._files():
            try:
                seats += self._seats(path, places, stamps)
            except MappingError as error:
                ignored[path] = str(error)
            except FileNotFoundError:
                continue
            except OSError as error:
                ignored[path] = error.strerror or type(error).__name__
        self._stamps, self._looked = stamps, True
        self.sluids = {seat.sluid: seat.holder.name for seat in seats if seat.sluid}
        living = self._without_the_dead(seats, ignored)
        chosen = _chosen(living, ignored)
        self._say(ignored)
        return chosen

    def _files(self) -> list[str]:
        found: list[str] = []
        for folder in self._settings.job_mappings:
            try:
                with os.scandir(folder) as entries:
                    names = [
                        entry.path
                        for entry in entries
                        if PLAIN_NAME.fullmatch(entry.name)
                        or (entry.name.endswith(".json") and not entry.name.startswith("."))
                    ]
            except FileNotFoundError:
                continue
            except OSError as error:
                raise SourceAwayError(f"{folder}: {error.strerror}") from error
            found += sorted(names)
        return found[:_MOST_FILES]

    def _seats(
        self, path: str, places: Places, stamps: dict[str, tuple[Stamp, bool]]
    ) -> list[_Seat]:
        stamp, data = read_file(path)
        before = self._stamps.get(path)
        fresh = before[1] if before is not None else self._looked
        stamps[path] = (stamp, fresh)
        if path.endswith(".json"):
            record = parse_record(data)
            self._check_boot(record.boot, stamp, fresh=fresh or record.boot is not None)
            return [self._of_record(path, record, stamp, places)]
        self._check_boot(None, stamp, fresh=fresh)
        jobs = parse_lines(data, settled=before is not None and before[0] == stamp)
        slots = known(places.find(Path(path).name), Path(path).name)
        start_us = self._start_us(stamp.changed_ns // 1_000) if len(jobs) == 1 else None
        return [
            _Seat(path, slots, holder, "", abandoned=False, order=(0, number))
            for number, holder in enumerate(
                Holder(SLURM, job, start_us=start_us, shares=True) for job in jobs
            )
        ]

    def _check_boot(self, boot: str | None, stamp: Stamp, *, fresh: bool) -> None:
        """Raises MappingError for a file of an earlier boot."""
        here = boot_id(self._settings.proc)
        if boot is not None and here and boot != here:
            raise MappingError("written before the machine was booted")
        begun_us = boot_us(self._settings.proc)
        if not fresh and stamp.changed_ns // 1_000 < begun_us - _SLACK_US:
            raise MappingError("older than the machine's boot")

    def _of_record(self, path: str, record: MappingRecord, stamp: Stamp, places: Places) -> _Seat:
        start_us = time_us(record.start)
        holder = holder_of(record, self._start_us(start_us))
        began_us = stamp.changed_ns // 1_000 if start_us is None else start_us
        slots = slots_of(record, places)
        return _Seat(path, slots, holder, record.sluid or "", abandoned=False, order=(began_us, 0))

    def _start_us(self, told_us: int | None) -> int | None:
        """A start that can be: of this boot, and not to come."""
        if told_us is None:
            return None
        earliest_us = boot_us(self._settings.proc) - _SLACK_US
        return told_us if earliest_us <= told_us <= self._clock.wall_us() + 2_000_000 else None

    def _without_the_dead(self, seats: Sequence[_Seat], ignored: dict[str, str]) -> list[_Seat]:
        now_us = self._clock.monotonic_us()
        running = _running_jobs(self._settings.cgroups)
        names = {name for seat in seats for name in (seat.holder.name, seat.sluid) if name}
        # For a job that has not had one yet its time begins when it is first listed.
        self._grouped = {job: self._grouped.get(job, (now_us, False)) for job in names}
        self._grouped.update(dict.fromkeys(names & running, (now_us, True)))
        before_us = now_us - int(self._settings.dead_job_s * 1e6)
        living: list[_Seat] = []
        for seat in seats:
            ids = [name for name in (seat.holder.name, seat.sluid) if name]
            abandoned = all(self._grouped[name][0] < before_us for name in ids)
            if abandoned and any(self._grouped[name][1] for name in ids):
                ignored[seat.path] = f"job {seat.holder.name} is over: its cgroup is gone"
            else:
                living.append(seat._replace(abandoned=abandoned))
        return living

    def _say(self, ignored: dict[str, str]) -> None:
        for path, reason in ignored.items():
            if self._ignored.get(path) != reason:
                _log.warning("mapping_ignored path=%s reason=%s", path, reason)
        self._ignored = ignored


def _chosen(seats: Sequence[_Seat], ignored: dict[str, str]) -> Seats:
    by_slot: dict[int, list[_Seat]] = defaultdict(list)
    for seat in sorted(seats, key=lambda one: one.order):
        for slot in seat.slots:
            by_slot[slot].append(seat)
    return {slot: _holders(told, ignored) for slot, told in by_slot.items()}


def _holders(told: Sequence[_Seat], ignored: dict[str, str]) -> list[Holder]:
    """Of one slot's jobs, in order of their start, those that hold it."""
    jobs: dict[str, _Seat] = {}
    for seat in told:  # a record tells more of a job than a line does, and is later in order
        jobs[seat.holder.text] = seat
    kept = [seat for seat in jobs.values() if not seat.abandoned] or list(jobs.values())
    latest = max(kept, key=lambda one: one.order)
    if not latest.holder.shares:
        kept = [latest]
    for seat in jobs.values():
        if seat not in kept:
            ignored[seat.path] = f"its GPU is {latest.holder.text}'s by now"
    return [seat.holder for seat in kept]


def _running_jobs(cgroups: Path) -> set[str]:
    """Numbers and SLUIDs of the jobs that have a cgroup here."""
    return {job for folder in _job_folders(cgroups) if (job := job_of_folder(folder))}


def _job_folders(cgroups: Path) -> Iterator[str]:
    for entry in folders(cgroups / "system.slice"):
        if entry.name.endswith("slurmstepd.scope"):
            yield from (job.name for job in folders(entry.path))
    for controller in _CONTROLLERS:
        tops = [one for one in folders(cgroups / controller) if one.name.startswith("slurm")]
        users = [user for top in tops for user in folders(top.path)]
        for user in users:
            yield from (job.name for job in folders(user.path))
