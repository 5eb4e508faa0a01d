"""The MIG instances of one GPU: their samples, and what of the GPU follows from them.

Activity, FLOP and memory are an instance's own.  Temperature, clocks, power
and the rest are the GPU's and stand in its sample only; power and energy are
divided by the rule of `power_shares`, and named as allocated.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.facts import GpuFacts
from collectors.contract.flop import FLOP_METHOD_NAMES, FlopWindow
from collectors.contract.identity import slot_text
from collectors.contract.models import GpuModel
from collectors.contract.record import SlotLabels
from collectors.contract.source import (
    DeviceLostError,
    DriverGoneError,
    Sample,
    TransientError,
    UnsupportedError,
)
from collectors.kit.clock import Clock
from collectors.nvml.api import Identity, Nvml
from collectors.nvml.flop import FlopMeter
from collectors.nvml.instances import (
    Found,
    Profile,
    find_instances,
    gpu_instance_profiles,
    gpu_instance_sms,
    is_divided,
)
from collectors.nvml.mig_sum import Measured, of_whole, sm_gauges
from collectors.nvml.power_shares import Part, PowerShares
from collectors.nvml.readings import Readings

_log = logging.getLogger(__name__)
_SHARED = "shared by all instances: it is the GPU's, and stands at its slot"


@dataclass(slots=True)
class _Member:
    """A compute instance."""

    found: Found
    labels: SlotLabels
    readings: Readings
    energy_mj: int = 0


class _GpuInstance:
    """Activity is a GPU instance's; its compute instances have it in common."""

    def __init__(self, sms: int, meter: FlopMeter, members: list[_Member]) -> None:
        self.sms, self.meter, self.members = sms, meter, members
        self.missing = ""

    def same(self, found: list[Found], sms: int) -> bool:
        """Whether it is still what it was; anything else begins anew, since counters do too."""
        before = [(one.found.uuid, one.found.slot) for one in self.members]
        return before == [(one.uuid, one.slot) for one in found] and sms == self.sms

    def measure(self, clock_mhz: float | None) -> Measured:
        """Raises DeviceLostError, DriverGoneError or RestartNeededError."""
        nothing = Measured(self.sms, {}, None)
        if self.missing:
            return nothing
        try:
            gauges, window = self.meter.window(clock_mhz, None, None)
        except UnsupportedError as error:
            self.missing = str(error)
            return nothing
        except TransientError:
            return nothing
        return Measured(self.sms, gauges, window)


class MigInstances:
    """Whether the GPU is divided, and into what."""

    def __init__(
        self,
        nvml: Nvml,
        handle: Any,
        parent: Identity,
        model: GpuModel | None,
        clock: Clock,
        longest_us: int,
    ) -> None:
        self._nvml, self._handle, self._parent = nvml, handle, parent
        self._model, self._clock, self._longest_us = model, clock, longest_us
        self._parts: dict[int, _GpuInstance] = {}
        self._profiles: list[Profile] | None = None
        self._power = PowerShares(None if model is None else model.tdp_w)
        self._energy: tuple[int, int, int] | None = None
        """Epoch, mJ and time of the GPU's last energy reading."""
        self._gauges = {
            metric.name: metric.valid for metric in CATALOGUE.gauges if "activity" in metric.name
        } | {"sm_occupancy": CATALOGUE.by_name["sm_occupancy"].valid}
        self._stale = False
        self.active = False
        self.parent_flop: FlopWindow | None = None
        """What the GPU's own window becomes after `samples`: the sum over its instances."""
        self.parent_gauges: dict[str, float] = {}
        """Activities of the GPU by its instances', where it gives none itself."""

    def refresh(self, *, changed: bool = False) -> None:
        """Lists instances anew.  `changed`: the driver has reported a change, after which even
        what looks the same may have been made anew, so nothing goes on from before.

        Raises TransientError, DeviceLostError, DriverGoneError or RestartNeededError.
        """
        self.active = is_divided(self._nvml, self._handle)
        if not self.active:
            self.close()
            return
        groups: dict[int, list[Found]] = {}
        self._stale = True
        for one in find_instances(self._nvml, self._handle, self._parent.slot):
            groups.setdefault(one.gi, []).append(one)
        if groups and self._profiles is None:
            self._profiles = gpu_instance_profiles(self._nvml, self._handle)
        self._stale = False
        energies = {one.labels.uuid: one.energy_mj for one in self._members()}
        before, self._parts = self._parts, {}
        try:
            for gi, found in groups.items():
                sms = gpu_instance_sms(found, self._profiles or [])
                known = None if changed else before.get(gi)
                if known is not None and known.same(found, sms):
                    self._parts[gi] = before.pop(gi)
                    self._parts[gi].members = self._seat(found, energies)
                else:
                    self._parts[gi] = self._new(gi, sms, self._seat(found, energies))
        finally:
            for gone in before.values():
                gone.meter.close()

    def _seat(self, found: list[Found], energies: dict[str, int]) -> list[_Member]:
        return [
            _Member(
                one, SlotLabels(one.slot, one.uuid, self._parent.model),
                Readings(self._nvml, one.handle), energies.get(one.uuid, 0),
            )
            for one in found
        ]  # fmt: skip

    def _new(self, gi: int, sms: int, members: list[_Member]) -> _GpuInstance:
        meter = FlopMeter(
            self._nvml, self._handle, self._clock, self._model, sms, self._longest_us, gi
        )
        _log.info("mig_instance gpu=%s gi=%d sms=%d", self._parent.uuid, gi, sms)
        return _GpuInstance(sms, meter, members)

    def _members(self) -> list[_Member]:
        return [member for part in self._parts.values() for member in part.members]

    def samples(self, parent: Sample) -> list[Sample]:
        """The instances' samples at the reading of their GPU, in order of slot; also sets
        `parent_flop` and `parent_gauges`.

        Raises DeviceLostError, DriverGoneError or RestartNeededError.
        """
        if self._stale:
            with contextlib.suppress(TransientError):  # the list that is known must do
                self.refresh()
        clock_mhz = parent.values.get("sm_clock_mhz")
        measured = {gi: part.measure(clock_mhz) for gi, part in self._parts.items()}
        whole = None if self._model is None else self._model.sm_count
        self.parent_flop = of_whole(list(measured.values()), parent, whole)
        self.parent_gauges = sm_gauges(list(measured.values()), parent, whole)
        members = [
            (member, measured[gi], member.found.ci_slices / _slices(part))
            for gi, part in self._parts.items()
            for member in part.members
        ]
        allocated = self._allocate(parent, [_part(*one) for one in members])
        out = [
            Sample(
                member.labels, parent.energy_epoch,
                self._values(member, one.gauges) | given, _share(one.flop, share),
                parent.labels.slot,
            )
            for (member, one, share), given in zip(members, allocated, strict=True)
        ]  # fmt: skip
        return sorted(out, key=lambda sample: sample.labels.slot)

    def _values(self, member: _Member, gauges: dict[str, float]) -> dict[str, float]:
        values = {
            name: gauges[name]
            for name, (low, high) in self._gauges.items()
            if name in gauges and low <= gauges[name] <= high
        }
        member.readings.begin()
        try:
            values["memory_used_bytes"] = member.readings.memory_used_bytes()
            values["memory_total_bytes"] = member.readings.memory_total_bytes()
        except UnsupportedError:
            pass
        except (TransientError, DeviceLostError, DriverGoneError):
            # Of an instance that is gone; of a GPU that is, its own next reading says so.
            self._stale = True
        return values

    def _allocate(self, parent: Sample, parts: list[Part]) -> list[dict[str, float]]:
        """Power now, and energy since the last reading of the GPU's counter, by instance."""
        out: list[dict[str, float]] = [{} for _ in parts]
        members = self._members()
        if not members:
            self._energy = None  # what is drawn now is no instance's
            return out
        power_w = parent.values.get("power_w")
        if power_w is not None:
            self._power.learn(power_w, parts)
            shares = self._power.shares(round(power_w * 1000), power_w, parts)
            for values, share in zip(out, shares, strict=True):
                values["power_allocated_w"] = share / 1000
        spent_mj, mean_w = self._spent(parent)
        if mean_w is not None:
            shares = self._power.shares(spent_mj, mean_w, parts)
            for member, share in zip(members, shares, strict=True):
                member.energy_mj += share
        if self._energy is not None:
            for member, values in zip(members, out, strict=True):
                values["energy_allocated_mj"] = member.energy_mj
        return out

    def _spent(self, parent: Sample) -> tuple[int, float | None]:
        """The GPU's energy since its last reading, and the mean power; None where it does not
        go on from there."""
        now_mj = parent.values.get("energy_mj")
        if now_mj is None:
            return 0, None
        before, now_us = self._energy, self._clock.monotonic_us()
        self._energy = (parent.energy_epoch, int(now_mj), now_us)
        if before is None or before[0] != parent.energy_epoch or now_mj < before[1]:
            return 0, None
        spent_mj = int(now_mj) - before[1]
        return spent_mj, 1000 * spent_mj / max(1, now_us - before[2])

    def facts(self) -> Sequence[GpuFacts]:
        """Of each instance, in order of slot."""
        out: list[GpuFacts] = []
        for part in self._parts.values():
            missing = dict.fromkeys(self._gauges, part.missing) if part.missing else {}
            out += [
                GpuFacts(
                    slot_text(one.found.slot), one.labels.uuid, one.labels.model,
                    parent=slot_text(self._parent.slot), profile=one.found.profile,
                    sm_count=one.found.sms, flop_method=FLOP_METHOD_NAMES[part.meter.method],
                    flop_reason=part.missing or part.meter.reason,
                    unsupported={"power_w": _SHARED, "gpu_temperature_c": _SHARED,
                                 "sm_clock_mhz": _SHARED, **missing},
                )
                for one in part.members
            ]  # fmt: skip
        return sorted(out, key=lambda one: one.slot)

    def close(self) -> None:
        """Frees the samples; to be called before NVML is shut down."""
        parts, self._parts, self._energy = self._parts, {}, None
        self.parent_flop, self.parent_gauges = None, {}
        for part in parts.values():
            part.meter.close()


def _slices(part: _GpuInstance) -> int:
    return sum(member.found.ci_slices for member in part.members) or len(part.members)


def _part(member: _Member, measured: Measured, share: float) -> Part:
    """A compute instance's part of its GPU instance, by slices."""
    activity = measured.gauges.get("sm_activity")
    sms = measured.sms * share
    return Part(member.found.gi_slices * share, None if activity is None else activity * sms, sms)


def _share(window: FlopWindow | None, share: float) -> FlopWindow | None:
    if window is None or share == 1:
        return window
    return window._replace(
        gflop=window.gflop * share, lo=window.lo * share, hi=window.hi * share,
        fp64_gflop=None if window.fp64_gflop is None else window.fp64_gflop * share,
        int8_gop=None if window.int8_gop is None else window.int8_gop * share,
    )  # fmt: skip
