"""Which MIG instances a GPU is divided into now, as the driver lists them."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from collectors.contract.identity import pack_slot, unpack_slot
from collectors.contract.source import TransientError, UnsupportedError
from collectors.nvml.api import Nvml
from collectors.nvml.errors import error_for

_OLD_UUID = re.compile(r"MIG-GPU-[0-9a-fA-F-]+/(?P<gi>\d+)/(?P<ci>\d+)")
"""Before R470 an instance was named by its GPU and its numbers."""
_PROFILES = 0x12
"""NVML_GPU_INSTANCE_PROFILE_COUNT; numbers that a driver does not know are refused one by one."""
_SAME_MEMORY = 0.1
_BY_INDEX = "nvmlDeviceGetMigDeviceHandleByIndex"
_NOT_THERE = frozenset({2, 6})
"""INVALID_ARGUMENT and NOT_FOUND."""


@dataclass(frozen=True, slots=True)
class Found:
    """One compute instance; its UUID is its name, since handles and numbers are used again."""

    handle: Any
    uuid: str
    slot: int
    gi: int
    profile: str
    sms: int
    gi_slices: int
    ci_slices: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of GPU instance that the GPU can be divided into."""

    slices: int
    sms: int
    memory_mb: int


def is_divided(nvml: Nvml, handle: Any) -> bool:
    """Whether MIG mode is on now; a change of it that waits for a reset counts as none."""
    try:
        return bool(nvml.ask("nvmlDeviceGetMigMode", handle)[0])
    except UnsupportedError:
        return False


def find_instances(nvml: Nvml, handle: Any, parent_slot: int) -> list[Found]:
    """All compute instances, in order of slot.

    The driver's numbering has gaps: a number without an instance says nothing
    of the next.  Raises TransientError where the list would not be whole, and
    DeviceLostError, DriverGoneError or RestartNeededError.
    """
    try:
        room = nvml.number("nvmlDeviceGetMaxMigDeviceCount", handle)
        by_index = nvml.function(_BY_INDEX)
    except UnsupportedError:
        return []
    found: list[Found] = []
    for index in range(room):
        instance = ctypes.c_void_p()
        code = by_index(handle, index, ctypes.byref(instance))
        if code in _NOT_THERE:
            continue
        if code:
            raise error_for(code, _BY_INDEX)
        with contextlib.suppress(UnsupportedError):
            found.append(_describe(nvml, instance, parent_slot))
    return sorted(found, key=lambda one: one.slot)


def _describe(nvml: Nvml, handle: Any, parent_slot: int) -> Found:
    uuid = nvml.text("nvmlDeviceGetUUID", handle)
    gi, ci = _numbers(nvml, handle, uuid)
    attributes = nvml.ask("nvmlDeviceGetAttributes", handle)
    name = _or_empty(lambda: nvml.text("nvmlDeviceGetName", handle))
    return Found(
        handle, uuid, pack_slot(unpack_slot(parent_slot)._replace(gi=gi, ci=ci)), gi,
        name.partition(" MIG ")[2], int(attributes.multiprocessorCount),
        int(attributes.gpuInstanceSliceCount), int(attributes.computeInstanceSliceCount),
        int(attributes.memorySizeMB),
    )  # fmt: skip


def _numbers(nvml: Nvml, handle: Any, uuid: str) -> tuple[int, int]:
    old = _OLD_UUID.fullmatch(uuid)
    if old is not None:
        return int(old["gi"]), int(old["ci"])
    return (
        nvml.number("nvmlDeviceGetGpuInstanceId", handle),
        nvml.number("nvmlDeviceGetComputeInstanceId", handle),
    )


def _or_empty(call: Callable[[], str]) -> str:
    try:
        return call()
    except (TransientError, UnsupportedError):
        return ""


def gpu_instance_profiles(nvml: Nvml, handle: Any) -> list[Profile]:
    """What the GPU can be divided into; empty where the driver does not say."""
    profiles: list[Profile] = []
    for number in range(_PROFILES):
        try:
            one = nvml.ask("nvmlDeviceGetGpuInstanceProfileInfo", handle, number, 1)
        except (TransientError, UnsupportedError):
            continue
        profiles.append(
            Profile(int(one.sliceCount), int(one.multiprocessorCount), int(one.memorySizeMB))
        )
    return profiles


def gpu_instance_sms(members: list[Found], profiles: list[Profile]) -> int:
    """SMs of the GPU instance that these compute instances are in.

    Its profile tells, found by slices and memory (a compute instance's own
    count may leave some out); else its compute instances', by their slices.
    """
    first = members[0]
    alike = [x for x in profiles if x.slices == first.gi_slices and x.memory_mb]
    for one in sorted(alike, key=lambda x: abs(x.memory_mb - first.memory_mb)):
        if abs(one.memory_mb - first.memory_mb) <= _SAME_MEMORY * one.memory_mb:
            return one.sms
        break
    slices = sum(one.ci_slices for one in members)
    sms = sum(one.sms for one in members)
    return sms if slices >= first.gi_slices or not slices else sms * first.gi_slices // slices
