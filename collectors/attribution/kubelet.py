"""What the kubelet says: which pod holds which device.

It says neither a pod's UID nor whether it still runs, and kubelets before
1.34 list pods that ended long ago.  The rule here: a pod whose UIDs are all
without a cgroup is dead.  Where a device is still left to several pods, the one
that was listed last holds it, of those first seen at once the one that last
began a container; where that does not tell them apart, nobody does.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from collectors.attribution.call_error import CallError
from collectors.attribution.holders import KUBERNETES, Holder, Seats, SourceAwayError
from collectors.attribution.places import Places
from collectors.attribution.pod_messages import PodDevices, parse_pods
from collectors.attribution.pods import PodFolder, live_pods
from collectors.attribution.settings import AttributionSettings
from collectors.kit.clock import Clock

_LIST = "/v1.PodResourcesLister/List"
_UNSEEN = (
    "whether pods are alive cannot be told of all: show the agent the host's /sys/fs/cgroup and "
    "/var/log/pods"
)
_HINT = "; the socket is root's: give the agent CAP_DAC_OVERRIDE, or leave pods to their cgroups"
_DRA = re.compile(r"gpu-\d+(-mig-.*)?")
"""Names of NVIDIA's driver for dynamic resources: an index or a minor number, by its version."""
_GPU_NAMES = ("GPU-", "MIG-", "gpu-", "mig-", "nvidia")
PodFolders = Mapping[str, PodFolder]


class _Pod(NamedTuple):
    """A pod that the kubelet lists, with what the node's folders know of it."""

    listed: PodDevices
    uid: str
    """"" where it is not known, or not which of several."""
    age: tuple[int, int]
    """When it was first listed, and when a container of it was last begun: greater is newer."""

    @property
    def text(self) -> str:
        """`namespace/pod`."""
        return f"{self.listed.namespace}/{self.listed.name}"

    def holder(self, *, shares: bool) -> Holder:
        """As a holder of one of its devices."""
        namespace = self.listed.namespace
        return Holder(KUBERNETES, self.text, self.uid, namespace=namespace, shares=shares)


class Kubelet:
    """The kubelet of this node; a node without one has no socket, and that is no failure.

    Where it is `expected` or has once answered, a missing socket is one.
    """

    def __init__(
        self, settings: AttributionSettings, clock: Clock, *, expected: bool = False
    ) -> None:
        self._settings, self._clock = settings, clock
        self._answered = expected
        self._first: dict[tuple[str, str], int] = {}
        self.missing: dict[str, str] = {}

    def poll(self, places: Places, folders: PodFolders) -> Seats:
        """Who holds which slot by the kubelet's word.  Raises SourceAwayError.

        `folders` are the pods' folders of logs, by UID.
        """
        self.missing = {}
        if not self._answered and not self._is_there():
            return {}
        listed = [pod for pod in self._listed() if any(map(_may_be_gpu, pod.devices))]
        self._answered = True
        return self._seats(places, self._alive(listed, folders))

    def _is_there(self) -> bool:
        try:
            self._settings.pod_resources.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise SourceAwayError(
                f"{self._settings.pod_resources}: {error.strerror}{_HINT}"
            ) from error
        return True

    def _listed(self) -> list[PodDevices]:
        try:
            # Of an extra, and only where there is a kubelet.
            from collectors.attribution.grpc_call import call  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise SourceAwayError(
                f"the kubelet's answers need the package {error.name}: "
                "pip install 'petawatch[kubernetes]'"
            ) from error
        path = self._settings.pod_resources
        try:
            answer = call(path, _LIST, b"", clock=self._clock, timeout_s=self._settings.timeout_s)
            return parse_pods(answer)
        except (CallError, ValueError) as error:
            hint = "" if os.access(path, os.W_OK, effective_ids=True) else _HINT
            raise SourceAwayError(f"{path}: {error}{hint}") from error

    def _alive(self, listed: Iterable[PodDevices], folders: PodFolders) -> list[_Pod]:
        uids: dict[tuple[str, str], list[str]] = defaultdict(list)
        for uid, folder in folders.items():
            uids[folder.namespace, folder.name].append(uid)
        living = live_pods(self._settings.cgroups)
        now_us = self._clock.monotonic_us()
        pods: list[_Pod] = []
        first: dict[tuple[str, str], int] = {}
        for pod in listed:
            key = (pod.namespace, pod.name)
            first[key] = self._first.get(key, now_us)
            mine = uids.get(key, [])
            if living is None or not mine:
                self.missing["dead_pods"] = _UNSEEN
            elif not (mine := [uid for uid in mine if uid in living]):
                continue
            changed_ns = max((folders[uid].changed_ns for uid in mine), default=0)
            pods.append(_Pod(pod, mine[0] if len(mine) == 1 else "", (first[key], changed_ns)))
        self._first = first
        return pods

    def _seats(self, places: Places, pods: Sequence[_Pod]) -> Seats:
        by_device: dict[str, list[_Pod]] = defaultdict(list)
        for pod in pods:
            for device in pod.listed.devices:
                by_device[device].append(pod)
        seats: dict[int, list[Holder]] = defaultdict(list)
        for device, claimants in by_device.items():
            slots = places.find(device) if _may_be_gpu(device) else ()
            if not slots and _DRA.fullmatch(device):
                self.missing["kubernetes_devices"] = f"{device} names no GPU for certain"
            pod = self._one_of(device, claimants) if slots else None
            for slot in slots:
                holder = None if pod is None else pod.holder(shares=_shares(device))
                if holder is not None and holder not in seats[slot]:
                    seats[slot].append(holder)
        return {slot: holders for slot, holders in seats.items() if holders}

    def _one_of(self, device: str, pods: Sequence[_Pod]) -> _Pod | None:
        ordered = sorted(pods, key=lambda one: one.age)
        if len(ordered) == 1 or ordered[-1].age > ordered[-2].age:
            return ordered[-1]
        names = ", ".join(one.text for one in ordered[:4])
        self.missing["kubernetes_devices"] = f"{device} is listed for several pods: {names}"
        return None


def _may_be_gpu(device: str) -> bool:
    """Names of other makers' plug-ins could be taken for a GPU's number."""
    return device.startswith(_GPU_NAMES)


def _shares(device: str) -> bool:
    return "::" in device or "/vgpu" in device
