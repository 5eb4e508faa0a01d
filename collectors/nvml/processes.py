"""Which processes compute on a GPU and its instances, and how much of its SMs they take."""

from __future__ import annotations

import ctypes
import struct
from collections import defaultdict
from typing import Any, NamedTuple

from collectors.contract.source import GpuProcess, TransientError, UnsupportedError
from collectors.nvml.api import Nvml
from collectors.nvml.errors import error_for
from collectors.nvml.events import instance_slot

_INSUFFICIENT_SIZE, _NOT_FOUND = 7, 6
_GROWS_AT_MOST = 4
_BYTES_AT_MOST = 2**42
_UTILISATION = struct.Struct("=I4xQI12x")
"""nvmlProcessUtilizationSample_t: pid, stamp, SM %, and three more."""
_UTILISATION_CALL = "nvmlDeviceGetProcessUtilization"


class _Layout(NamedTuple):
    """The function that a driver has, and the struct that it fills: pid, bytes, gi and ci."""

    name: str
    entry: struct.Struct
    has_instances: bool = True


def process_layout(nvml: Nvml) -> _Layout:
    """What this driver's library speaks.

    R530 filled structs of 32 bytes by the function that fills 24 before and
    after it; that release alone has the one function and lacks the other
    (nvitop tells it in the same way).
    """
    name = "nvmlDeviceGetComputeRunningProcesses"
    middle = nvml.has("nvmlDeviceGetConfComputeMemSizeInfo")
    if nvml.has(f"{name}_v3"):
        longer = middle and not nvml.has("nvmlDeviceGetRunningProcessDetailList")
        return _Layout(f"{name}_v3", struct.Struct("=I4xQII8x" if longer else "=I4xQII"))
    if nvml.has(f"{name}_v2"):
        return _Layout(f"{name}_v2", struct.Struct("=I4xQII"))
    return _Layout(name, struct.Struct("=I4xQ"), has_instances=False)


class ProcessReader:
    """Reads one GPU; `divided` is whether it is in MIG mode, where nothing says who uses the SMs."""

    def __init__(self, nvml: Nvml, handle: Any, slot: int) -> None:
        self._nvml, self._handle, self._slot = nvml, handle, slot
        self._layout: _Layout | None = None
        self._seen_us = 0
        self._no_utilisation = False

    def read(self, *, divided: bool) -> list[GpuProcess]:
        """Raises as `Device.processes`."""
        if self._layout is None:
            self._layout = process_layout(self._nvml)
        entries = self._entries(self._layout)
        shares = {} if divided or not entries else self._utilisation()
        return [
            GpuProcess(
                slot, pid, memory, None if shares is None or divided else shares.get(pid, 0.0)
            )
            for (slot, pid), memory in entries.items()
        ]

    def _entries(self, layout: _Layout) -> dict[tuple[int, int], int | None]:
        """Bytes by (slot, pid); a process with several contexts is one."""
        found: dict[tuple[int, int], int | None] = {}
        for pid, used, *instance in layout.entry.iter_unpack(self._filled(layout)):
            if pid == 0:
                continue
            slot = instance_slot(self._slot, *instance) if layout.has_instances else self._slot
            memory = used if used <= _BYTES_AT_MOST else None
            before = found.get((slot, pid))
            found[slot, pid] = memory if before is None else before + (memory or 0)
        return found

    def _filled(self, layout: _Layout) -> bytes:
        function = self._nvml.function(layout.name)
        count = ctypes.c_uint(0)
        code = function(self._handle, ctypes.byref(count), None)
        for _ in range(_GROWS_AT_MOST):
            if code != _INSUFFICIENT_SIZE:
                break
            count.value = count.value * 2 + 5  # more may have begun meanwhile
            room = ctypes.create_string_buffer(layout.entry.size * count.value)
            code = function(self._handle, ctypes.byref(count), room)
            if code == 0:
                return room.raw[: layout.entry.size * count.value]
        if code:
            raise error_for(code, layout.name)
        return b""

    def _utilisation(self) -> dict[int, float] | None:
        """SM ratio by pid since the last question, those that used none left out; None where the
        driver has nothing to say."""
        if self._no_utilisation:
            return None
        try:
            samples = self._samples()
        except UnsupportedError:
            self._no_utilisation = True
            return None
        except TransientError:
            return None
        ratios: defaultdict[int, list[float]] = defaultdict(list)
        for pid, stamp_us, percent in samples:
            if stamp_us > self._seen_us and percent <= 100:
                ratios[pid].append(percent / 100)
        self._seen_us = max([self._seen_us, *(stamp_us for _, stamp_us, _ in samples)])
        return {pid: sum(each) / len(each) for pid, each in ratios.items()} or None

    def _samples(self) -> list[tuple[int, int, int]]:
        function = self._nvml.function(_UTILISATION_CALL)
        count, since = ctypes.c_uint(0), ctypes.c_ulonglong(self._seen_us)
        code = function(self._handle, None, ctypes.byref(count), since)
        if code in {0, _NOT_FOUND}:
            return []
        room = ctypes.create_string_buffer(_UTILISATION.size * count.value)
        if code == _INSUFFICIENT_SIZE:
            code = function(self._handle, room, ctypes.byref(count), since)
        if code:
            raise error_for(code, _UTILISATION_CALL)
        return list(_UTILISATION.iter_unpack(room.raw[: _UTILISATION.size * count.value]))
