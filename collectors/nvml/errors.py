"""NVML's return codes as the few choices that a caller has."""

from __future__ import annotations

from collectors.contract.source import (
    DeviceLostError,
    DriverGoneError,
    RestartNeededError,
    TransientError,
    UnsupportedError,
)


class UnknownFaultError(TransientError):
    """The driver says only that something failed; three in a row are a sick device."""


_UNSUPPORTED = frozenset({3, 4, 13, 22, 25, 26})
"""NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, vGPU ECC, version mismatch, DEPRECATED."""
_LOST = frozenset({8, 11, 14, 15, 16, 29})
"""No power, IRQ issue, corrupted InfoROM, GPU_IS_LOST, RESET_REQUIRED, INVALID_STATE."""
_GONE = frozenset({1, 9, 12, 17, 28})
"""Uninitialised, driver not loaded, library not found, operating system, GPU_NOT_FOUND."""
_MISMATCH = 18
_UNKNOWN = 999
_NAMES = {
    3: "not supported", 4: "no permission", 13: "not in this driver", 26: "deprecated",
    8: "power cable not attached", 11: "interrupt fault", 14: "corrupted InfoROM",
    15: "GPU is lost", 16: "reset required", 29: "invalid state", 1: "not initialised",
    9: "driver not loaded", 12: "library not found", 17: "refused by the operating system",
    28: "GPU not found", 18: "driver and library versions differ", 6: "not found",
    10: "timed out", 21: "no data", 27: "not ready",
}  # fmt: skip


def error_for(code: int, what: str) -> Exception:
    """The error to raise for a return code of the call `what`.

    The text is ours: asking a sick driver for its own may hang.
    """
    text = f"{what}: {_NAMES.get(code, 'failed')} (NVML {code})"
    if code in _UNSUPPORTED:
        return UnsupportedError(text)
    if code in _LOST:
        return DeviceLostError(text)
    if code in _GONE:
        return DriverGoneError(text)
    if code == _MISMATCH:
        return RestartNeededError(f"{text}; the driver was replaced: start again, or reboot")
    return UnknownFaultError(text) if code == _UNKNOWN else TransientError(text)
