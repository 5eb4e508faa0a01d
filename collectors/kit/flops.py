"""FLOP of one window from what a GPU says of itself: pure functions, whoever measures.

Formulas: tensor activity × SMs × FLOP per SM and clock × mean SM clock × time,
or tensor cycles × FLOP per SM and clock.  An activity is a share of cycles, so
the plain mean of the clock is exact, and neither a peak nor a boost clock is
needed.  It is dense-FP16-equivalent hardware FLOP: tensor time priced at the
FP16 rate, padding included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from collectors.contract.flop import FlopFlag, FlopMethod, FlopWindow
from collectors.contract.models import GpuModel

ESTIMATE_K = 0.35
"""Tensor activity per GPU utilisation where nothing measures it (range 0.05–0.75)."""
AT_MOST = 1.02
"""Activities and rates up to so much of the most that there can be are believed."""
ERRORS = {FlopMethod.CYCLES: 0.03, FlopMethod.PIPE: 0.05, FlopMethod.EXPORTER: 0.10}
"""Bounds of the measurement against counted FLOP, by method, at a steady clock."""
_MOVING_ERROR = 0.10
_MOVING_SHARE = 0.20
_SPLIT_POINTS = 0.03
_GIGA = 1e-9
_NO_FLAGS = FlopFlag.NONE
"""By a name of its own: looking a member up in its enumeration costs as much as a window's sums."""
_CYCLES, _MOVING, _IMPOSSIBLE = FlopMethod.CYCLES, FlopFlag.CLOCK_MOVING, FlopFlag.IMPOSSIBLE_RATE


class Rates(NamedTuple):
    """Work per clock cycle of a whole device (or instance) at full tensor activity, in units of
    1e9, so that times MHz and µs it is GFLOP (Gop)."""

    fp16: float
    fp64: float | None = None
    int8: float | None = None
    most_mhz: float | None = None
    """The highest SM clock there can be."""


class Pipes(NamedTuple):
    """Activities (ratios), or cycles, of the tensor pipes: of any, and of each that is known."""

    any: float
    half: float | None = None
    """HMMA: FP16, BF16, TF32 and FP8."""
    integer: float | None = None
    """IMMA."""
    double: float | None = None
    """DFMA and DMMA together."""


class ClockSpan(NamedTuple):
    """The SM clock over a window."""

    mean_mhz: float
    low_mhz: float
    high_mhz: float
    buffered: bool = False
    """Known from many readings within the window, not from its ends alone."""


def rates_of(
    model: GpuModel | None, sm_count: int | None = None, max_clock_mhz: float | None = None
) -> Rates | None:
    """None for a model that is unknown or without rates, or where nobody says how many SMs.

    `sm_count` and `max_clock_mhz` are the device's own words.  The clock limit
    is the higher of the device's and the table's, as some drivers say too little.
    """
    if model is None or model.fp16_flop_per_sm_clock is None:
        return None
    sms = sm_count or model.sm_count
    if not sms:
        return None
    fp64, int8 = model.fp64_tensor_flop_per_sm_clock, model.int8_tensor_op_per_sm_clock
    return Rates(
        sms * model.fp16_flop_per_sm_clock * _GIGA,
        None if fp64 is None else sms * fp64 * _GIGA,
        None if int8 is None else sms * int8 * _GIGA,
        max((x for x in (max_clock_mhz, model.max_sm_clock_mhz) if x), default=None),
    )


def ends_clock(before_mhz: float | None, now_mhz: float) -> ClockSpan:
    """The clock of a window of which the ends are known, or the later end alone."""
    if before_mhz is None or before_mhz == now_mhz:
        return ClockSpan(now_mhz, now_mhz, now_mhz)
    low, high = sorted((before_mhz, now_mhz))
    return ClockSpan((low + high) / 2, low, high)


def buffered_clock(ends: ClockSpan, samples_mhz: Sequence[float], covered: float) -> ClockSpan:
    """With evenly spaced readings that cover a share (0–1) of the window; the ends stand for
    the rest of it."""
    mean_mhz = covered * sum(samples_mhz) / len(samples_mhz) + (1 - covered) * ends.mean_mhz
    low, high = min(ends.low_mhz, *samples_mhz), max(ends.high_mhz, *samples_mhz)
    return ClockSpan(mean_mhz, low, high, buffered=True)


def float_share(pipes: Pipes) -> tuple[float, bool]:
    """What of any tensor pipe was floating-point up to FP32, and whether the pipes fail to add
    up to it (by more than 3 points of `any` in ratios).

    T = max(HMMA, ANY − IMMA − DFMA − DMMA), at most ANY: a pipe that the GPU
    does not tell of is none of T's, and one that it tells of too little
    (Blackwell's newer tensor pipe) does not take from T.
    """
    whole, half, integer, double = pipes
    rest = whole - (integer or 0.0) - (double or 0.0)
    if half is None:
        return max(0.0, rest), False
    known = integer is not None and double is not None
    mismatch = known and abs(rest - half) > _SPLIT_POINTS
    return min(max(half, rest, 0.0), whole), mismatch


def _plausible(pipes: Pipes) -> bool:
    """Whether all that is known of the pipes can be."""
    whole, half, integer, double = pipes
    return (
        0 <= whole <= AT_MOST
        and (half is None or 0 <= half <= AT_MOST)
        and (integer is None or 0 <= integer <= AT_MOST)
        and (double is None or 0 <= double <= AT_MOST)
    )


def uncounted(method: FlopMethod, flags: FlopFlag = _NO_FLAGS) -> FlopWindow:
    """A window that does not count; its flags say why, none: it goes on."""
    return FlopWindow(method, 0, 0.0, 0.0, 0.0, flags)


def by_activity(
    method: FlopMethod, rates: Rates, pipes: Pipes, clock: ClockSpan, elapsed_us: int
) -> FlopWindow:
    """FLOP from the pipes' activities (ratios) and the SM clock.

    What is impossible (an activity outside [0, 1.02], more than the highest
    clock could do) does not count, and is flagged; nothing is clipped.
    """
    share, mismatch = float_share(pipes)
    too_fast = rates.most_mhz is not None and share * clock.mean_mhz > AT_MOST * rates.most_mhz
    if too_fast or not _plausible(pipes):
        return uncounted(method, _IMPOSSIBLE)
    flags = FlopFlag.PIPE_SPLIT_MISMATCH if mismatch else _NO_FLAGS
    error = ERRORS[method]
    spread = clock.high_mhz - clock.low_mhz
    if spread >= _MOVING_SHARE * clock.mean_mhz > 0:
        flags |= _MOVING
        # Of a clock that is known at the ends only, the mean may lie anywhere between them.
        ends_only = 0.0 if clock.buffered else spread / 2 / clock.mean_mhz
        error = max(error, _MOVING_ERROR, ends_only)
    cycles = clock.mean_mhz * elapsed_us
    return _window(method, rates, pipes, share, cycles, elapsed_us, error, flags, clock.mean_mhz)


def by_cycles(rates: Rates, pipes: Pipes, elapsed_cycles: float, elapsed_us: int) -> FlopWindow:
    """FLOP from an SM's cycles, its pipes' and all that passed; the clock follows from them.

    Impossible as in `by_activity`.
    """
    if elapsed_cycles == 0 and not any(pipes):
        return FlopWindow(_CYCLES, elapsed_us, 0.0, 0.0, 0.0)  # SMs that are switched off
    if elapsed_cycles <= 0 or elapsed_us <= 0:
        return uncounted(_CYCLES, _IMPOSSIBLE)
    whole, half, integer, double = pipes
    ratios = Pipes(
        whole / elapsed_cycles, _per(half, elapsed_cycles), _per(integer, elapsed_cycles),
        _per(double, elapsed_cycles),
    )  # fmt: skip
    mean_mhz = elapsed_cycles / elapsed_us
    share, mismatch = float_share(ratios)
    too_fast = rates.most_mhz is not None and mean_mhz > AT_MOST * rates.most_mhz
    if too_fast or not _plausible(ratios):
        return uncounted(_CYCLES, _IMPOSSIBLE)
    flags = FlopFlag.PIPE_SPLIT_MISMATCH if mismatch else _NO_FLAGS
    error = ERRORS[_CYCLES]
    return _window(
        _CYCLES, rates, ratios, share, elapsed_cycles, elapsed_us, error, flags, mean_mhz
    )


def _per(cycles: float | None, elapsed: float) -> float | None:
    return None if cycles is None else cycles / elapsed


def _window(  # noqa: PLR0917 - the parts of a product
    method: FlopMethod,
    rates: Rates,
    pipes: Pipes,
    share: float,
    cycles: float,
    elapsed_us: int,
    error: float,
    flags: FlopFlag,
    mean_mhz: float,
) -> FlopWindow:
    fp16, fp64, int8, _ = rates
    double, integer = pipes.double, pipes.integer
    gflop = share * fp16 * cycles
    lo, hi = gflop * (1 - error if error < 1 else 0.0), gflop * (1 + error)
    return FlopWindow(
        method, elapsed_us, gflop, lo, hi, flags, mean_mhz,
        None if double is None or fp64 is None else double * fp64 * cycles,
        None if integer is None or int8 is None else integer * int8 * cycles,
    )  # fmt: skip


def estimated(rates: Rates, utilization: float, clock: ClockSpan, elapsed_us: int) -> float | None:
    """GFLOP guessed from GPU utilisation (ratio) and the SM clock; None for what is no ratio.

    No bound holds for it: full utilisation goes with 5–75 % of the peak.
    """
    if not 0 <= utilization <= 1:
        return None
    return utilization * ESTIMATE_K * rates.fp16 * clock.mean_mhz * elapsed_us


class PowerCheck:
    """Compares activity with power: one that does not fit the other is doubtful."""

    def __init__(self, rated_w: float | None) -> None:
        self._rated_w = rated_w
        self._idle_w: float | None = None
        self._hot_without_work = 0

    def flags(self, tensor: float, sm: float | None, power_w: float | None) -> FlopFlag:
        """IMPLAUSIBLE_POWER where tensor pipes are busy more than half of the time at less than
        1.3 × the power that was seen at idle, or where more than half of the rated power goes
        with idle SMs twice in a row (power is a mean over the last second, so once is none)."""
        if power_w is None:
            return _NO_FLAGS
        idle = sm is not None and sm < _IDLE_ACTIVITY
        if idle and (self._idle_w is None or power_w < self._idle_w):
            self._idle_w = power_w
        hot = idle and self._rated_w is not None and power_w > _HOT_SHARE * self._rated_w
        self._hot_without_work = self._hot_without_work + 1 if hot else 0
        cold = (
            tensor > _BUSY_TENSOR
            and self._idle_w is not None
            and power_w < _COLD_TIMES * self._idle_w
        )
        doubtful = cold or self._hot_without_work > 1
        return FlopFlag.IMPLAUSIBLE_POWER if doubtful else _NO_FLAGS


_IDLE_ACTIVITY, _BUSY_TENSOR = 0.01, 0.5
_HOT_SHARE, _COLD_TIMES = 0.5, 1.3
