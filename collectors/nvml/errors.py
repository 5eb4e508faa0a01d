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


class DeniedError(UnsupportedError):
    """The driver gives this to others, but not to us: an operator can change that."""


class NeedsResetError(DeviceLostError):
    """The GPU is there, but answers nothing until somebody resets it."""


NO_DATA = 21
"""Also what an answer that was never written says."""
FUNCTION_NOT_FOUND = 13
_MISMATCH = 18
_KINDS: tuple[tuple[frozenset[int], type[Exception]], ...] = (
    # NOT_SUPPORTED, FUNCTION_NOT_FOUND, vGPU ECC, version mismatch, DEPRECATED
    (frozenset({3, FUNCTION_NOT_FOUND, 22, 25, 26}), UnsupportedError),
    (frozenset({4}), DeniedError),
    # No power, IRQ issue, corrupted InfoROM, GPU_IS_LOST, INVALID_STATE
    (frozenset({8, 11, 14, 15, 29}), DeviceLostError),
    (frozenset({16}), NeedsResetError),
    # Uninitialised, driver not loaded, library not found, operating system, GPU_NOT_FOUND
    (frozenset({1, 9, 12, 17, 28}), DriverGoneError),
    (frozenset({_MISMATCH}), RestartNeededError),
    (frozenset({999}), UnknownFaultError),
)
_NAMES = {
    1: "not initialised", 2: "argument refused", 3: "not supported", 4: "no permission",
    6: "not found", 7: "more than there was room for", 8: "power cable not attached",
    9: "driver not loaded", 10: "timed out", 11: "interrupt fault", 12: "library not found",
    13: "not in this driver", 14: "corrupted InfoROM", 15: "GPU is lost", 16: "reset required",
    17: "refused by the operating system", 18: "driver and library versions differ",
    19: "in use", 20: "out of memory", 21: "no data", 25: "other version of the argument",
    26: "deprecated", 27: "not ready", 28: "GPU not found", 29: "invalid state",
    999: "unknown fault",
}  # fmt: skip


def error_for(code: int, what: str) -> Exception:
    """The error to raise for a return code of the call `what`.

    The text is ours: asking a sick driver for its own may hang.
    """
    text = f"{what}: {_NAMES.get(code, 'failed')} (NVML {code})"
    if code == _MISMATCH:
        text = f"{text}; the driver was replaced: start again, or reboot"
    for codes, kind in _KINDS:
        if code in codes:
            return kind(text)
    return TransientError(text)
