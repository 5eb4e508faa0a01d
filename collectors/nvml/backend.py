"""All NVIDIA GPUs of a node: finds them, keeps lost ones listed, brings them back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.identity import slot_text
from collectors.contract.record import Origin
from collectors.contract.source import (
    BackendUnavailableError,
    DeviceEvent,
    DeviceLostError,
    DriverGoneError,
    RestartNeededError,
    TransientError,
    UnsupportedError,
)
from collectors.kit.clock import Clock, SystemClock
from collectors.nvml.api import Identity, Nvml
from collectors.nvml.device import NvmlDevice, Surroundings
from collectors.nvml.epoch import EnergyEpochs, host_id
from collectors.nvml.events import EventSet, Watched
from collectors.nvml.fields import driver_branch, plan_fields
from collectors.nvml.gate import Gate

_log = logging.getLogger(__name__)
_REOPEN_EVERY = 10
"""Rescans with a lost GPU between two fresh starts of the library, which cost the others
one window each."""
_WINDOWS_AT_MOST = 3
"""A window above so many intervals is not used (a gap, not a measurement)."""
_QUIET_S = 3.0
"""How long calls may take to end before the library is closed."""
_SHORTLY_S = 1.0
"""How long events are waited for where the library may be started again for a GPU that is lost."""
_WHOLE = (1 << 48) - 1
"""A slot's bits without its MIG instance."""
_Found = Mapping[int, tuple[Any, Identity]]
_FAILURES = (DriverGoneError, DeviceLostError, TransientError, UnsupportedError)


class NvmlBackend:
    """A `Backend` of the contract.

    `rescan` may run beside readings and `wait_events`: they go through one gate,
    which is shut (readings then raise TransientError) while the library starts
    again.  `close` too waits for what is under way, and leaves the library open
    rather than close it beneath a call that hangs.
    """

    origin = Origin.MEASURED

    def __init__(self, clock: Clock | None = None, *, interval_s: float = 1.0) -> None:
        self._clock = clock or SystemClock()
        self._window_us = int(interval_s * _WINDOWS_AT_MOST * 1e6)
        self._nvml, self._gate = Nvml(), Gate()
        self._gate.shut(0)
        self._around: Surroundings | None = None
        self._devices: dict[int, NvmlDevice] = {}
        self._left: list[NvmlDevice] = []
        """What a close that was kept from the library has not released."""
        self._energies: dict[tuple[int, str, str], EnergyEpochs] = {}
        self._unreadable: dict[int, str] = {}
        self._rescans_with_lost = 0
        self._events: EventSet | None = None
        self._listen_anew = False
        self.driver = ""
        """The driver's version."""

    def open(self) -> None:
        """See the contract's `Backend.open`; RestartNeededError where only a new process helps."""
        if self._gate.shut(0):
            self._release()  # what a call that hung has kept `close` from
        try:
            self._nvml.open()
            self.driver = self._nvml.driver_version()
            count = self._nvml.count()
        except RestartNeededError:
            self._nvml.close()
            raise
        except _FAILURES as error:
            self._nvml.close()
            raise BackendUnavailableError(
                f"The NVIDIA driver cannot be used here: {error}. "
                "Install or load it (nvidia-smi must work), or choose --backend sim."
            ) from error
        plan = plan_fields(CATALOGUE, driver_branch(self.driver))
        self._around = Surroundings(
            self._nvml, self._gate, self._clock, plan, host_id(), self._window_us
        )
        self._renew(self._find(count), self._around)
        if not self._devices:
            self.close()
            raise BackendUnavailableError(
                f"The NVIDIA driver {self.driver} is loaded, but none of its "
                f"{count} GPUs can be read; see nvidia-smi, or choose --backend sim."
            )
        self._gate.reopen()
        _log.info("gpus_found count=%d driver=%s", len(self._devices), self.driver)

    def _find(self, count: int) -> _Found:
        """Devices that say who they are; one that does not costs the others nothing."""
        found: dict[int, tuple[Any, Identity]] = {}
        unreadable: dict[int, str] = {}
        for index in range(count):
            try:
                handle = self._nvml.handle(index)
                identity = self._identity(handle)
            except _FAILURES as error:
                unreadable[index] = str(error)
                if self._unreadable.get(index) != str(error):
                    _log.warning("gpu_unreadable index=%d reason=%s", index, error)
                continue
            found[identity.slot] = handle, identity
        self._unreadable = unreadable
        return dict(sorted(found.items()))

    def _identity(self, handle: Any) -> Identity:
        slot, pci_device_id = self._nvml.place(handle)
        texts: list[str] = []
        for name in ("nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetSerial"):
            try:
                texts.append(self._nvml.text(name, handle))
            except UnsupportedError:
                texts.append("")
        uuid, model, serial = texts
        return Identity(slot, uuid, model, serial, pci_device_id)

    def _renew(self, found: _Found, around: Surroundings, *, stale: bool = False) -> None:
        """Takes over devices that are new, back, or others than were there; all of them where
        the handles of those that are known are stale.  Whoever lists devices meanwhile sees
        all that are known."""
        devices = dict(self._devices)
        for position, (slot, (handle, identity)) in enumerate(found.items()):
            known = devices.get(slot)
            same = known is not None and not known.lost and known.uuid == identity.uuid
            if same and not stale:
                continue
            key = (slot, identity.uuid, around.host)
            energy = self._energies.setdefault(key, EnergyEpochs(identity.uuid, around.host))
            phase = position / len(found)
            devices[slot] = NvmlDevice(around, handle, identity, energy, phase=phase)
            if known is not None:
                known.release()
                if not same:
                    _log.info("gpu_back slot=%s uuid=%s", slot_text(slot), identity.uuid)
            self._listen_anew = True
        for slot in devices.keys() - found.keys() if stale else ():
            devices[slot].lose("it was not there when the library started again")
        self._devices = dict(sorted(devices.items()))

    def devices(self) -> Sequence[NvmlDevice]:
        """The devices found, in order of slot; lost ones among them."""
        return list(self._devices.values())

    def missing(self) -> dict[str, str]:
        """GPUs that the driver counts and that do not say who they are, by its index → why."""
        return {f"gpu_index_{index}": reason for index, reason in self._unreadable.items()}

    def wait_events(self, timeout_s: float) -> Sequence[DeviceEvent]:
        """See the contract's `Backend.wait_events`; five seconds at most, and one while a GPU is
        lost."""
        if any(device.lost for device in self._devices.values()):
            timeout_s = min(timeout_s, _SHORTLY_S)
        if not self._gate.wait_open(timeout_s):
            return ()
        try:
            with self._gate:
                events = self._heard(timeout_s)
        except (TransientError, DeviceLostError) as error:
            _log.info("events_interrupted reason=%s", error)
            self._listen_anew = True
            self._gate.wait_shut(timeout_s)
            return ()
        for event in events:
            device = None if event.slot is None else self._devices.get(event.slot & _WHOLE)
            if device is not None and event.kind == "mig_changed":
                device.mig_changed()
        return events

    def _heard(self, timeout_s: float) -> list[DeviceEvent]:
        if self._events is None or self._listen_anew:
            self._listen_anew = False
            self._deaf()
            devices = [device for device in self.devices() if not device.lost]
            self._events = EventSet(
                self._nvml, [Watched(one.handle, one.slot, one.uuid) for one in devices]
            )
            for device in devices:
                device.events_refused = self._events.refused.get(device.slot, "")
        return self._events.wait(timeout_s)

    def _deaf(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            events.close()

    def rescan(self) -> None:
        """See the contract's `Backend.rescan`; DriverGoneError when no device answers at all."""
        around = self._around
        if around is None:
            raise DriverGoneError("the backend is closed")
        lost = any(device.lost for device in self._devices.values())
        self._rescans_with_lost = self._rescans_with_lost + 1 if lost else 0
        if lost and self._rescans_with_lost % _REOPEN_EVERY == 0 and self._start_again(around):
            return
        with self._gate:
            self._renew(self._find(self._nvml.count()), around)
        events = self._events
        if events is not None and events.incomplete:
            self._listen_anew = True

    def _start_again(self, around: Surroundings) -> bool:
        """A fresh start of the library, after which it sees GPUs that came back; False where a
        call that hangs stands in the way."""
        try:
            if not self._gate.shut(_QUIET_S):
                _log.warning("library_not_restarted reason=a_call_hangs")
                return False
            self._release()
            self._nvml.open()
            self._renew(self._find(self._nvml.count()), around, stale=True)
            return True
        finally:
            self._gate.reopen()

    def _release(self) -> None:
        self._deaf()
        for device in (*self._left, *self._devices.values()):
            device.release()
        self._left = []
        self._nvml.close()

    def close(self) -> None:
        """Lets the driver go; what was found is found again by `open`."""
        if self._gate.shut(_QUIET_S):
            self._release()
        else:
            self._left += self._devices.values()
            _log.warning("library_not_closed reason=a_call_hangs")
        self._devices, self._around = {}, None
