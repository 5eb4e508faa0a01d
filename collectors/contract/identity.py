"""Slots and runs as 64-bit integers that read back: nothing is a hash or a look-up.

A slot is a place in a node (PCI address, and MIG instance where there is
one).  Its UUID, serial and model are labels, dated by the label epoch.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SLOT = re.compile(
    r"(?:(?P<domain>[0-9a-fA-F]{4,8}):)?(?P<bus>[0-9a-fA-F]{2}):(?P<device>[0-9a-fA-F]{2})"
    r"\.(?P<function>[0-7])(?:/(?P<gi>\d{1,3})/(?P<ci>\d{1,3}))?"
)
_RUN_RANDOM_BITS = 20


class Slot(NamedTuple):
    """A GPU's place in its node; `gi` and `ci` are -1 for a whole GPU."""

    domain: int
    bus: int
    device: int
    function: int
    gi: int = -1
    ci: int = -1


def pack_slot(slot: Slot) -> int:
    """64 bits: 16 of MIG instance (gi + 1, ci + 1), then the PCI address in 48.

    Raises ValueError when a part does not fit.
    """
    domain, bus, device, function, gi, ci = slot
    fits = domain < 1 << 32 and bus < 256 and device < 32 and function < 8
    if not (fits and -1 <= gi < 255 and -1 <= ci < 255):
        raise ValueError(f"not a slot: {slot}")
    return (gi + 1) << 56 | (ci + 1) << 48 | domain << 16 | bus << 8 | device << 3 | function


def unpack_slot(packed: int) -> Slot:
    """The inverse of `pack_slot`."""
    return Slot(
        packed >> 16 & 0xFFFFFFFF,
        packed >> 8 & 0xFF,
        packed >> 3 & 0x1F,
        packed & 0x7,
        (packed >> 56 & 0xFF) - 1,
        (packed >> 48 & 0xFF) - 1,
    )


def slot_text(packed: int) -> str:
    """`0000:1b:00.0`, with `/gi/ci` after it for a MIG instance."""
    slot = unpack_slot(packed)
    address = f"{slot.domain:04x}:{slot.bus:02x}:{slot.device:02x}.{slot.function}"
    return address if slot.gi < 0 else f"{address}/{slot.gi}/{slot.ci}"


def parse_slot(text: str) -> int:
    """The packed slot of `0000:1b:00.0` or `0000:1b:00.0/gi/ci`; ValueError otherwise."""
    match = _SLOT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a PCI address: {text!r} (write it as 0000:1b:00.0)")
    parts = match.groupdict()
    return pack_slot(
        Slot(
            int(parts["domain"] or "0", 16),
            int(parts["bus"], 16),
            int(parts["device"], 16),
            int(parts["function"]),
            -1 if parts["gi"] is None else int(parts["gi"]),
            -1 if parts["ci"] is None else int(parts["ci"]),
        )
    )


def new_run(start_us: int, random: int) -> int:
    """A run's (or writer's) id: its start in ms above 20 random bits, so ids sort by start."""
    return (start_us // 1000) << _RUN_RANDOM_BITS | random & (1 << _RUN_RANDOM_BITS) - 1


def run_start_us(run: int) -> int:
    """The start of a run in µs since 1970, to the ms."""
    return (run >> _RUN_RANDOM_BITS) * 1000
