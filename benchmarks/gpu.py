"""The counters against counted work on a real GPU; see docs/validation.md.

    python -m benchmarks.gpu [--device 0] [--kinds bf16,fp8,tf32,fp64,int8] [--duties 1,0.9,0.5,0.1]
                             [--seconds 12] [--only flop,cycles,calls,effect] [--json]

`flop` runs counted matrix products and compares; `cycles` shows what metrics
248 to 254 say beside the clock and the activity; `calls` times the driver's
calls; `effect` is what an agent beside it does to the time of a step.  It needs
the driver, cuBLAS and the GPU for itself, and no right beyond those.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.gpu_blas import KINDS
from benchmarks.gpu_calls import call_costs, cycle_rows
from collectors.agent.assembler import NodeAssembler, Reading
from collectors.contract.flop import FLOP_METHOD_NAMES, FlopMethod
from collectors.contract.identity import new_run
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.source import BackendUnavailableError, Device
from collectors.kit.clock import SystemClock
from collectors.nvml.api import Nvml
from collectors.nvml.backend import NvmlBackend

Row = dict[str, Any]
_CLOCK = SystemClock()
_INTERVAL_S = 1.0
_EFFECT_PAIRS = 5
_START_S = 120.0


class Load:
    """The process that works; `go` lets it begin, `result` is what it counted."""

    def __init__(self, kind: str, uuid: str, seconds: float, duty: float) -> None:
        command = [
            sys.executable, "-m", "benchmarks.gpu_load", kind,
            "--seconds", str(seconds), "--duty", str(duty),
        ]  # fmt: skip
        # By UUID: the numbers of CUDA and of the driver are not the same ones.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": uuid},
        )  # fmt: skip
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the {kind} load did not start (status {self._process.wait()})")

    def go(self) -> None:
        """Begins to work."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    @property
    def works(self) -> bool:
        """Whether it still does."""
        return self._process.poll() is None

    def result(self) -> dict[str, float]:
        """Waits for it."""
        out, _ = self._process.communicate(timeout=_START_S)
        return json.loads(out)


class Counters:
    """What an agent would have sent of one device since it was made."""

    def __init__(self, device: Device) -> None:
        self._device = device
        wall_us = _CLOCK.wall_us()
        self._assembler = NodeAssembler(
            "bench", Origin.MEASURED, new_run(wall_us, 1), longest_gap_us=5_000_000
        )
        self.records: list[NodeRecord] = []

    def read(self) -> None:
        """One tick."""
        samples = self._device.read()
        readings = [Reading(s.labels, s.energy_epoch, s.values, s.flop) for s in samples]
        self.records.append(self._assembler.assemble(_CLOCK.wall_us(), readings))

    def grown(self, name: str) -> float:
        """By how much a counter has grown; 0 where it is absent."""
        column = self.records[-1].values.get(name)
        before = self.records[0].values.get(name)
        return 0.0 if column is None else column[0] - (0 if before is None else before[0])

    def seen(self, name: str) -> list[float]:
        """A gauge's values in order."""
        found = [record.values[name][0] for record in self.records if name in record.values]
        return [value for value in found if value == value]  # noqa: PLR0124 - NaN is absent


def compare(device: Device, load: Load, kind: str, sleep: Callable[[float], None]) -> Row:
    """One load from its first product to its last, between two readings of an idle GPU."""
    counters = Counters(device)
    counters.read()
    sleep(_INTERVAL_S)
    counters.read()
    load.go()
    while load.works:
        sleep(_INTERVAL_S)
        counters.read()
    counted = load.result()
    sleep(_INTERVAL_S)
    counters.read()
    kind_of = KINDS[kind]
    expected = counted["operations"] * kind_of.factor / 1e9
    shown = counters.grown(kind_of.counter)
    methods = {FLOP_METHOD_NAMES[FlopMethod(int(m))] for m in counters.seen("flop_method")}
    flags = 0
    for value in counters.seen("flop_flags"):
        flags |= int(value)
    return {
        "kind": kind, "busy_share": round(counted["busy_share"], 3),
        "seconds": round(counted["seconds"], 2), "counted_g": round(expected),
        "counter_g": round(shown), "off_percent": round(100 * (shown / expected - 1), 2),
        "within_bounds": counters.grown("gflop_lo") <= expected <= counters.grown("gflop_hi")
        if kind_of.counter == "gflop" else None,
        "methods": sorted(methods), "flags": flags,
        "sm_clock_mean_mhz": round(mean(counters.seen("sm_clock_mean_mhz") or [0])),
        "tensor_activity_max": max(counters.seen("tensor_activity"), default=None),
        "power_max_w": max(counters.seen("power_w"), default=None),
    }  # fmt: skip


def flop_rows(device: Device, chosen: argparse.Namespace) -> Iterator[Row]:
    """All kinds at all duty cycles."""
    for kind in chosen.kinds.split(","):
        for duty in map(float, chosen.duties.split(",")):
            load = Load(kind, device.labels.uuid, chosen.seconds, duty)
            yield {"duty": duty, **compare(device, load, kind, time.sleep)}


@contextmanager
def _agent() -> Generator[None]:
    """The agent at its usual interval, beside what is measured."""
    command = Path(sys.executable).with_name("petawatch")
    process = subprocess.Popen([command, "agent", "--stdout"], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def effect_rows(uuid: str, chosen: argparse.Namespace) -> Iterator[Row]:
    """The median time of equal steps, alone and beside an agent, in turns."""
    steps: dict[str, list[float]] = {"alone": [], "beside": []}
    for _ in range(_EFFECT_PAIRS):
        for way, times in steps.items():
            load = Load("bf16", uuid, chosen.seconds, 1.0)
            if way == "beside":
                with _agent():
                    load.go()
                    times.append(load.result()["step_s"])
            else:
                load.go()
                times.append(load.result()["step_s"])
    alone, beside = median(steps["alone"]), median(steps["beside"])
    spread = (max(steps["alone"]) - min(steps["alone"])) / alone
    yield {
        "step_alone_ms": round(alone * 1e3, 4), "step_beside_ms": round(beside * 1e3, 4),
        "effect_percent": round(100 * (beside / alone - 1), 4),
        "spread_alone_percent": round(100 * spread, 4),
    }  # fmt: skip


def measure(backend: NvmlBackend, nvml: Nvml, chosen: argparse.Namespace) -> Iterator[Row]:
    """All that was asked for, a row at a time."""
    device = backend.devices()[int(chosen.device)]
    uuid = device.labels.uuid
    yield {"part": "device", "model": device.labels.model, "driver": backend.driver}
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "calls": lambda: call_costs(nvml, device),
        "cycles": lambda: cycle_rows(nvml, device.handle, Load("bf16", uuid, chosen.seconds, 1.0)),
        "flop": lambda: flop_rows(device, chosen),
        "effect": lambda: effect_rows(uuid, chosen),
    }
    for part, rows in parts.items():
        if part in chosen.only.split(","):
            for row in rows():
                yield {"part": part, **row}


def main() -> None:
    """Prints a line per row; with --json each is an object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--duties", default="1,0.9,0.5,0.1")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--only", default="calls,cycles,flop,effect")
    parser.add_argument("--json", action="store_true", dest="as_json")
    chosen = parser.parse_args()
    backend = NvmlBackend(_CLOCK, interval_s=_INTERVAL_S)
    try:
        backend.open()
    except BackendUnavailableError as error:
        sys.exit(f"There is no GPU to measure: {error}")
    nvml = Nvml()
    nvml.open()
    try:
        for row in measure(backend, nvml, chosen):
            text = "  ".join(f"{name}={value}" for name, value in row.items())
            print(json.dumps(row) if chosen.as_json else text, flush=True)
    finally:
        nvml.close()
        backend.close()


if __name__ == "__main__":
    main()
