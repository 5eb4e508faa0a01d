"""What processes show: the job or pod that each belongs to, from files of `/proc`.

A process is (pid, start): the kernel uses numbers again, and a list of pids may
be older than the process that now has one of them.
"""

from __future__ import annotations

import os
import pwd
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from collectors.attribution.cgroup import GroupIdentity, parse_cgroup
from collectors.attribution.holders import KUBERNETES, SLURM, Holder, Seats
from collectors.attribution.pods import PodFolder
from collectors.attribution.settings import AttributionSettings
from collectors.contract.source import GpuProcess

MOST_PROCESSES = 4_096
"""Looked at in one poll, some 50 ms of work."""
_HELPERS = {"slurmstepd", "slurm_script", "sleep"}
"""Slurm's own processes, which compute nothing."""
_MOST_BYTES = 2**18
_JOB_VARIABLE = b"SLURM_JOB_ID="
_NO_PROCESSES = (
    "the host's processes are not visible: in a container run with hostPID (or mount the host's "
    "/proc and name it in `proc`); outside of one, /proc must not be mounted with hidepid"
)
_NO_ENVIRON = (
    "jobs whose cgroup is named by a SLUID are known by that only: give the agent CAP_SYS_PTRACE "
    "and CAP_DAC_READ_SEARCH, set CgroupJobIdPaths=yes, or have the prolog write mapping files"
)


class Shown(NamedTuple):
    """What the processes of one moment show."""

    seats: Seats
    busy: Mapping[int, Mapping[str, float | None]]
    """Slot → holder's text → ratio of SM time its processes used; None where not all say."""


class _Process(NamedTuple):
    start: int
    """Clock ticks from boot, field 22 of `stat`."""
    group: GroupIdentity
    job: str
    """By its environment, where its cgroup gives no number."""
    uid: int


class Processes:
    """The processes on a node's GPUs, each looked at once in its life."""

    def __init__(self, settings: AttributionSettings) -> None:
        self._proc = settings.proc
        self._known: dict[int, _Process] = {}
        self._listed: dict[tuple[int, int], int | None] = {}
        """(slot, pid) → start of the process that was meant when the pair was first listed."""
        self._names: dict[int, str] = {}
        self._foreign = in_container(settings.proc)
        self.missing: dict[str, str] = {}

    def poll(
        self,
        processes: Sequence[GpuProcess],
        folders: Mapping[str, PodFolder],
        sluids: Mapping[str, str],
    ) -> Shown:
        """Who holds which slot by its processes.

        `folders` are the pods' by UID, `sluids` the jobs' numbers by SLUID, as
        far as others have told them.
        """
        self.missing = {}
        if not self._sees_the_host():
            self.missing["processes"] = _NO_PROCESSES
            return Shown({}, {})
        asked = processes[:MOST_PROCESSES]
        if len(asked) < len(processes):
            self.missing["processes"] = f"only {len(asked)} of {len(processes)} are looked at"
        pids = {one.pid for one in asked}
        self._known = {pid: found for pid in pids if (found := self._look(pid)) is not None}
        meant = {(one.slot, one.pid): self._meant(one.slot, one.pid) for one in asked}
        self._listed = meant
        return self._shown([one for one in asked if self._is(one, meant)], folders, sluids)

    def _sees_the_host(self) -> bool:
        try:
            return (self._proc / "2/comm").read_bytes().strip() == b"kthreadd"
        except OSError:
            return False

    def _meant(self, slot: int, pid: int) -> int | None:
        if (slot, pid) in self._listed:
            return self._listed[slot, pid]
        known = self._known.get(pid)
        return None if known is None else known.start

    def _is(self, one: GpuProcess, meant: Mapping[tuple[int, int], int | None]) -> bool:
        """Whether the pid is still the process that the driver meant."""
        known = self._known.get(one.pid)
        return known is not None and known.start == meant[one.slot, one.pid]

    def _look(self, pid: int) -> _Process | None:
        """The process; None where it is gone, a helper, or may not be looked at."""
        try:
            # An open folder stays that of this process, whoever gets its number.
            place = os.open(self._proc / str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return self._read(pid, place)
        except PermissionError:
            self.missing["processes"] = (
                "some processes may not be looked at: no permission in /proc"
            )
            return None
        except (OSError, ValueError, IndexError):
            return None
        finally:
            os.close(place)

    def _read(self, pid: int, place: int) -> _Process | None:
        head, _, tail = _text(place, "stat").rpartition(")")
        fields = tail.split()
        start = int(fields[19])
        known = self._known.get(pid)
        if known is not None and known.start == start and (known.job or any(known.group)):
            return known
        if head.partition("(")[2] in _HELPERS:
            return None
        group = parse_cgroup(_text(place, "cgroup"))
        # Reading the memory of a process that hangs in a driver may hang too.
        quiet = group.job or group.pod or fields[0] == "D"
        job = "" if quiet else _job_of_environment(place)
        return _Process(start, group, job, _uid(place))

    def _shown(
        self,
        processes: Sequence[GpuProcess],
        folders: Mapping[str, PodFolder],
        sluids: Mapping[str, str],
    ) -> Shown:
        seats: dict[int, dict[str, Holder]] = defaultdict(dict)
        busy: dict[int, dict[str, float | None]] = defaultdict(dict)
        for one in sorted(processes, key=lambda one: (one.slot, one.pid)):
            holder = self._holder(self._known[one.pid], folders, sluids)
            if holder is None:
                continue
            seats[one.slot].setdefault(holder.text, holder)
            before = busy[one.slot].get(holder.text, 0.0)
            share = one.sm_utilization
            busy[one.slot][holder.text] = (
                None if before is None or share is None else before + share
            )
        return Shown({slot: list(held.values()) for slot, held in seats.items()}, busy)

    def _holder(
        self, process: _Process, folders: Mapping[str, PodFolder], sluids: Mapping[str, str]
    ) -> Holder | None:
        group = process.group
        if group.pod:
            folder = folders.get(group.pod)
            if folder is None:
                return Holder(KUBERNETES, f"pod/{group.pod}", group.pod, shares=True)
            return Holder(
                KUBERNETES, folder.text, group.pod, namespace=folder.namespace, shares=True
            )
        job = group.job or sluids.get(group.sluid, "") or process.job
        if group.sluid and not job:
            self.missing["environ"] = _NO_ENVIRON
        if not job and not group.sluid:
            return None
        uid = process.uid if group.uid is None else group.uid
        return Holder(SLURM, job or group.sluid, user=self._user(uid), shares=True)

    def _user(self, uid: int) -> str:
        """The user's name; root is nobody, and a container's names are not the host's."""
        if uid == 0 or self._foreign:
            return f"uid-{uid}" if uid else ""
        if uid not in self._names:
            if len(self._names) >= MOST_PROCESSES:
                self._names.clear()
            try:
                self._names[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                self._names[uid] = f"uid-{uid}"
        return self._names[uid]


def in_container(proc: Path) -> bool:
    """Whether the agent's own user names are probably not the host's."""
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    inside = "KUBERNETES_SERVICE_HOST" in os.environ or any(mark.exists() for mark in marks)
    return inside or proc != Path("/proc")


def _bytes(place: int, name: str) -> bytes:
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
    with open(file, "rb") as opened:  # noqa: PTH123 - a descriptor has no path
        return opened.read(_MOST_BYTES)


def _text(place: int, name: str) -> str:
    return _bytes(place, name).decode("utf-8", "replace")


def _uid(place: int) -> int:
    """The real user's number; the owner of the folder would be root where a process hides itself."""
    for line in _text(place, "status").splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    raise ValueError("a process without a user")


def _job_of_environment(place: int) -> str:
    """A user can write anything there: it is asked only where the cgroup gives no number."""
    try:
        variables = _bytes(place, "environ").split(b"\0")
    except PermissionError:
        return ""
    for variable in variables:
        value = variable.removeprefix(_JOB_VARIABLE)
        if value != variable and value.isdigit() and len(value) < 16:
            return value.decode()
    return ""
