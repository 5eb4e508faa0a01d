"""What the driver reports by itself: XIDs, ECC, retired pages, MIG changes, recovery actions."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from collectors.contract.identity import pack_slot, unpack_slot
from collectors.contract.source import (
    DeviceEvent,
    DeviceLostError,
    TransientError,
    UnsupportedError,
)
from collectors.nvml.api import Nvml
from collectors.nvml.errors import UnknownFaultError, error_for

_log = logging.getLogger(__name__)
_XID = 0x8
_KINDS = {
    0x1: ("ecc_single", ""),
    0x2: ("ecc_double", ""),
    _XID: ("xid", ""),
    0x100: ("mig_changed", "the MIG configuration has changed"),
    0x200: ("ecc_storm", "a storm of single-bit ECC errors"),
    0x400: ("page_retired", "a page or row was retired"),
    0x800: ("page_retired", "a page or row could not be retired"),
    0x1000: ("poison", "non-fatal poison error"),
    0x2000: ("poison", "fatal poison error"),
    0x4000: ("gpu_unavailable", "the GPU is unavailable"),
    0x8000: ("recovery_action", "the driver asks for another recovery action"),
}
"""Bits of nvmlEventType; clocks, performance states and power sources are of no interest."""
_WANTED = sum(_KINDS)
_TIMEOUT = 10
_LONGEST_WAIT_MS = 5000
_BURST = 256
"""Events taken without waiting after a first one."""
_NO_INSTANCE = 0xFFFFFFFF


class _EventData(ctypes.Structure):
    _fields_ = (
        ("device", ctypes.c_void_p), ("kind", ctypes.c_ulonglong), ("data", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint), ("compute_instance", ctypes.c_uint),
    )  # fmt: skip


class Watched(NamedTuple):
    """One GPU whose events are wanted."""

    handle: Any
    slot: int
    uuid: str


class EventSet:
    """One registration of some GPUs.  It belongs to the thread that waits, and must be closed
    before the library is."""

    def __init__(self, nvml: Nvml, gpus: Sequence[Watched]) -> None:
        self._nvml = nvml
        self.refused: dict[int, str] = {}
        """Slots without events → why."""
        self.incomplete = not gpus
        """Whether some of them may have events at another time."""
        self._gpus: Mapping[int, Watched] = {}
        self._set: Any = None
        try:
            self._register(gpus)
        except BaseException:
            self.close()
            raise

    def _register(self, gpus: Sequence[Watched]) -> None:
        """Registers what can be; a GPU that spoils the set costs a new set without it."""
        left = list(gpus)
        while True:
            self._set = self._nvml.ask("nvmlEventSetCreate")
            spoilt = self._register_each(left)
            if spoilt is None:
                break
            self.close()
            left.remove(spoilt)
        heard = [gpu for gpu in left if gpu.slot not in self.refused]
        self._gpus = {_address(gpu.handle): gpu for gpu in heard}
        if not heard:
            reasons = "; ".join(sorted(set(self.refused.values()))) or "no GPU to hear of"
            kind = TransientError if self.incomplete else UnsupportedError
            raise kind(f"no events: {reasons}")

    def _register_each(self, gpus: Sequence[Watched]) -> Watched | None:
        """The GPU after which the set may no longer be used, if there is one."""
        for gpu in gpus:
            try:
                self._register_one(gpu)
            except UnsupportedError as error:
                self.refused[gpu.slot] = str(error)
            except (TransientError, DeviceLostError) as error:
                self.refused[gpu.slot] = str(error)
                self.incomplete = True
                if isinstance(error, UnknownFaultError):
                    return gpu
        return None

    def _register_one(self, gpu: Watched) -> None:
        nvml = self._nvml
        supported = nvml.number("nvmlDeviceGetSupportedEventTypes", gpu.handle)
        if not supported & _WANTED:
            raise UnsupportedError("the driver reports no events of this GPU")
        nvml.ask("nvmlDeviceRegisterEvents", gpu.handle, supported & _WANTED, self._set)

    def wait(self, timeout_s: float) -> list[DeviceEvent]:
        """What came, at most five seconds later; raises as `Backend.wait_events`, and DeviceLostError
        where a registered GPU has gone: register anew then."""
        timeout_ms = max(0, min(int(timeout_s * 1000), _LONGEST_WAIT_MS))
        events: list[DeviceEvent] = []
        wait = self._nvml.function("nvmlEventSetWait_v2")
        while len(events) < _BURST:
            data = _EventData()
            code = wait(self._set, ctypes.byref(data), 0 if events else timeout_ms)
            if code == _TIMEOUT or (code and events):
                break
            if code:
                raise error_for(code, "nvmlEventSetWait_v2")
            event = self._event(data)
            if event is not None:
                events.append(event)
        return events

    def _event(self, data: _EventData) -> DeviceEvent | None:
        kind, text = _KINDS.get(data.kind, ("", ""))
        if not kind:
            _log.info("event_unknown kind=%#x data=%d", data.kind, data.data)
            return None
        gpu = self._gpus.get(data.device or 0)
        code = int(data.data) if data.kind == _XID else None
        if gpu is None:
            return DeviceEvent(kind, None, "", code, text)
        slot = instance_slot(gpu.slot, data.gpu_instance, data.compute_instance)
        return DeviceEvent(kind, slot, gpu.uuid, code, text)

    def close(self) -> None:
        """Frees the set; a sick driver may refuse."""
        done, self._set = self._set, None
        if done is not None:
            try:
                self._nvml.ask("nvmlEventSetFree", done)
            except RuntimeError as error:
                _log.info("event_set_not_freed reason=%s", error)


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def instance_slot(slot: int, gpu_instance: int, compute_instance: int) -> int:
    """The slot of a MIG instance of the GPU in `slot`, or `slot` itself where there is none."""
    if gpu_instance >= 255:
        return slot
    ci = compute_instance if compute_instance < 255 else 0
    return pack_slot(unpack_slot(slot)._replace(gi=gpu_instance, ci=ci))
