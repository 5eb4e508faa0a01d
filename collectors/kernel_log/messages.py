"""What the NVIDIA driver says in the kernel log, as events.

A message counts only from its beginning on, so that a process name within
one cannot pass for an event.
"""

from __future__ import annotations

import re

from collectors.contract.identity import Slot, pack_slot, parse_slot, unpack_slot
from collectors.contract.source import DeviceEvent

_PCI = r"(?:PCI:)?(?P<pci>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-7])?)"
_XID = re.compile(
    rf"NVRM: Xid \({_PCI}(?: GPU-I:(?P<gi>\d+))?(?: GPU-CI:(?P<ci>\d+))?\): (?P<code>\d+)(?:, *(?P<rest>.*))?",
    re.DOTALL,
)
_WHO = re.compile(r"pid=(?P<pid>'?[^,']*'?)(?:, *name=(?P<name>.*?))?(?:, +|$)", re.DOTALL)
_SXID = re.compile(
    rf"nvidia-nvswitch(?P<number>\d+): SXid \({_PCI}\): (?P<code>\d+), (?P<rest>.*)", re.DOTALL
)
_SXID_DETAIL = re.compile(r"(?:Severity \d|Data \{)")
_OFF_BUS = re.compile(rf"NVRM: GPU (?:at )?{_PCI}\S*:? ?.*\bhas fallen off the bus", re.DOTALL)
_INIT = re.compile(
    rf"NVRM: (?:GPU {_PCI}.*?: )?RmInitAdapter failed!\s*(?P<code>\(.*?\))?", re.DOTALL
)
_MISMATCH = re.compile(r"NVRM: API mismatch: (?P<rest>.*)", re.DOTALL)
_BLANKS = re.compile(r"\s+")
OFF_THE_BUS = 79
MAX_TEXT = 300


def parse_message(message: str) -> DeviceEvent | None:
    """The event that a message of the kernel tells; None for any other message."""
    if message.startswith("NVRM: "):
        return _xid(message) or _off_the_bus(message) or _init_failed(message) or _mismatch(message)
    return _sxid(message) if message.startswith("nvidia-nvswitch") else None


def _xid(message: str) -> DeviceEvent | None:
    found = _XID.match(message)
    slot = None if found is None else _slot(found)
    if found is None or slot is None:
        return None
    text = _without_who(found["rest"] or "")
    if found["gi"] is not None and found["ci"] is None:
        text = f"GPU instance {int(found['gi'])}: {text}"
    return DeviceEvent("xid", slot, code=int(found["code"]), text=_tidy(text))


def _without_who(rest: str) -> str:
    """The text with whose process it was after it, where the driver knows."""
    who = _WHO.match(rest)
    if who is None:
        return rest
    text, pid, name = rest[who.end() :], who["pid"].strip("'"), who["name"] or ""
    if not pid.isdecimal():
        return text
    process = f"process {pid}" if name in {"", "<unknown>"} else f"process {pid} {name}"
    return f"{text} ({process})" if text else process


def _off_the_bus(message: str) -> DeviceEvent | None:
    """XID 79 in other words; older drivers print it alone."""
    found = _OFF_BUS.match(message)
    if found is None:
        return None
    return DeviceEvent("xid", _slot(found), code=OFF_THE_BUS, text="GPU has fallen off the bus.")


def _init_failed(message: str) -> DeviceEvent | None:
    found = _INIT.match(message)
    if found is None:
        return None
    text = f"RmInitAdapter failed {found['code'] or ''}"
    return DeviceEvent("init_failed", _slot(found) if found["pci"] else None, text=_tidy(text))


def _mismatch(message: str) -> DeviceEvent | None:
    found = _MISMATCH.match(message)
    if found is None:
        return None
    text = found["rest"].replace("\nNVRM: ", " ")
    return DeviceEvent("driver_mismatch", None, text=_tidy(text))


def _sxid(message: str) -> DeviceEvent | None:
    found = _SXID.match(message)
    # Lines with severity and data follow the one that says what it is.
    if found is None or _SXID_DETAIL.match(found["rest"]):
        return None
    text = f"NVSwitch {found['number']}: {found['rest']}"
    return DeviceEvent("sxid", _slot(found), code=int(found["code"]), text=_tidy(text))


def _slot(found: re.Match[str]) -> int | None:
    """None for an address that no bus can have."""
    address: str = found["pci"]
    try:
        slot = unpack_slot(parse_slot(address if "." in address else f"{address}.0"))
        parts = found.groupdict()
        if parts.get("gi") is not None and parts.get("ci") is not None:
            return pack_slot(Slot(*slot[:4], int(parts["gi"]), int(parts["ci"])))
        return pack_slot(slot)
    except ValueError:
        return None


def _tidy(text: str) -> str:
    short = _BLANKS.sub(" ", text).strip()
    return short if len(short) <= MAX_TEXT else f"{short[: MAX_TEXT - 1]}…"
