"""Recordings of real servers with a fault added, through the same detectors.

A recording is played over and over, as it is at first; then temperatures are
raised by ΔR times the recorded power behind a lag, ΔR stepped (fast) or ramped
over hours (slow).  Every fault is played to detectors of its own.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.alert_detectors import Absolute, Ours, Seen
from pipeline.watch.physics.detector import Readings
from pipeline.watch.physics.layout import ThermalLayout

Floats = NDArray[np.floating[Any]]
SIGN_C, LIMIT_C, LAG_S, STEP_S = 3 / 12**0.5, 86.0, 4.0, 1.0
LEARN_S, HOUR_S = 2_700.0, 3_600.0
EXTRAS = (0.015, 0.03, 0.06)
"""ΔR of the faults, °C/W: from a quarter of what such servers have to as much again."""
_START_US = 1_800_000_000_000_000


class Recording(NamedTuple):
    """°C and W of G GPUs at even seconds: [seconds, G]."""

    name: str
    power_w: Floats
    temperature_c: Floats


def read(folder: Path) -> list[Recording]:
    """The recordings with power and temperature of some minutes."""
    out = [_server(path) for path in sorted(folder.glob("nanogpt-8gpu-node/*.csv.gz"))]
    out += [_single(path) for path in sorted(folder.glob("gpu-power-benchmark/*square*.csv.gz"))]
    return out


def _server(path: Path) -> Recording:
    rows: dict[int, list[tuple[float, float, float]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file, skipinitialspace=True):
            if row["power_W"] and row["temperature_C"]:
                at_s = datetime.fromisoformat(row["timestamp"]).timestamp()
                told = (at_s, float(row["power_W"]), float(row["temperature_C"]))
                rows.setdefault(int(row["gpu_index"]), []).append(told)
    return _even(path.name, [np.array(each) for _, each in sorted(rows.items())])


def _single(path: Path) -> Recording:
    rows: list[tuple[float, float, float]] = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file, skipinitialspace=True):
            stamp = datetime.strptime(row["timestamp"] + " +0000", "%Y/%m/%d %H:%M:%S.%f %z")
            power = next(v for k, v in row.items() if k.startswith("power.draw"))
            told = (float(power.split()[0]), float(row["temperature.gpu"]))
            rows.append((stamp.timestamp(), *told))
    return _even(path.name, [np.array(rows)])


def _even(name: str, gpus: Sequence[Floats]) -> Recording:
    """Power as the mean of each second, temperature as its last sample."""
    seconds = int(min(one[-1, 0] for one in gpus) - gpus[0][0, 0])
    power, core = (np.zeros((seconds, len(gpus)), np.float32) for _ in range(2))
    for gpu, one in enumerate(gpus):
        edges = np.searchsorted(one[:, 0] - one[0, 0], np.arange(seconds + 1))
        for at in range(seconds):
            mine = one[edges[at] : max(edges[at + 1], edges[at] + 1)]
            power[at, gpu], core[at, gpu] = mine[:, 1].mean(), mine[-1, 2]
    return Recording(name, power, core)


class Case(NamedTuple):
    """A fault in a hall of copies: from `at_s` on, ΔR grows over `grows_s` to `extra` °C/W."""

    at_s: float
    grows_s: float
    extra: float


class Played(NamedTuple):
    """What became of a case: s after the start, None where it never was."""

    sign_s: float | None
    found_s: float | None
    throttle_s: float | None
    cause: str
    right: bool
    false: int
    """Reported before it."""


def play(recording: Recording, case: Case, lasts_s: float, step_s: float) -> list[Played]:
    """What became of a case in both detectors, ours first."""
    gpus = recording.power_w.shape[1]
    alone = np.zeros(gpus, np.intp)
    layout = ThermalLayout(alone, alone, alone, alone)
    detectors = (Ours(layout), Absolute(layout))
    sign = throttle = None
    lag, every = np.zeros(gpus), round(step_s)
    for tick in range(round(lasts_s / step_s)):
        now_s = tick * step_s
        at = (tick * every) % (len(recording.power_w) - every + 1)
        power = recording.power_w[at : at + every].mean(axis=0)
        core = recording.temperature_c[at + every - 1]
        lag += (_grown(case, now_s) * power - lag) * -np.expm1(-step_s / LAG_S)
        sign = now_s if sign is None and lag.max() > SIGN_C else sign
        throttle = now_s if throttle is None and (core + lag).max() >= LIMIT_C else throttle
        said = _said(np.asarray(power, np.float32), np.asarray(np.round(core + lag), np.float32))
        for one in detectors:
            one.take(_START_US + round(now_s * 1e6), said)
    return [_became(one.seen, case, sign, throttle, gpus) for one in detectors]


def _grown(case: Case, now_s: float) -> float:
    if now_s < case.at_s:
        return 0.0
    return case.extra * min(1.0, (now_s - case.at_s) / max(case.grows_s, 1e-9))


def _said(power: Floats, core: Floats) -> Readings:
    absent = np.full(len(power), np.nan, np.float32)
    racks = np.full(len(power), np.nan, np.float32)
    fresh = np.ones(len(power), np.bool_)
    return Readings(power, core, absent, absent, racks, absent, absent, absent, absent, fresh)


def _became(
    seen: Sequence[Seen], case: Case, sign_s: float | None, throttle_s: float | None, gpus: int
) -> Played:
    times_s = [(one.time_us - _START_US) / 1e6 for one in seen]
    after = [at for at, time_s in enumerate(times_s) if time_s >= case.at_s]
    if not after:
        return Played(sign_s, None, throttle_s, "", right=False, false=len(seen))
    first = seen[after[0]]
    right = len(first.gpus) == gpus and first.cause in {"node_cooling", "gpu_interface"}
    return Played(sign_s, times_s[after[0]], throttle_s, first.cause, right, len(seen) - len(after))


def cases(recording: Recording) -> dict[str, list[tuple[Case, float, float]]]:
    """Per class faults with how long they are played, and at which step."""
    start = LEARN_S + len(recording.power_w) - LEARN_S % len(recording.power_w)
    steps = [
        Case(start + part * len(recording.power_w), 0.0, extra)
        for part, extra in zip((0.15, 0.45, 0.8, 0.3), (*EXTRAS, EXTRAS[1]), strict=True)
    ]
    ramps = [Case(3 * HOUR_S, 8 * HOUR_S, extra) for extra in EXTRAS]
    return {
        "fast": [(case, case.at_s + 300, STEP_S) for case in steps],
        "slow": [(case, 11 * HOUR_S, 10 * STEP_S) for case in ramps],
    }


def recorded(folder: Path) -> list[dict[str, Any]]:
    """A row per recording, class and detector."""
    rows: list[dict[str, Any]] = []
    for recording in read(folder):
        for kind, each in cases(recording).items():
            played = [play(recording, *one) for one in each]
            rows += [
                _row(recording, kind, name, [one[nth] for one in played])
                for nth, name in enumerate((Ours.name, Absolute.name))
            ]
    return rows


def _row(recording: Recording, kind: str, name: str, found: Sequence[Played]) -> dict[str, Any]:
    shown = [one for one in found if one.sign_s is not None]
    delays = [_delay(one) for one in shown]
    leads = [
        one.throttle_s - one.found_s
        for one in shown if one.throttle_s is not None and one.found_s is not None
    ]  # fmt: skip
    in_time = [_in_time(one, kind) for one in shown]
    worst = max(delays, default=np.inf)
    return {
        "detector": name, "class": kind, "recording": recording.name, "faults": len(shown),
        "found_before_throttle": round(float(np.mean(in_time)), 3) if shown else None,
        "detect_s_p95": None if np.isinf(worst) else round(worst, 1),
        "lead_s_median": round(float(np.median(leads)), 1) if leads else None,
        "cause_right": round(float(np.mean([one.right for one in shown])), 3) if shown else None,
        "false_with_faults": sum(one.false for one in found), "false_per_10k_gpu_days": None,
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
