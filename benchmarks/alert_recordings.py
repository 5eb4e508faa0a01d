"""Recordings of real servers with a fault added, through the same detectors.

A recording is played once, and over and over where its ends meet, so that no
seam looks like a change; then temperatures are raised by ΔR times the recorded
power behind a lag, ΔR stepped (fast) or ramped over hours (slow), of the whole
node or of one of its GPUs.  Every fault is played to copies of detectors that
learnt from the recording as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.alert_detectors import Absolute, Ours, Seen
from benchmarks.recordings import Floats, Ints, Recording, order, read, tail
from pipeline.watch.physics.detector import Readings
from pipeline.watch.physics.layout import ThermalLayout

Detectors = tuple[Ours, Absolute]
SIGN_C, LIMIT_C, LAG_S = 3 / 12**0.5, 86.0, 4.0
HOUR_S = 3_600
EXTRA = (0.015, 0.06)
"""Bounds of ΔR, °C/W: from a quarter of what such servers have to as much again."""
_START_US = 1_800_000_000_000_000


class Class(NamedTuple):
    """How faults of a class are played, s: learnt before, drawn within, grown over, lasting."""

    learn_s: int
    within_s: int
    grows_s: float
    lasts_s: int
    step_s: int


CLASSES = {
    "fast": Class(HOUR_S, HOUR_S // 2, 0.0, 60, 1),
    "slow": Class(24 * HOUR_S, 2 * HOUR_S, 8.0 * HOUR_S, 9 * HOUR_S, 20),
}


class Case(NamedTuple):
    """From `at_s` on ΔR grows over `grows_s` to `extra` °C/W, of one GPU or (None) of all."""

    at_s: int
    grows_s: float
    extra: float
    gpu: int | None


class Played(NamedTuple):
    """What became of a case: s after the start, None where it never was."""

    sign_s: float | None
    found_s: float | None
    throttle_s: float | None
    cause: str
    right: bool


def detectors(recording: Recording) -> Detectors:
    """Ours and absolute degrees, of a node that is all there is."""
    alone = np.zeros(recording.power_w.shape[1], np.intp)
    layout = ThermalLayout(alone, alone, alone, alone)
    return Ours(layout), Absolute(layout)


def clean(
    recording: Recording, both: Detectors, seconds: Ints, start_s: int, step_s: int
) -> Iterator[int]:
    """Plays a recording as it is; yields the second after each step."""
    for at in range(0, len(seconds) - step_s + 1, step_s):
        mine = seconds[at : at + step_s]
        power, core = recording.power_w[mine].mean(axis=0), recording.temperature_c[mine[-1]]
        _take(both, start_s + at, power, core)
        yield start_s + at + step_s


def _take(both: Detectors, now_s: int, power_w: Floats, core_c: Floats) -> None:
    absent = np.full(len(power_w), np.nan, np.float32)
    power, core = (np.asarray(one, np.float32) for one in (power_w, core_c))
    fresh = np.ones(len(power_w), np.bool_)
    said = Readings(
        power, core, absent, absent, absent, absent, absent, absent, absent, fresh
    )  # fmt: skip
    for one in both:
        one.take(_START_US + now_s * 1_000_000, said)


def play(
    recording: Recording, both: Detectors, case: Case, seconds: Ints, step_s: int
) -> list[Played]:
    """What became of a case that begins with the first of `seconds`, in both detectors."""
    gpus = recording.power_w.shape[1]
    hit = np.zeros(gpus, np.bool_)
    hit[slice(None) if case.gpu is None else case.gpu] = True
    sign = throttle = None
    extra = np.where(hit, case.extra, 0.0)
    lag = np.zeros(gpus)
    follows = -math.expm1(-step_s / LAG_S)
    before = [len(one.seen) for one in both]
    for at in range(0, len(seconds) - step_s + 1, step_s):
        mine = seconds[at : at + step_s]
        power: Floats = recording.power_w[mine].mean(axis=0)
        grown = min(1.0, at / case.grows_s) if case.grows_s else 1.0
        lag += (extra * grown * power - lag) * follows
        core: Floats = recording.temperature_c[mine[-1]] + lag
        sign = at if sign is None and lag.max() > SIGN_C else sign
        throttle = at if throttle is None and core[hit].max() >= LIMIT_C else throttle
        _take(both, case.at_s + at, power, np.round(core))
    return [
        _became(one.seen[known:], case, hit, sign, throttle)
        for one, known in zip(both, before, strict=True)
    ]


def _became(
    seen: Sequence[Seen], case: Case, hit: NDArray[np.bool_], sign: int | None, throttle: int | None
) -> Played:
    mine = [one for one in seen if hit[one.gpus].any()]
    if not mine:
        return Played(sign, None, throttle, "", right=False)
    first = mine[0]
    causes = {"gpu_interface"} if case.gpu is not None else {"node_cooling"}
    causes |= {"gpu_interface"} if len(hit) == 1 else set()
    right = set(first.gpus.tolist()) == set(np.flatnonzero(hit).tolist()) and first.cause in causes
    found_s = (first.time_us - _START_US) / 1e6 - case.at_s
    return Played(sign, found_s, throttle, first.cause, right)


def drawn(rng: np.random.Generator, recording: Recording, kind: str, count: int) -> list[Case]:
    """Faults of a class in order of time: of the node and, where it has more, of single GPUs."""
    how, gpus = CLASSES[kind], len(recording.power_w[0])
    # One after another, so that copies are made while the recording goes on.
    steps = sorted(rng.integers(0, how.within_s // how.step_s, count).tolist())
    least, most = EXTRA
    extra = [least * (most / least) ** part for part in rng.random(count).tolist()]
    return [
        Case(
            how.learn_s + steps[nth] * how.step_s, how.grows_s, extra[nth],
            rng.integers(0, gpus, 1).tolist()[0] if nth % 2 and gpus > 1 else None,
        )
        for nth in range(count)
    ]  # fmt: skip


class Outcomes(NamedTuple):
    """Of a recording and a class: each case with what both detectors made of it, and what they
    reported of the recording as it is."""

    played: list[tuple[Case, list[Played]]]
    false: list[int]
    outliers: list[int]


def outcomes(recording: Recording, how: Class, cases: Sequence[Case]) -> Outcomes:
    """Learns from the recording; each case, in order of time, is played to copies."""
    both, left = detectors(recording), list(cases)
    seconds = order(recording, how.learn_s + how.within_s + how.lasts_s)
    made: list[tuple[Case, list[Played]]] = []
    end_s = how.learn_s + how.within_s
    for now_s in clean(recording, both, seconds[:end_s], 0, how.step_s):
        while left and left[0].at_s == now_s:
            case = left.pop(0)
            mine = seconds[now_s : now_s + how.lasts_s]
            made.append((case, play(recording, deepcopy(both), case, mine, how.step_s)))
    rest = tail(recording, int(seconds[end_s - 1]))
    for _ in clean(recording, both, rest, end_s, how.step_s):
        pass
    return Outcomes(made, [len(one.seen) for one in both], both[0].outliers)


def recorded(folder: Path, seed: int, count: int) -> list[dict[str, Any]]:
    """A row per recording, class and detector; `count` faults of each class and recording."""
    rows: list[dict[str, Any]] = []
    for nth, recording in enumerate(read(folder)):
        for kind, how in CLASSES.items():
            rng = np.random.default_rng([seed, 47, nth, kind == "fast"])
            found = outcomes(recording, how, drawn(rng, recording, kind, count))
            rows += [
                _row(recording, kind, name, at, found)
                for at, name in enumerate((Ours.name, Absolute.name))
            ]
    return rows


def _row(recording: Recording, kind: str, name: str, at: int, all_: Outcomes) -> dict[str, Any]:
    shown = [one[at] for _, one in all_.played if one[at].sign_s is not None]
    delays = sorted(_delay(one) for one in shown)
    leads = [
        one.throttle_s - one.found_s
        for one in shown if one.throttle_s is not None and one.found_s is not None
    ]  # fmt: skip
    in_time = [_in_time(one, kind) for one in shown]
    p95 = delays[int(np.ceil(0.95 * len(delays))) - 1] if delays else np.inf
    return {
        "detector": name, "class": kind, "recording": recording.name, "faults": len(shown),
        "found_before_throttle": round(float(np.mean(in_time)), 3) if shown else None,
        "detect_s_p95": None if np.isinf(p95) else round(p95, 1),
        "lead_s_median": round(float(np.median(leads)), 1) if leads else None,
        "cause_right": round(float(np.mean([one.right for one in shown])), 3) if shown else None,
        "outliers": sorted(all_.outliers) if name == Ours.name else [],
        "false_with_faults": all_.false[at], "false_per_10k_gpu_days": None,
    }  # fmt: skip


def _delay(one: Played) -> float:
    if one.found_s is None or one.sign_s is None:
        return np.inf
    return one.found_s - one.sign_s


def _in_time(one: Played, kind: str) -> bool:
    if one.found_s is None:
        return False
    before = np.inf if one.throttle_s is None else one.throttle_s - one.found_s
    return before >= 3_600 if kind == "slow" else before > 0 and _delay(one) <= 10
