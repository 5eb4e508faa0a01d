"""The MIG instances of a node: their own values, and the GPU's that they share, kept apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from collectors.contract.facts import GpuFacts
from collectors.contract.identity import Slot, pack_slot, parse_slot, slot_text, unpack_slot
from collectors.contract.record import Origin, SlotLabels
from pipeline.api.fleet import Latest

SHARED = (
    "power_w",
    "gpu_temperature_c",
    "memory_temperature_c",
    "thermal_margin_c",
    "sm_clock_mhz",
    "memory_clock_mhz",
)
"""What the driver gives for the whole GPU alone."""


def is_instance(slot: int) -> bool:
    """Whether a packed slot is a part of a GPU."""
    return unpack_slot(slot).gi >= 0


def parent_of(slot: int) -> int:
    """The whole GPU's packed slot."""
    return pack_slot(Slot(*unpack_slot(slot)[:4]))


def instance_rows(
    node: str,
    latest: Latest,
    seats: Iterable[SlotLabels],
    facts: Sequence[GpuFacts],
    now_us: int,
) -> list[dict[str, Any]]:
    """A row for each instance that is reported or that the agent has told of, in order of slot."""
    profiles = {parse_slot(one.slot): one for one in facts if one.parent}
    slots = [int(slot) for slot in latest.slot.tolist() if is_instance(int(slot))]
    reported = {slot for slot in slots if _there(node, slot, latest) is not None}
    labels = {seat.slot: seat for seat in seats}
    return [
        _row(node, slot, latest, labels.get(slot), profiles.get(slot), now_us)
        for slot in sorted(reported | set(profiles))
    ]


def _there(node: str, slot: int, latest: Latest) -> int | None:
    """The instance's row in `latest`; None for one that its GPU's newest record does not have any
    more: each record has all instances there are, also of a GPU that is down."""
    at, above = latest.newest(node, slot), latest.newest(node, parent_of(slot))
    if at is None or (above is not None and latest.time_us[at] < latest.time_us[above]):
        return None
    return at


def _row(
    node: str,
    slot: int,
    latest: Latest,
    seat: SlotLabels | None,
    told: GpuFacts | None,
    now_us: int,
) -> dict[str, Any]:
    at, above = _there(node, slot, latest), latest.newest(node, parent_of(slot))
    own: Mapping[str, float | int] = {} if at is None else latest.row(at)
    whole: Mapping[str, float | int] = {} if above is None else latest.row(above)
    return {
        "slot": slot_text(slot),
        "parent": slot_text(parent_of(slot)),
        "profile": (told and told.profile) or None,
        "uuid": (seat and seat.uuid) or (told and told.uuid) or None,
        "occupant": (seat and seat.occupant) or None,
        "origin": "none" if at is None else Origin(latest.origin[at]).name.lower(),
        "age_s": None if at is None else max(0.0, (now_us - int(latest.time_us[at])) / 1e6),
        "values": own,
        "shared": {name: whole[name] for name in SHARED if name in whole and name not in own},
    }
