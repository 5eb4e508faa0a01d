"""FLOP of one window from what a GPU says of itself: pure functions.

Formulas: activity × SMs × FLOP per SM and clock × mean SM clock × time.  The
activity is a share of cycles, so the plain mean of the clock is exact, and
neither a peak nor a boost clock is needed.  It is dense-FP16-equivalent
hardware FLOP: tensor time priced at the FP16 rate, padding included.
"""

from __future__ import annotations

from typing import NamedTuple

from collectors.contract.models import GpuModel

ESTIMATE_K = 0.35
"""Tensor activity per GPU utilisation where nothing measures it (range 0.05–0.75)."""
_STEADY, _MOVING, _SCRAPED = 0.05, 0.10, 0.10
"""Error bounds: GPM at a steady clock, GPM with the clock moving, tensor activity of GPUs
before Hopper (by DCGM)."""
_MOVING_SHARE = 0.20
_ACTIVITY_AT_MOST = 1.02


class Measured(NamedTuple):
    """GFLOP of a window with the bounds of the measurement."""

    gflop: float
    lo: float
    hi: float


def _rate_gflop_per_mhz_us(model: GpuModel) -> float | None:
    """GFLOP per MHz of SM clock and µs at full tensor activity; None for a model without rates."""
    if model.sm_count is None or model.fp16_flop_per_sm_clock is None:
        return None
    return model.sm_count * model.fp16_flop_per_sm_clock * 1e-9


def measured(
    model: GpuModel, activity: float, clocks_mhz: tuple[float, float], elapsed_us: int
) -> Measured | None:
    """FLOP from tensor activity (ratio) and the SM clock at both ends of the window.

    None where the model has no rates, or where the result is impossible: an
    activity outside [0, 1.02], or more than the highest clock could do.
    """
    rate = _rate_gflop_per_mhz_us(model)
    if rate is None or not 0 <= activity <= _ACTIVITY_AT_MOST:
        return None
    mean_mhz = sum(clocks_mhz) / 2
    most_mhz = model.max_sm_clock_mhz
    if most_mhz is not None and activity * mean_mhz > _ACTIVITY_AT_MOST * most_mhz:
        return None
    gflop = activity * rate * mean_mhz * elapsed_us
    moving = abs(clocks_mhz[0] - clocks_mhz[1]) >= _MOVING_SHARE * mean_mhz
    error = (_MOVING if moving else _STEADY) if model.gpm else _SCRAPED
    return Measured(gflop, gflop * (1 - error), gflop * (1 + error))


def estimated(
    model: GpuModel, utilization: float, clocks_mhz: tuple[float, float], elapsed_us: int
) -> float | None:
    """GFLOP guessed from GPU utilisation (ratio) and the SM clock; None without rates.

    No bound holds for it: full utilisation goes with 5–75 % of the peak.
    """
    rate = _rate_gflop_per_mhz_us(model)
    if rate is None or not 0 <= utilization <= 1:
        return None
    return utilization * ESTIMATE_K * rate * sum(clocks_mhz) / 2 * elapsed_us
