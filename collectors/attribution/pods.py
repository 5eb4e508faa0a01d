"""The pods of a node, by the folders that the kubelet makes for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from collectors.attribution.cgroup import pod_of_folder

_MOST = 10_000
"""Folders looked at in one place: far above the kubelet's own limit of pods."""
_DEPTH = 4
_CONTROLLERS = ("", "memory", "devices", "pids", "systemd", "unified")
"""Of cgroup v1 any one will do."""


class PodFolder(NamedTuple):
    """A pod's folder of logs."""

    namespace: str
    name: str
    changed_ns: int
    """When a container was last begun in it."""

    @property
    def text(self) -> str:
        """`namespace/pod`."""
        return f"{self.namespace}/{self.name}"


def folders(path: Path | str) -> Iterator[os.DirEntry[str]]:
    """The folders in a folder, bounded; none where it cannot be read."""
    try:
        with os.scandir(path) as entries:
            for _, entry in zip(range(_MOST), entries, strict=False):
                if entry.is_dir(follow_symlinks=False):
                    yield entry
    except OSError:
        return


def pod_folders(logs: Path) -> dict[str, PodFolder]:
    """By UID all pods that have logs, dead ones too: `/var/log/pods/NAMESPACE_POD_UID`."""
    found: dict[str, PodFolder] = {}
    for entry in folders(logs):
        namespace, _, rest = entry.name.partition("_")
        name, _, uid = rest.partition("_")
        if namespace and name and uid:
            found[uid] = PodFolder(namespace, name, _changed_ns(entry))
    return found


def _changed_ns(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0


def live_pods(cgroups: Path) -> set[str] | None:
    """UIDs of the pods that have a cgroup; None where no pod's cgroup can be seen at all.

    The kubelet removes a pod's cgroup when its containers have ended, and
    keeps listing the pod itself until it is deleted.
    """
    for controller in _CONTROLLERS:
        roots = [one.path for one in folders(cgroups / controller) if "kube" in one.name]
        if roots:
            return {uid for root in roots for uid in _below(root, _DEPTH)}
    return None


def _below(path: str, depth: int) -> Iterator[str]:
    for entry in folders(path):
        uid = pod_of_folder(entry.name)
        if uid:
            yield uid
        elif depth > 0:
            yield from _below(entry.path, depth - 1)
