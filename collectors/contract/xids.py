"""What the driver's events mean: name, the maker's advice, whom it concerns, how serious it is.

The rows of XIDs are `xids.csv` beside this file: facts from NVIDIA's public
XID catalogue (docs.nvidia.com/deploy/xid-errors), the advice as its resolution
buckets give it.  docs/xids.md is made from them.
"""

from __future__ import annotations

import csv
import re
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

ACTIONS = {
    "ignore": "Nothing by itself; where another event stands beside it, that one says what to do.",
    "restart_app": "Start the program again; the GPU itself goes on.",
    "check_app": "Look for a fault in the program: memory checker, debugger, library versions.",
    "reset_gpu": "Take the work off the GPU and reset it (`nvidia-smi --gpu-reset`).",
    "reset_fabric": "Take the work off the node, reset its GPUs and NVSwitches together, and start "
    "Fabric Manager again.",
    "restart_fabric_manager": "Start Fabric Manager again, where no other event explains it.",
    "restart_vm": "Start the virtual machine again.",
    "reboot": "Take the work off the node and reboot it.",
    "drain": "Let no new work onto the GPU, let what runs end, then reset it.",
    "check_nvlink": "Look at the link and its counters; if it does not recover, reset the GPUs at "
    "both ends.",
    "check_power": "Look at power cables and seating of the board.",
    "check_uvm": "Look at the memory driver's own messages; report it where it stands alone.",
    "update_software": "Look at the versions of driver, firmware and libraries; update or report.",
    "follow_recovery": "Do what the message names: nothing, drain, reset the GPU or reboot.",
    "contact_support": "Gather `nvidia-bug-report.sh` and ask the hardware's maker.",
    "look_up": "No advice is published: look the code up in NVIDIA's catalogue.",
}
"""The fixed words for what to do, each with its meaning."""

TENANT, OPERATOR = "tenant", "operator"
_RECOVERY = {0: "ignore", 1: "reset_gpu", 2: "reboot", 3: "drain", 4: "drain"}
"""By NVML's recovery action: none, GPU reset, node reboot, drain P2P, drain and reset."""
_RECOVERY_TO = re.compile(r"\bto 0x([0-9a-fA-F]+)\b")
_FATAL = re.compile(r"\bFatal\b")
_NVLINK = range(144, 151)
_CHANGED = 154


class Advice(NamedTuple):
    """What to make of an event."""

    name: str
    action: str
    """A key of ACTIONS."""
    then: str
    """Another, for when the first does not help; "" for none."""
    concerns: str
    """`tenant` (their program) or `operator`."""
    severity: str
    """`info`, `warning` or `critical`."""


UNKNOWN_XID = Advice("Unknown XID", "look_up", "", OPERATOR, "warning")
_KINDS = {
    "ecc_single": Advice("Corrected memory error", "ignore", "", OPERATOR, "info"),
    "ecc_double": Advice("Uncorrected memory error", "drain", "reset_gpu", OPERATOR, "critical"),
    "ecc_storm": Advice("Many corrected memory errors", "contact_support", "", OPERATOR, "warning"),
    "page_retired": Advice("Memory page retired", "drain", "reset_gpu", OPERATOR, "warning"),
    "poison": Advice("Poisoned data was used", "restart_app", "reset_gpu", OPERATOR, "warning"),
    "mig_changed": Advice("MIG instances changed", "ignore", "", OPERATOR, "info"),
    "gpu_unavailable": Advice("GPU is not available", "reset_gpu", "reboot", OPERATOR, "critical"),
    "recovery_action": Advice("Recovery action", "follow_recovery", "", OPERATOR, "warning"),
    "sxid": Advice("NVSwitch error", "check_nvlink", "contact_support", OPERATOR, "warning"),
    "init_failed": Advice("GPU could not be initialised", "reset_gpu", "reboot", OPERATOR, "critical"),
    "driver_mismatch": Advice("Driver and library differ", "reboot", "", OPERATOR, "warning"),
    "gpu_lost": Advice("GPU lost", "reboot", "contact_support", OPERATOR, "critical"),
    "gpu_needs_reset": Advice("GPU needs a reset", "reset_gpu", "reboot", OPERATOR, "critical"),
    "gpu_hung": Advice("GPU does not answer", "drain", "reboot", OPERATOR, "critical"),
    "gpu_recovered": Advice("GPU is back", "ignore", "", OPERATOR, "info"),
    "driver_gone": Advice("Driver is gone", "look_up", "", OPERATOR, "critical"),
    "driver_back": Advice("Driver is back", "ignore", "", OPERATOR, "info"),
    "driver_released": Advice("Driver let go on request", "ignore", "", OPERATOR, "info"),
    "agent_start": Advice("Agent started", "ignore", "", OPERATOR, "info"),
    "agent_stop": Advice("Agent stopped", "ignore", "", OPERATOR, "info"),
}  # fmt: skip


@lru_cache(maxsize=1)
def xids() -> dict[int, Advice]:
    """All rows of the table by XID."""
    text = (files("collectors.contract") / "xids.csv").read_text(encoding="utf-8")
    return {int(row.pop("code")): Advice(**row) for row in csv.DictReader(text.splitlines())}


def kinds() -> dict[str, Advice]:
    """Advice of the kinds of event that are no XID."""
    return dict(_KINDS)


def advice(kind: str, code: int | None = None, text: str = "") -> Advice:
    """What to make of an event; its text decides where the code leaves it open.

    XIDs 144 to 150, NVSwitch errors and poison say whether they are fatal, pages
    whether they could be retired; XID 154 and the recovery action name what is
    to be done.
    """
    if kind == "xid":
        found = UNKNOWN_XID if code is None else xids().get(code, UNKNOWN_XID)
        if code in _NVLINK and _FATAL.search(text):
            return found._replace(action="reset_gpu", then="contact_support", severity="critical")
        return _recovery(found, _named(text)) if code == _CHANGED else found
    found = _KINDS.get(kind, Advice(kind.replace("_", " ").capitalize(), "", "", OPERATOR, "info"))
    if kind == "recovery_action":
        return _recovery(found, code)
    if kind == "sxid" and _FATAL.search(text):
        return found._replace(action="reset_fabric", severity="critical")
    if (kind == "poison" and text.startswith("fatal")) or (
        kind == "page_retired" and "not" in text
    ):
        return found._replace(action="reset_gpu", then="contact_support", severity="critical")
    return found


def _named(text: str) -> int | None:
    match = _RECOVERY_TO.search(text)
    return int(match[1], 16) if match else None


def _recovery(found: Advice, code: int | None) -> Advice:
    action = found.action if code is None else _RECOVERY.get(code, found.action)
    severity = {"ignore": "info", "follow_recovery": "warning"}.get(action, "critical")
    return found._replace(action=action, severity=severity)
