"""How near the simulator is to recordings: heat of a real server, distributions of real clusters.

    python -m benchmarks.calibrate --data FOLDER [--plots FOLDER] [--json]

FOLDER holds `nanogpt-8gpu-node/*.csv.gz` (power and temperature of an 8-GPU
server), `acme-cdf/seren_cdf.csv.gz` and `acme-cdf/cluster_summary.csv`
(distributions and jobs of a training cluster); their sources are named in
docs/simulator.md.  Exit status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.simulator.fleet import Fleet
from collectors.simulator.heat import FAST_SHARE
from collectors.simulator.sites import make_site
from collectors.simulator.workload import Workload

F64 = NDArray[np.float64]
START_US = 1_799_000_000_000_000
QUANTILES = (10, 25, 50, 75, 90, 99)
_FAST_S = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 9, 14)
_SLOW_S = (15, 20, 30, 45, 60, 90, 120, 180, 300)
_RMSE_BAR_C, _POINTS_BAR = 2.0, 5.0


@dataclass(frozen=True, slots=True)
class Fit:
    """One GPU of a recording: constants in s, K/W and °C, and how well they explain it."""

    file: str
    gpu: int
    fast_s: float
    slow_s: float
    resistance_k_per_w: float
    inlet_c: float
    rmse_c: float


@dataclass(frozen=True, slots=True)
class Point:
    """A recorded quantile, and the share of the simulated samples at or below its value, in %."""

    metric: str
    quantile: int
    value: float
    recorded: float
    simulated: float

    @property
    def distance(self) -> float:
        """Points between the two."""
        return abs(self.simulated - self.recorded)


def lagged(time_s: F64, power_w: F64, constant_s: float) -> F64:
    """First-order lag of power, which holds over the step that ends at its sample."""
    out = np.empty_like(power_w)
    out[0] = power_w[0]
    keep = np.exp(-np.diff(time_s) / constant_s)
    for at in range(1, len(out)):
        out[at] = out[at - 1] * keep[at - 1] + power_w[at] * (1 - keep[at - 1])
    return out


def solve(table: F64, wanted: F64) -> F64:
    """Least squares."""
    solve_for: Any = np.linalg.lstsq
    return np.asarray(solve_for(table, wanted, rcond=None)[0], np.float64)


def fit_heat(file: str, gpu: int, samples: F64) -> Fit:
    """The two constants, the resistance and the inlet that explain [time_s, power_w, °C] best.

    The model is the simulator's: T = inlet + R·(s·y₁ + (1 − s)·y₂) with s fixed.
    """
    time_s, power_w, core_c = samples.T
    slow = {constant: lagged(time_s, power_w, constant) for constant in _SLOW_S}
    best = Fit(file, gpu, 0, 0, 0, 0, np.inf)
    for fast_s in _FAST_S:
        fast = lagged(time_s, power_w, fast_s)
        for slow_s, tail in slow.items():
            mixed = FAST_SHARE * fast + (1 - FAST_SHARE) * tail
            table = np.stack([np.ones_like(mixed), mixed], axis=1)
            found = solve(table, core_c)
            off: F64 = table @ found - core_c
            rmse_c = float(np.sqrt(np.mean(off**2)))
            if rmse_c < best.rmse_c:
                best = Fit(file, gpu, fast_s, slow_s, float(found[1]), float(found[0]), rmse_c)
    return best


def read_server(path: Path) -> dict[int, F64]:
    """Per GPU [time_s, power_w, °C] of a recording."""
    rows: dict[int, list[tuple[float, float, float]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file, skipinitialspace=True):
            if not (row["power_W"] and row["temperature_C"]):
                continue  # not told is not zero
            at_s = datetime.fromisoformat(row["timestamp"]).timestamp()
            told = (at_s, float(row["power_W"]), float(row["temperature_C"]))
            rows.setdefault(int(row["gpu_index"]), []).append(told)
    return {gpu: np.array(each) for gpu, each in sorted(rows.items())}


def read_distributions(path: Path) -> dict[str, F64]:
    """Per metric [value, % of the samples at or below it]."""
    rows: dict[str, list[tuple[float, float]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            told = (float(row["value"]), float(row["cum_pct"]))
            rows.setdefault(row["metric"], []).append(told)
    return {name: np.array(each) for name, each in rows.items()}


def simulated_cluster() -> dict[str, F64]:
    """Samples of a training cluster of 16,384 GPUs over 20 minutes, every 15 s as recorded."""
    fleet = Fleet(make_site("training:16384"), 1, START_US, 15.0)
    kept: dict[str, list[F64]] = {}
    for tick in range(100):
        fleet.step()
        if tick < 20:
            continue  # heat comes to rest first
        for name, column in fleet.physics.reported().items():
            kept.setdefault(name, []).append(column)
    return {name: np.concatenate(columns) for name, columns in kept.items()}


def compare(recorded: Mapping[str, F64], simulated: Mapping[str, F64]) -> list[Point]:
    """All quantiles of all metrics that both have."""
    points: list[Point] = []
    for name, samples in simulated.items():
        values, share = recorded[name].T
        for quantile in QUANTILES:
            value = float(values[np.searchsorted(share, quantile)])
            told = float(share[values <= value].max())
            points.append(
                Point(name, quantile, value, told, float((samples <= value).mean() * 100))
            )
    return points


def jobs(days: int = 7) -> dict[str, float]:
    """Figures of the jobs that a week of the largest site starts and ends."""
    workload = Workload(make_site("aisc-phase2"), 1, START_US)
    sizes: list[int] = []
    run_s: list[float] = []
    ends: list[str] = []
    for change in workload.changes(START_US + days * 86_400_000_000):
        if not change.started and change.job.label and change.job.start_us > START_US:
            sizes.append(change.job.gpus)
            run_s.append((change.time_us - change.job.start_us) / 1e6)
            ends.append(change.outcome)
    lengths, gpus = np.array(run_s), np.array(sizes)
    return {
        "jobs": len(ends),
        "gpus_mean": float(gpus.mean()),
        "share_at_median_gpus_1": float((gpus <= 1).mean() * 100),
        "share_at_median_run_122_s": float((lengths <= 122).mean() * 100),
        **{f"{name}_pct": ends.count(name) / len(ends) * 100 for name in sorted(set(ends))},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, or with `--json` one object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--plots", type=Path, help="Folder for pictures (needs Chromium)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    servers = {p.name: read_server(p) for p in sorted(given.data.glob("nanogpt-8gpu-node/*.gz"))}
    fits = [fit_heat(name, gpu, one) for name, each in servers.items() for gpu, one in each.items()]
    recorded = read_distributions(given.data / "acme-cdf" / "seren_cdf.csv.gz")
    simulated = simulated_cluster()
    points, told = compare(recorded, simulated), jobs()
    if given.plots:
        from benchmarks import pictures  # noqa: PLC0415 - a browser is needed for pictures alone

        pictures.heat(given.plots, servers, fits)
        pictures.distributions(given.plots, recorded, simulated)
    if given.json:
        rows = {"fits": [asdict(f) for f in fits], "points": [asdict(p) for p in points]}
        print(json.dumps({"benchmark": "calibrate", **rows, "jobs": told}))
    else:
        _print(fits, points, told)
    missed = (
        [f for f in fits if f.rmse_c > _RMSE_BAR_C],
        [p for p in points if p.distance > _POINTS_BAR],
    )
    sys.exit(1 if any(missed) else 0)


def _print(fits: Sequence[Fit], points: Sequence[Point], told: Mapping[str, float]) -> None:
    for fit in fits:
        print(
            f"{fit.file} GPU {fit.gpu}: {fit.inlet_c:.1f} °C + {fit.resistance_k_per_w:.3f} K/W, "
            f"{fit.fast_s:g} s and {fit.slow_s:g} s, RMSE {fit.rmse_c:.2f} °C"
        )
    for point in points:
        print(
            f"{point.metric:20} {point.quantile:3} % at {point.value:7.1f}: recorded "
            f"{point.recorded:5.1f} %, simulated {point.simulated:5.1f} %"
        )
    for name, value in told.items():
        print(f"{name}: {value:,.1f}")


if __name__ == "__main__":
    main()
