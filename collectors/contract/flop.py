"""What a measurement of delivered FLOP says of one window, whatever the vendor or the method."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple


class FlopMethod(IntEnum):
    """How FLOP were found; the metric `flop_method`."""

    NONE = 0
    """Not measured, and not estimated: an unknown model, or nothing that says."""
    CYCLES = 1
    """Cumulative tensor-pipe cycles: no clock is needed (`gpm_cycles`)."""
    PIPE = 2
    """Tensor activity of contiguous windows × SM clock (`gpm_pipe`)."""
    EXPORTER = 3
    """Tensor activity that an exporter published × SM clock (`dcgm_pipe`)."""
    ESTIMATE = 4
    """GPU utilisation × SM clock × a constant: no measurement (`util_clock`)."""


FLOP_METHOD_NAMES = {
    FlopMethod.NONE: "none",
    FlopMethod.CYCLES: "gpm_cycles",
    FlopMethod.PIPE: "gpm_pipe",
    FlopMethod.EXPORTER: "dcgm_pipe",
    FlopMethod.ESTIMATE: "util_clock",
}
"""The methods as documents and pages name them."""


class FlopFlag(IntFlag):
    """What is doubtful about a window; the metric `flop_flags`."""

    NONE = 0
    PIPE_SPLIT_MISMATCH = 1
    """The pipes do not add up to the activity of any tensor pipe (3 points)."""
    METHODS_DISAGREE = 2
    """Cycles and activity differ by more than 5 %: the activity is published."""
    IMPLAUSIBLE_POWER = 4
    """Busy tensor pipes at near-idle power, or the reverse."""
    IMPOSSIBLE_RATE = 8
    """More than the highest clock could do, or an activity outside [0, 1.02]: not counted."""
    WINDOW_REJECTED = 16
    """Too short, or longer than three intervals (a gap): not counted."""
    STALE = 32
    """The exporter repeats an old value, is paused, or says 0 on a busy GPU: not counted."""
    CLOCK_MOVING = 64
    """The SM clock moved by 20 % or more within the window: wider bounds."""
    PARENT_MISMATCH = 128
    """The MIG instances' sum and the whole GPU's own sample differ by more than 5 %."""


class FlopWindow(NamedTuple):
    """One contiguous window; dense-FP16-equivalent hardware GFLOP with the bounds of the measurement.

    `elapsed_us` is the part of time that was measured, 0 for a window that does
    not count (its flags say why).
    """

    method: FlopMethod
    elapsed_us: int
    gflop: float
    lo: float
    hi: float
    flags: FlopFlag = FlopFlag.NONE
    mean_clock_mhz: float | None = None
    fp64_gflop: float | None = None
    """FLOP of the FP64 tensor pipe; in no headline."""
    int8_gop: float | None = None
    """Operations of the integer tensor pipe: not floating-point, never added to FLOP."""
