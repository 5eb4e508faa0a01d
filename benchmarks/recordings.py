"""Recordings of real servers as arrays, and how one is played for longer than it is."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.intp]
_MEETS_C, _LEAST_S, _ENDS_S, _RISE_C_PER_W = 1.0, 90, 20, 0.06
"""Ends meet where means of so many s, and of 3 s, are so near: of temperature, and of what power
explains of it."""


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


def loop(recording: Recording) -> tuple[int, int]:
    """First and last (exclusive) second of the longest part whose ends meet: what follows its end
    is as warm, and worked as hard, as what its beginning follows.

    Raises ValueError where there is none.
    """
    columns = np.hstack([recording.power_w * _RISE_C_PER_W, recording.temperature_c])
    sums = np.vstack([np.zeros(columns.shape[1]), np.cumsum(columns, axis=0)])
    long, last = (sums[_ENDS_S:] - sums[_ENDS_S - of : len(sums) - of] for of in (_ENDS_S, 3))
    before: Floats = np.hstack([long / _ENDS_S, last / 3])
    best = (0, 0)
    for first in range(len(before)):
        apart = np.abs(before[first + _LEAST_S :] - before[first]).max(axis=1)
        meets = np.flatnonzero(apart <= _MEETS_C)
        if meets.size and meets[-1] + _LEAST_S > best[1] - best[0]:
            best = (first, first + _LEAST_S + int(meets[-1]))
    if best == (0, 0):
        raise ValueError(f"the ends of no part of {recording.name} meet")
    return best[0] + _ENDS_S, best[1] + _ENDS_S


def order(recording: Recording, seconds: int) -> Ints:
    """Which second of the recording each second plays: its beginning, then the loop."""
    first, last = loop(recording)
    played = np.arange(seconds)
    return np.where(played < last, played, first + (played - first) % (last - first))


def tail(recording: Recording, second: int) -> Ints:
    """What is left of the loop after a second of it, and then the recording's end."""
    return np.arange(second + 1, len(recording.power_w))
