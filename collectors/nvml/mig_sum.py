"""A divided GPU's FLOP and activities from its instances': pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from collectors.contract.flop import FlopFlag, FlopMethod, FlopWindow
from collectors.contract.source import Sample

_MISMATCH = 0.05
_WORTH_COMPARING = 0.01
"""Tensor activity of the GPU below which a sum may differ by what it rounds."""
_BY_SMS = (
    "sm_activity", "tensor_activity", "tensor_fp64_activity", "tensor_int8_activity",
    "fp64_activity", "fp32_activity", "fp16_activity",
)  # fmt: skip
"""Activities that are a mean over SMs."""


class Measured(NamedTuple):
    """One GPU instance's window."""

    sms: int
    gauges: dict[str, float]
    flop: FlopWindow | None


def of_whole(
    instances: Sequence[Measured], parent: Sample, sm_count: int | None
) -> FlopWindow | None:
    """The GPU's window: the sum over its GPU instances, where all of them were measured.

    Else the GPU's own, as there was work that the sum would miss.  Slices that
    are in no instance do nothing: they count as measured where the GPU's own
    window confirms the sum, else the window stands for the instances' share of
    the SMs only.  PARENT_MISMATCH where both differ by more than 5 %.
    """
    own = parent.flop
    windows = [one.flop for one in instances if one.flop is not None and one.flop.elapsed_us > 0]
    if not windows or len(windows) < len(instances):
        return own
    total = _total(windows)
    if own is not None and own.elapsed_us > 0:
        ours, theirs = total.gflop / total.elapsed_us, own.gflop / own.elapsed_us
        off = abs(ours - theirs) > _MISMATCH * max(ours, theirs)
        busy = parent.values.get("tensor_activity", 0.0) >= _WORTH_COMPARING
        return total._replace(
            flags=total.flags | (FlopFlag.PARENT_MISMATCH if off and busy else FlopFlag.NONE)
        )
    covered = sum(one.sms for one in instances) / sm_count if sm_count else 1.0
    return total._replace(elapsed_us=int(total.elapsed_us * min(1.0, covered)))


def _total(windows: Sequence[FlopWindow]) -> FlopWindow:
    flags = FlopFlag.NONE
    for one in windows:
        flags |= one.flags
    clocks = [one.mean_clock_mhz for one in windows if one.mean_clock_mhz is not None]
    return FlopWindow(
        FlopMethod(max(one.method for one in windows)),
        min(one.elapsed_us for one in windows),
        sum(one.gflop for one in windows),
        sum(one.lo for one in windows),
        sum(one.hi for one in windows),
        flags,
        sum(clocks) / len(clocks) if clocks else None,
        _sum([one.fp64_gflop for one in windows]),
        _sum([one.int8_gop for one in windows]),
    )


def _sum(parts: Sequence[float | None]) -> float | None:
    known = [one for one in parts if one is not None]
    return sum(known) if len(known) == len(parts) else None


def sm_gauges(
    instances: Sequence[Measured], parent: Sample, sm_count: int | None
) -> dict[str, float]:
    """Activities that the GPU's own sample lacks, as means over its SMs; only those that all of
    its instances have.  SMs in no instance do nothing."""
    if not instances or not sm_count:
        return {}
    return {
        name: sum(one.gauges[name] * one.sms for one in instances) / sm_count
        for name in _BY_SMS
        if name not in parent.values and all(name in one.gauges for one in instances)
    }
