"""What a second of the alert engine costs: all rules over synthetic columns, no decoding.

    python -m benchmarks.engine --gpus 100000 --rules 20

One JSON object: medians and 99th percentiles of CPU ms per second of event time,
of a quiet fleet, of one in which a thousand GPUs are in trouble, and of a storm
that hits all; `yardsticks` is the median in pieces of `benchmarks.yardstick`'s work,
measured in the same minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable

import numpy as np

from benchmarks.yardstick import in_a_loop_us
from collectors.contract.identity import Slot, pack_slot
from collectors.contract.inventory import InstalledNode, Inventory
from pipeline.watch.alerts.derive import Values
from pipeline.watch.alerts.engine import Engine
from pipeline.watch.alerts.fleet import metrics_of
from pipeline.watch.alerts.inputs import Tick
from pipeline.watch.alerts.rules import Rule
from pipeline.watch.alerts.rules_file import load_rules
from pipeline.watch.layout import FleetLayout

_GPUS_PER_NODE, _NODES_PER_RACK = 8, 8
_T0_S = 1_790_000_000


def layout_of(gpus: int) -> FleetLayout:
    """A hall of full racks."""
    slots = tuple(pack_slot(Slot(0, bus + 1, 0, 0)) for bus in range(_GPUS_PER_NODE))
    nodes = tuple(
        InstalledNode(f"n{n:06d}", "H", f"r{n // _NODES_PER_RACK:05d}", "H800-SXM", slots, 0.99)
        for n in range(gpus // _GPUS_PER_NODE)
    )
    return FleetLayout.of(Inventory("s", "S", "UTC", "fp16", "dense", "boost", nodes), 0)


def calm(layout: FleetLayout, rules: list[Rule], rng: np.random.Generator) -> Tick:
    """A second in which nothing is wrong."""
    n = len(layout.places)
    gauges, rates, steps = metrics_of(rules)
    usual = {"power_w": 520.0, "power_limit_w": 700.0, "gpu_temperature_c": 58.0,
             "memory_temperature_c": 70.0, "thermal_margin_c": 28.0, "gpu_utilization": 0.9,
             "tensor_activity": 0.4, "dram_activity": 0.3, "pcie_link_width": 16.0}  # fmt: skip
    noise = rng.normal(0, 0.01, n).astype(np.float32)
    busy = {"active_us": 1e6, "observed_us": 1e6, "nvlink_tx_bytes": 5e9, "nvlink_rx_bytes": 5e9}
    return Tick(
        time_us=_T0_S * 1_000_000,
        layout=layout,
        gauges={x: (usual.get(x, 0.0) + noise).astype(np.float32) for x in gauges},
        rates={x: np.full(n, busy.get(x, 0.0), np.float32) for x in rates},
        steps={x: np.full(n, np.nan, np.float32) for x in steps},
        age_s=np.full(n, 1.0, np.float32),
        interval_s=np.ones(n, np.float32),
        idle_s=np.zeros(n, np.float32),
        fresh=np.ones(n, np.bool_),
        owner=np.full(n, 2, np.int32),
        owners=["", "", "t"],
        job=np.full(n, 2, np.int32),
        jobs=["", "", "j"],
        allocated=np.ones(n, np.bool_),
        clock_offset_s=np.zeros(n, np.float32),
    )


def troubled(tick: Tick, some: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Tick:
    """The same with some GPUs hot, throttled and silent."""
    margin = tick.gauges["thermal_margin_c"].copy()
    hot = tick.rates["throttle_hw_thermal_us"].copy()
    age = tick.age_s.copy()
    margin[some], hot[some], age[some] = 4.0, 4e5, 100.0
    return dataclasses.replace(
        tick,
        gauges={**tick.gauges, "thermal_margin_c": margin},
        rates={**tick.rates, "throttle_hw_thermal_us": hot},
        age_s=age,
    )


def measure(rules: list[Rule], tick: Tick, ticks: int) -> dict[str, float]:
    """Runs the engine over the same columns second after second."""
    values, engine = Values(rules, tick.layout), Engine(rules)
    whole: list[float] = []
    changes = 0
    for second in range(ticks):
        now = dataclasses.replace(tick, time_us=(_T0_S + second) * 1_000_000)
        began_ns = time.thread_time_ns()
        values.begin(now)
        changes += len(engine.step(now, values))
        whole.append((time.thread_time_ns() - began_ns) / 1e6)
    steady = whole[5:]
    median = float(np.median(steady))
    return {
        "ms_median": round(median, 2),
        "yardsticks": round(1e3 * median / in_a_loop_us(), 1),
        "ms_p99": round(float(np.percentile(steady, 99)), 2),
        "first_ms": round(whole[0], 2),
        "transitions": changes,
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--gpus", type=int, default=100_000)
    parser.add_argument("--rules", type=int, default=0, help="The first N of GPUs; 0: all shipped.")
    parser.add_argument("--ticks", type=int, default=120)
    args = parser.parse_args()
    rules = load_rules()
    if args.rules:
        rules = [rule for rule in rules if rule.scope == "gpu"][: args.rules]
    rng = np.random.default_rng(1)
    tick = calm(layout_of(args.gpus), rules, rng)
    n = len(tick.age_s)
    scenes: dict[str, Callable[[], Tick]] = {
        "calm": lambda: tick,
        "thousand": lambda: troubled(tick, rng.choice(n, min(n, 1_000), replace=False)),
        "all": lambda: troubled(tick, np.arange(n)),
    }
    out: dict[str, object] = {"gpus": n, "rules": len(rules)}
    out.update({name: measure(rules, scene(), args.ticks) for name, scene in scenes.items()})
    print(json.dumps(out))


if __name__ == "__main__":
    main()
