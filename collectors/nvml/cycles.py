"""Cumulative tensor cycles (metrics 248 to 254): what they mean here, found out before use.

No document settles whether they are summed over SMs or a mean of them, nor
whether a request gives totals or the difference between two samples.  So they
are compared with the SM clock and the tensor activity while the GPU is busy,
and used only if one reading of them agrees with both within 3 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from collectors.kit.flops import Pipes

ELAPSED, ANY, DMMA, HMMA, IMMA, DFMA = 248, 250, 251, 252, 253, 254
"""Metric ids of nvml.h; 249 (SM active) says nothing of tensor pipes."""
IDS = (ELAPSED, ANY, DMMA, HMMA, IMMA, DFMA)
_AGREEMENT = 0.03
_WINDOWS = 5
_BUSY = 0.05
"""Least tensor activity at which a comparison says something."""
_STEADY = 0.05
"""A clock that moves more within a window is not known well enough to compare with."""
_MISSING_AT_MOST = 2
_WRAPS = (32, 40, 48, 52, 53, 56, 64)
_SPARE = 1.05
"""Times what the highest clock makes possible: more is a reset, not a wrap."""


class Reading(NamedTuple):
    """A way to read the counters."""

    totals: bool
    """They go on from sample to sample, else each request gives a difference."""
    summed: bool
    """Over SMs, else a mean of them."""


class Cycles(NamedTuple):
    """Per SM, within one window."""

    elapsed: float
    pipes: Pipes


class Context(NamedTuple):
    """What is known of a window from elsewhere."""

    elapsed_us: int
    mean_mhz: float
    most_mhz: float
    """No SM is faster."""
    moved: float
    """Share by which the clock moved."""
    tensor: float
    """Activity of any tensor pipe, a ratio."""


_READINGS = tuple(Reading(totals, summed) for totals in (True, False) for summed in (True, False))


class CycleCounters:
    """The counters of one GPU or GPU instance with so many SMs."""

    def __init__(self, sm_count: int | None) -> None:
        self._sm_count = sm_count
        self._last: Mapping[int, float] | None = None
        self._errors: dict[Reading, list[tuple[float, float]]] = {way: [] for way in _READINGS}
        self._missing = 0
        self.reading: Reading | None = None
        """How they are read; None until that is known."""
        self.refused = "" if sm_count else "gpm_cycles: the number of SMs is not known"
        self.reason = self.refused or "gpm_cycles: waits for tensor work to compare with"

    def wanted(self, tensor: float) -> bool:
        """Whether the counters of a window with this activity are worth a call."""
        return not self.refused and (self.reading is not None or tensor >= _BUSY)

    def skip(self) -> None:
        """A window was not asked for: the next one has nothing to go on from."""
        self._last = None

    def take(self, values: Mapping[int, float], context: Context) -> Cycles | None:
        """A window's cycles from what the driver gave; None while they are not understood, and
        where they have begun anew."""
        if ELAPSED not in values or ANY not in values:
            self._absent()
            return None
        self._missing = 0
        before, self._last = self._last, values
        if self.reading is None:
            self._compare(before, values, context)
            return None
        return self._cycles(self.reading, before, values, context)

    def _absent(self) -> None:
        self._last = None
        self._missing += 1
        if self.reading is None and self._missing >= _MISSING_AT_MOST:
            self._refuse("this driver does not give the counters")

    def _refuse(self, why: str) -> None:
        self.refused = self.reason = f"gpm_cycles: {why}"

    def _cycles(
        self,
        way: Reading,
        before: Mapping[int, float] | None,
        values: Mapping[int, float],
        context: Context,
    ) -> Cycles | None:
        """Per SM, by one way of reading; None where it gives nothing."""
        sms = (self._sm_count or 1) if way.summed else 1
        steps = values
        if way.totals:
            most = context.most_mhz * context.elapsed_us * sms * _SPARE
            steps = _steps(before or {}, values, most)
        elapsed, busy, double, more = map(steps.get, (ELAPSED, ANY, DFMA, DMMA))
        if elapsed is None or busy is None:
            return None
        double = (double or 0.0) + (more or 0.0) if double is not None or more is not None else None
        pipes = Pipes(
            busy / sms, _per(steps.get(HMMA), sms), _per(steps.get(IMMA), sms), _per(double, sms)
        )
        return Cycles(elapsed / sms, pipes)

    def _compare(
        self, before: Mapping[int, float] | None, values: Mapping[int, float], context: Context
    ) -> None:
        """Tries all ways on a busy window with a steady clock, and decides after some."""
        if before is None or context.tensor < _BUSY or context.moved > _STEADY:
            return
        clock = context.mean_mhz * context.elapsed_us
        for way, errors in self._errors.items():
            cycles = self._cycles(way, before, values, context)
            if cycles is None or cycles.elapsed <= 0 or clock <= 0:
                errors.append((float("inf"), float("inf")))
            else:
                tensor = cycles.pipes.any / cycles.elapsed
                errors.append((cycles.elapsed / clock - 1, tensor / context.tensor - 1))
        if len(self._errors[_READINGS[0]]) == _WINDOWS:
            self._decide()

    def _decide(self) -> None:
        off = {
            way: (_median(abs(one) for one, _ in errors), _median(abs(two) for _, two in errors))
            for way, errors in self._errors.items()
        }
        best = min(_READINGS, key=lambda way: max(off[way]))
        clock_off, tensor_off = off[best]
        if max(clock_off, tensor_off) <= _AGREEMENT:
            self.reading, self.reason = best, ""
            return
        self._refuse(
            f"the counters differ from the SM clock by {clock_off:.1%} and from the tensor "
            f"activity by {tensor_off:.1%} at best (more than {_AGREEMENT:.0%})"
        )


def _per(total: float | None, sms: int) -> float | None:
    return None if total is None else total / sms


def _steps(before: Mapping[int, float], now: Mapping[int, float], most: float) -> dict[int, float]:
    """What totals grew by, without those that have no value to go on from or were reset."""
    steps: dict[int, float] = {}
    for metric, value in now.items():
        last = before.get(metric)
        if last is None:
            continue
        step = value - last
        if 0 <= step <= most:
            steps[metric] = step
        elif step < 0 and (wrapped := _wrapped(last, value, most)) is not None:
            steps[metric] = wrapped
    return steps


def _wrapped(before: float, now: float, most: float) -> float | None:
    """What a total that fell grew by, where one of the usual widths explains it by no more than
    `most`; None for a reset."""
    for bits in _WRAPS:
        size = float(1 << bits)
        if before <= size and now - before + size <= most:
            return now - before + size
    return None


def _median(values: Iterable[float]) -> float:
    """Without `statistics`, which would cost an agent half a megabyte."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[~middle]) / 2
