"""What simulated agents say of themselves: how they find FLOP, and what they have not."""

from __future__ import annotations

from importlib.metadata import version

from collectors.contract.facts import GpuFacts, NodeFacts
from collectors.contract.flop import FLOP_METHOD_NAMES, FlopMethod
from collectors.contract.identity import slot_text
from collectors.contract.record import Origin, SlotLabels
from collectors.simulator.fleet import Fleet
from collectors.simulator.identities import make_identities
from collectors.simulator.sites import GPUS_PER_NODE

_NO_GPM = "the simulated GPU is older than Hopper"
_PASSIVE = {"fan_speed": "passively cooled"}


def simulated_facts(fleet: Fleet, seed: int, time_us: int) -> list[NodeFacts]:
    """Facts of each node that sends records."""
    labels = make_identities(fleet.entries, fleet.hardware.figures, seed)
    own = version("petawatch")
    told: list[NodeFacts] = []
    for index, entry in enumerate(fleet.entries):
        first = index * GPUS_PER_NODE
        if fleet.hardware.dark[index]:
            continue
        gpm, counted = bool(fleet.hardware.gpm[first]), bool(fleet.hardware.counted[first])
        seats = labels[first : first + GPUS_PER_NODE]
        gpus = tuple(
            _gpu(seat, place, gpm=gpm, counted=counted) for place, seat in enumerate(seats)
        )
        told.append(
            NodeFacts(
                entry.name, time_us, Origin.SIMULATED.name.lower(), own, "sim",
                interval_s=fleet.interval_us / 1e6, gpus=gpus,
                missing={"processes": "simulated jobs have none"},
            )
        )  # fmt: skip
    return told


def _gpu(seat: SlotLabels, place: int, *, gpm: bool, counted: bool) -> GpuFacts:
    if not counted:
        method, reason = FlopMethod.ESTIMATE, "no exporter gives its tensor activity"
    elif gpm:
        method, reason = FlopMethod.PIPE, "cycle counters are not simulated"
    else:
        method, reason = FlopMethod.EXPORTER, _NO_GPM
    lacks = dict(_PASSIVE)
    if not gpm:
        lacks |= dict.fromkeys(("sm_activity", "dram_activity", "thermal_margin_c"), _NO_GPM)
    if not counted:
        lacks["tensor_activity"] = "no exporter gives it"
    return GpuFacts(
        slot_text(seat.slot), seat.uuid, seat.model, seat.serial, place,
        flop_method=FLOP_METHOD_NAMES[method], flop_reason=reason, unsupported=lacks,
    )  # fmt: skip
