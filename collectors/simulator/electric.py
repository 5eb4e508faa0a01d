"""Clock and power of GPUs at work: under the power limit, heat's slowdown and the brake."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from collectors.simulator.hardware import F64, Bool, Hardware
from collectors.simulator.load import Activity

CLOCK_STEP_MHZ = 15.0
_CLOCK_EXPONENT = 2.4
"""Dynamic power goes with f·V², and V nearly with f."""
_TENSOR, _SM, _DRAM, _FP64 = 1.35, 0.06, 0.25, 0.5
"""Parts of the full dynamic power that full activity of each takes; a busy tensor pipe alone
takes a board to its limit."""


class Board(NamedTuple):
    """What of the hardware matters here, for the GPUs in question; W and MHz."""

    sleep_w: F64
    ready_w: F64
    dynamic_w: F64
    limit_w: F64
    max_clock_mhz: F64
    sleep_clock_mhz: F64


class Electric(NamedTuple):
    """Clock in MHz, whether the power limit holds it down, and power in W."""

    clock_mhz: F64
    capped: Bool
    power_w: F64


def board_of(hardware: Hardware) -> Board:
    """Of all GPUs."""
    return Board(*(getattr(hardware, name) for name in Board._fields))


def electric(board: Board, activity: Activity, most: F64) -> Electric:
    """`most` is the highest clock that heat and the brake leave, relative to the board's."""
    share = activity.sm * _SM
    share += activity.tensor * _TENSOR
    share += activity.dram * _DRAM
    share += activity.fp64 * _FP64
    dynamic = board.dynamic_w * share
    base = np.where(activity.loaded, board.ready_w, board.sleep_w)
    room = np.maximum(board.limit_w - base, 1.0)
    capped = dynamic > room
    ratio = np.ones(len(base))
    ratio[capped] = (room[capped] / dynamic[capped]) ** (1 / _CLOCK_EXPONENT)
    np.minimum(ratio, most, out=ratio)
    clock = np.floor(board.max_clock_mhz * ratio / CLOCK_STEP_MHZ) * CLOCK_STEP_MHZ
    np.maximum(clock, board.sleep_clock_mhz, out=clock)
    slower = clock != board.max_clock_mhz
    dynamic[slower] *= (clock[slower] / board.max_clock_mhz[slower]) ** _CLOCK_EXPONENT
    clock = np.where(activity.loaded, clock, board.sleep_clock_mhz)
    return Electric(clock, capped & activity.loaded, base + dynamic)
