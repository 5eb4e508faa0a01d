"""How early, how surely and how quietly thermal faults are found.

    python -m benchmarks.alerts [--seed K] [--faults N] [--only CLASS] [--data FOLDER] [--quick]
                                [--json]

Random faults over aisc-phase2, half of them fast and half slow, then days
without any; the same data for our detector and for the peers' rules on
absolute degrees.  With --data, faults are added to recordings too.  First sign
is where the deviation without noise passes three times the noise of the
sensor.  Exit status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.alert_detectors import CAUSE, Absolute, Ours, Seen, incidents
from benchmarks.alert_recordings import recorded
from benchmarks.alert_world import DAY_S, FAST, SLOW, WIDE, Injected, Run, draw
from pipeline.watch.physics.layout import ThermalLayout

Detector = Ours | Absolute
_WINDOW_S, _LASTS_S = (3_600.0, 5_400.0), (300.0, 900.0)
_SLOW_STEP_S, _QUIET_STEP_S = 30.0, 5.0
_A_RUN, _WIDE_SHARE = 25, 0.04
_AFTER_S = 60
"""What is found later than this after a fault's end is false, though it is of the same GPUs."""
_SECOND_US, _HOUR_US = 1_000_000, 3_600_000_000


class Outcome(NamedTuple):
    """What became of one fault for one detector; times in s, None where it never was."""

    kind: str
    place: str
    strength: float
    sign_s: float
    """From its start."""
    detect_s: float | None
    """From its first sign."""
    lead_s: float | None
    """From being found to the first throttle."""
    throttles: bool
    cause: str
    right: bool


class Part(NamedTuple):
    """Outcomes of a class for one detector, and what it reported beside."""

    outcomes: list[Outcome]
    false: int


def judge(run: Run, detector: Detector) -> Part:
    """Each fault with what the detector first said of its GPUs; what fits none is false."""
    injected = run.injected()
    outcomes = [_outcome(one, detector.seen) for one in injected if _shows(one)]
    false = [one for one in detector.seen if not any(_fits(one, fault) for fault in injected)]
    return Part(outcomes, incidents(false))


def _shows(fault: Injected) -> bool:
    """Whether there was anything to see: where nobody works, a brake holds nothing down."""
    brake = fault.event.kind.name == "power_brake"
    return (fault.truth.first_throttle_us if brake else fault.truth.first_sign_us) is not None


def _fits(seen: Seen, fault: Injected) -> bool:
    end_us = fault.truth.end_us
    ends_us = 1 << 62 if end_us is None else end_us + _AFTER_S * _SECOND_US
    meets = len(np.intersect1d(seen.gpus, fault.gpus, assume_unique=True)) > 0
    return meets and fault.truth.start_us <= seen.time_us <= ends_us


def _outcome(fault: Injected, seen: Sequence[Seen]) -> Outcome:
    truth, event = fault.truth, fault.event
    brake = event.kind.name == "power_brake"
    sign_us = (truth.first_throttle_us if brake else truth.first_sign_us) or truth.start_us
    first = next((one for one in seen if _fits(one, fault)), None)
    throttle_us = None if brake else truth.first_throttle_us
    found = lead = None
    if first is not None:
        found = (first.time_us - sign_us) / 1e6
        lead = None if throttle_us is None else (throttle_us - first.time_us) / 1e6
    cause = "" if first is None else first.cause
    return Outcome(
        event.kind.name, event.name or "site", round(event.strength, 2),
        (sign_us - truth.start_us) / 1e6, found, lead, throttle_us is not None, cause,
        first is not None and _right(first, fault),
    )  # fmt: skip


def _right(seen: Seen, fault: Injected) -> bool:
    if fault.event.kind.name == "power_brake":
        return seen.cause == "power_brake"
    place = fault.event.place
    where = set(seen.gpus.tolist()) == set(fault.gpus.tolist())
    return seen.cause in CAUSE[place] and where


def played(run: Run, seconds: float) -> list[Detector]:
    """Both detectors after so long a time of a run."""
    layout = ThermalLayout.of(run.layout)
    detectors: list[Detector] = [Ours(layout), Absolute(layout)]
    for said in run.ticks(seconds):
        for one in detectors:
            one.take(run.time_us, said)
    return detectors


def fast_run(seed: int, count: int) -> Run:
    """Sudden faults, one a second."""
    rng = np.random.default_rng([seed, 41])
    entries = Run(seed, 1.0).entries
    return Run(seed, 1.0, draw(rng, FAST, entries, count, _WINDOW_S, _LASTS_S), silent=0.002)


def slow_run(seed: int, count: int, *, wide: bool) -> Run:
    """Creeping faults over days, after a day of learning."""
    rng = np.random.default_rng([seed, 43, wide])
    entries = Run(seed, _SLOW_STEP_S).entries
    window_s = (1.0 * DAY_S, 1.2 * DAY_S if wide else 2.0 * DAY_S)
    faults = draw(rng, WIDE if wide else SLOW, entries, count, window_s, None)
    return Run(seed, _SLOW_STEP_S, faults, silent=0.002)


def classes(seed: int, faults: int, only: str | None = None) -> dict[str, dict[str, Part]]:
    """Per class, or of one class alone, and detector all outcomes."""
    parts: dict[str, dict[str, Part]] = {}
    wide = max(1, round(faults / 2 * _WIDE_SHARE))
    counts = {"fast": faults // 2, "slow": faults - faults // 2 - wide, "wide": wide}
    for name, total in counts.items():
        if only and (name == "fast") != (only == "fast"):
            continue
        most = 1 if name == "wide" else _A_RUN
        for nth, done in enumerate(range(0, total, most)):
            own, count = seed * 1_000 + nth, min(most, total - done)
            if name == "fast":
                run, length_s = fast_run(own, count), _WINDOW_S[1] + 300
            else:
                run, length_s = slow_run(own, count, wide=name == "wide"), 3.0 * DAY_S
            for detector in played(run, length_s):
                into = parts.setdefault("fast" if name == "fast" else "slow", {})
                found = judge(run, detector)
                before = into.get(detector.name, Part([], 0))
                into[detector.name] = Part(
                    [*before.outcomes, *found.outcomes], before.false + found.false
                )
    return parts


def quiet(seed: int, days: float) -> dict[str, float]:
    """False incidents per 10,000 GPU-days without any fault, by detector."""
    run = Run(seed * 1_000 + 900, _QUIET_STEP_S, silent=0.002)
    gpus = len(run.entries) * 8
    scale = 10_000 / (gpus * days)
    return {one.name: incidents(one.seen) * scale for one in played(run, days * DAY_S)}


def row(detector: str, kind: str, part: Part, false: float | None) -> dict[str, Any]:
    """The figures of a class for one detector."""
    outcomes = part.outcomes
    return {
        "detector": detector, "class": kind, "faults": len(outcomes),
        "found_before_throttle": _share([_in_time(one, kind) for one in outcomes]),
        "detect_s_p95": _p95([one.detect_s for one in outcomes if one.kind != "power_brake"]),
        "brake_s_p95": _p95([one.detect_s for one in outcomes if one.kind == "power_brake"]),
        "lead_s_median": _median([one.lead_s for one in outcomes if one.lead_s is not None]),
        "cause_right": _share([one.right for one in outcomes]),
        "false_with_faults": part.false,
        "false_per_10k_gpu_days": None if false is None else round(false, 2),
    }  # fmt: skip


def _in_time(one: Outcome, kind: str) -> bool:
    """Fast: within 10 s of the first sign and before the throttle; slow: an hour before it."""
    if one.detect_s is None:
        return False
    if kind == "fast":
        return one.detect_s <= 10 and (one.lead_s is None or one.lead_s > 0)
    return one.lead_s is None or one.lead_s >= 3_600


def _share(values: Sequence[bool]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _p95(values: Sequence[float | None]) -> float | None:
    """None where more than one in twenty never came."""
    known = sorted(np.inf if one is None else one for one in values)
    if not known:
        return None
    value = known[min(len(known) - 1, int(np.ceil(0.95 * len(known))) - 1)]
    return None if np.isinf(value) else round(value, 1)


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 1) if values else None


def missed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The bars that our rows miss."""
    out: list[str] = []
    for one in rows:
        if one["detector"] != Ours.name:
            continue
        low = {"found_before_throttle": 0.95, "cause_right": 0.90}
        out += [f"{one['class']}: {k}" for k, bar in low.items() if (one[k] or 0) < bar]
        if (one["false_per_10k_gpu_days"] or 0) > 1:
            out.append(f"{one['class']}: false_per_10k_gpu_days")
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row per detector and class, or with `--json` one object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument(
        "--only", choices=("fast", "slow", "recorded"), help="One class of the faults"
    )
    parser.add_argument("--days", type=float, default=3.0, help="without faults, of all GPUs")
    parser.add_argument("--data", type=Path, help="Folder of recordings")
    parser.add_argument("--quick", action="store_true", help="12 faults, an hour without")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    faults, days = (12, 1 / 24) if given.quick else (given.faults, given.days)
    simulated = given.only != "recorded"
    found = classes(given.seed, faults, given.only) if simulated else {}
    false = quiet(given.seed, days) if days and simulated else {}
    rows = [
        row(name, kind, part, false.get(name))
        for kind, by in found.items() for name, part in by.items()
    ]  # fmt: skip
    rows += recorded(given.data, given.seed, max(2, faults // 10)) if given.data else []
    bars = missed(rows)
    if given.json:
        detail = {k: [one._asdict() for one in by[Ours.name].outcomes] for k, by in found.items()}
        print(json.dumps({"benchmark": "alerts", "rows": rows, "missed": bars, "faults": detail}))
    else:
        for one in rows:
            print(", ".join(f"{name} {value}" for name, value in one.items()))
        print("missed: " + (", ".join(bars) or "none"))
    sys.exit(1 if bars else 0)


if __name__ == "__main__":
    main()
