"""All NVIDIA GPUs of a node: finds them, keeps lost ones listed, brings them back."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.identity import slot_text
from collectors.contract.record import Origin
from collectors.contract.source import (
    BackendUnavailableError,
    DeviceEvent,
    DeviceLostError,
    DriverGoneError,
    TransientError,
    UnsupportedError,
)
from collectors.kit.clock import Clock, SystemClock
from collectors.nvml.api import Identity, Nvml
from collectors.nvml.device import NvmlDevice
from collectors.nvml.fields import PlannedField, driver_branch, plan_fields

_log = logging.getLogger(__name__)
_REOPEN_EVERY = 10
"""Rescans with a lost GPU between two fresh starts of the library, which cost the others
one GPM window each."""
_WINDOWS_AT_MOST = 3
"""A GPM window above so many intervals is not used (a gap, not a measurement)."""


def host_id(root: Path = Path("/")) -> str:
    """What a counter of the driver continues over: this boot, and this load of the driver.

    The driver's load shows in its version and in when its control device was
    made; what cannot be read is left out, as a fall of the counter shows a
    reload as well.
    """
    parts: list[str] = []
    for name in ("proc/sys/kernel/random/boot_id", "sys/module/nvidia/version"):
        try:
            parts.append((root / name).read_text(encoding="ascii").strip())
        except OSError:
            parts.append("")
    try:
        parts.append(str((root / "dev/nvidiactl").stat().st_mtime_ns))
    except OSError:
        parts.append("")
    return "\n".join(parts)


def energy_epoch(uuid: str, host: str) -> int:
    """64 bits of the GPU, the kernel's boot and the driver's load."""
    digest = hashlib.blake2b(f"{uuid}\n{host}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class NvmlBackend:
    """A `Backend` of the contract."""

    origin = Origin.MEASURED

    def __init__(self, clock: Clock | None = None, *, interval_s: float = 1.0) -> None:
        self._clock = clock or SystemClock()
        self._window_us = int(interval_s * _WINDOWS_AT_MOST * 1e6)
        self._nvml = Nvml()
        self._devices: dict[int, NvmlDevice] = {}
        self._plan: list[PlannedField] = []
        self._rescans_with_lost = 0
        self.driver_version = ""

    def open(self) -> None:
        """See the contract's `Backend.open`; RestartNeededError where only a new process helps."""
        try:
            self._nvml.open()
            self.driver_version = self._nvml.driver_version()
            count = self._nvml.count()
        except (DriverGoneError, UnsupportedError, TransientError, DeviceLostError) as error:
            raise BackendUnavailableError(
                f"The NVIDIA driver cannot be used here: {error}. "
                "Install or load it (nvidia-smi must work), or choose --backend sim."
            ) from error
        self._plan = plan_fields(CATALOGUE, driver_branch(self.driver_version))
        self._devices = dict(sorted(self._find(count).items()))
        if not self._devices:
            self.close()
            raise BackendUnavailableError(
                f"The NVIDIA driver {self.driver_version} is loaded, but none of its "
                f"{count} GPUs can be read; see nvidia-smi, or choose --backend sim."
            )
        _log.info("gpus_found count=%d driver=%s", len(self._devices), self.driver_version)

    def _find(self, count: int) -> dict[int, NvmlDevice]:
        """Devices that say who they are; one that does not costs the others nothing."""
        host = host_id()
        found: dict[int, NvmlDevice] = {}
        for index in range(count):
            try:
                handle = self._nvml.handle(index)
                identity = self._identity(handle)
            except (DriverGoneError, DeviceLostError, TransientError, UnsupportedError) as error:
                _log.warning("gpu_unreadable index=%d reason=%s", index, error)
                continue
            found[identity.slot] = NvmlDevice(
                self._nvml, handle, identity, self._plan, self._clock,
                energy_epoch=energy_epoch(identity.uuid, host), window_us=self._window_us,
            )  # fmt: skip
        return found

    def _identity(self, handle: object) -> Identity:
        nvml = self._nvml
        slot = nvml.slot(handle)
        texts: list[str] = []
        for name in ("nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetSerial"):
            try:
                texts.append(nvml.text(name, handle))
            except (UnsupportedError, TransientError):
                texts.append("")
        return Identity(slot, *texts)

    def devices(self) -> Sequence[NvmlDevice]:
        """The devices found, in order of slot; lost ones among them."""
        return list(self._devices.values())

    @property
    def driver(self) -> str:
        """Its version."""
        return self.driver_version

    def wait_events(self, timeout_s: float) -> Sequence[DeviceEvent]:
        """Not read yet."""
        raise UnsupportedError(f"events are not read (asked for {timeout_s} s)")

    def rescan(self) -> None:
        """See the contract's `Backend.rescan`; DriverGoneError when no device answers at all."""
        lost = [device for device in self._devices.values() if device.lost]
        self._rescans_with_lost = self._rescans_with_lost + 1 if lost else 0
        reopened = bool(lost) and self._rescans_with_lost % _REOPEN_EVERY == 0
        if reopened:
            self._release()
            self._nvml.open()
        found = self._find(self._nvml.count())
        for slot, device in found.items():
            known = self._devices.get(slot)
            same = known is not None and not known.lost and known.labels == device.labels
            if same and not reopened:
                continue
            if known is not None and not same:
                known.release()
                _log.info("gpu_back slot=%s uuid=%s", slot_text(slot), device.labels.uuid)
            self._devices[slot] = device
        self._devices = dict(sorted(self._devices.items()))

    def _release(self) -> None:
        for device in self._devices.values():
            device.release()
        self._nvml.close()

    def close(self) -> None:
        """Lets the driver go; what was found is found again by `open`."""
        self._release()
        self._devices = {}
