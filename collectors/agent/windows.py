"""Windows of FLOP that follow one another."""

from __future__ import annotations

from collectors.contract.flop import FlopWindow


def joined(first: FlopWindow | None, then: FlopWindow | None) -> FlopWindow | None:
    """Two windows that follow one another as one; the later says the method."""
    if first is None or then is None:
        return first or then
    elapsed_us = first.elapsed_us + then.elapsed_us
    clock_mhz = then.mean_clock_mhz
    if first.mean_clock_mhz is not None and clock_mhz is not None and elapsed_us:
        weighted = first.mean_clock_mhz * first.elapsed_us + clock_mhz * then.elapsed_us
        clock_mhz = weighted / elapsed_us
    return FlopWindow(
        then.method, elapsed_us, first.gflop + then.gflop, first.lo + then.lo, first.hi + then.hi,
        first.flags | then.flags, clock_mhz,
        _sum(first.fp64_gflop, then.fp64_gflop), _sum(first.int8_gop, then.int8_gop),
    )  # fmt: skip


def _sum(first: float | None, then: float | None) -> float | None:
    return first if then is None else then if first is None else first + then
