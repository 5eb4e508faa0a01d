"""What the text of `/proc/<pid>/cgroup` says: a Slurm job, a Kubernetes pod, or neither.

Forms, of cgroup v1 and v2 alike:

- Slurm: `/slurm[_NODE]/uid_U/job_J/step_S/…`, `/system.slice/[NODE_]slurmstepd.scope/job_J/…`,
  and from 26.05 on a SLUID, `s` and 13 characters of Crockford's base 32, for `job_J`
  (man cgroup.conf, CgroupJobIdPaths);
- Kubernetes: `…kubepods…-pod<uid, - as _>.slice/…` of the systemd driver, also behind colons as
  containerd writes it for v1, `/kubepods/burstable/pod<uid>/…` of the other.

A reader in a container sees paths that begin with `/..`, and may miss their first parts.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SLURM = re.compile(
    r"^(?P<above>(?:/[^/]+)*?)/(?:[^/]*slurmstepd\.scope|slurm(?:_[^/]+)?)(?:/uid_(?P<uid>\d+))?"
    r"/(?:job_(?P<job>\d+)|(?P<sluid>s[0-9A-HJKMNP-TV-Z]{13}))(?:/|$)"
)
_POD = re.compile(
    r"^(?P<above>(?:/[^/:]+)*?)/(?:[^/:]*kubepods[^/:]*-)?pod"
    r"(?P<uid>[0-9a-f]{8}[0-9a-f_-]{24,28})(?:\.slice)?(?:[/:]|$)"
)
_USERS = "user.slice"
"""Below it a user makes groups of whatever name: they prove nothing."""


class GroupIdentity(NamedTuple):
    """Whose a process is; `job`, `sluid` and `pod` are empty where it says nothing of them."""

    job: str = ""
    sluid: str = ""
    pod: str = ""
    uid: int | None = None
    """The user's number, where the path holds it."""


NOBODYS = GroupIdentity()


def parse_cgroup(text: str) -> GroupIdentity:
    """Whose the process is.

    Slurm goes before Kubernetes where both are named, whichever is inside the
    other: it is Slurm that hands out the GPUs there, and its job is the finer
    one.  Of nested names of one kind the outermost counts, as what is below it
    belongs to the job itself.
    """
    paths = [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]
    for path in paths:
        match = _SLURM.match(path)
        if match is not None and _USERS not in match["above"]:
            uid = None if match["uid"] is None else int(match["uid"])
            return GroupIdentity(match["job"] or "", match["sluid"] or "", "", uid)
    for path in paths:
        match = _POD.match(path)
        if match is not None and _USERS not in match["above"]:
            return GroupIdentity(pod=match["uid"].replace("_", "-"))
    return NOBODYS


def pod_of_folder(name: str) -> str:
    """The pod's UID in the name of a cgroup's folder, "" where it is none."""
    match = _POD.match(f"/{name}")
    return "" if match is None else match["uid"].replace("_", "-")


def job_of_folder(name: str) -> str:
    """The job's number or SLUID in the name of a folder below Slurm's, "" where it is none."""
    match = _SLURM.match(f"/slurm/{name}")
    return "" if match is None else match["job"] or match["sluid"] or ""
