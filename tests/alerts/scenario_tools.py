"""Scenario files: what happens on a small site, second by second, and the transitions expected.

    about = "…"                     # a sentence
    minutes = 3
    [[do]]                          # from `at` to `to` (seconds; else to the end)
    at = 30
    to = 90
    where = "r1n1/2"                # GPU, node, rack, hall or "all"
    set = { thermal_margin_c = 4 }  # gauges
    rate = { throttle_hw_thermal_us = 500_000 }   # counters, per second
    silent = true                   # no records (of a GPU: none of it in its node's)
    every = 30                      # seconds between records
    clock = -20                     # seconds that the node's clock is ahead

Beside `do`: `event`, `board`, `holder`, `reading` and `finding` tables.  Or, instead
of all that, `simulator = { minutes, seed }` and its `fault` tables.
`expect` tables are all transitions to firing and resolved of all rules, but
for rules in `beside`, each within `within` seconds (4); `only` plays a long one with these rules alone.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from alert_tools import T0, Life, Log, S, simulated

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.identity import Slot, pack_slot, slot_text
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.topics import (
    ALLOC,
    EVENTS,
    FACILITY,
    GPU,
    LIVE,
    Allocation,
    Event,
    FacilityReading,
    Subject,
)
from collectors.contract.wire import encode
from pipeline.health import HealthRecord, Row
from pipeline.watch.alerts.follow import AlertOptions
from pipeline.watch.alerts.inputs import Finding, Floats, Tick
from pipeline.watch.alerts.rules import Rule
from pipeline.watch.alerts.rules_file import load_rules
from pipeline.watch.alerts.thermal import ThermalPhysics
from pipeline.watch.layout import FleetLayout

SCENARIOS = Path(__file__).parent / "scenarios"
GPUS = 4
SLOTS = [pack_slot(Slot(0, bus + 1, 0, 0)) for bus in range(GPUS)]
SELDOM_S = 30
CALM: dict[str, float] = {
    "power_w": 520, "power_limit_w": 700, "gpu_temperature_c": 58, "memory_temperature_c": 70,
    "thermal_margin_c": 28, "sm_clock_mhz": 1700, "gpu_utilization": 0.9, "tensor_activity": 0.4,
    "sm_activity": 0.8, "dram_activity": 0.3, "fp64_activity": 0, "fp32_activity": 0.05,
    "row_remap_pending": 0, "row_remap_failure": 0, "recovery_action": 0, "pcie_link_width": 16,
}  # fmt: skip
RATES: dict[str, float] = {
    "active_us": 1e6, "observed_us": 1e6, "down_us": 0, "nvlink_tx_bytes": 5e9,
    "nvlink_rx_bytes": 5e9, "ecc_corrected": 0, "ecc_uncorrected": 0, "pcie_replay": 0,
    "nvlink_errors": 0, "row_remap_uncorrected": 0,
    **{f"throttle_{one}_us": 0 for one in ("power_cap", "sw_thermal", "hw_thermal", "power_brake")},
}  # fmt: skip


def site() -> Inventory:
    """Two racks of two nodes of four GPUs."""
    nodes = [
        InstalledNode(f"{rack}n{n}", "H", rack, "H800-SXM", tuple(SLOTS), 0.9894)
        for rack in ("r1", "r2")
        for n in (1, 2)
    ]
    return Inventory("s", "Site", "UTC", "fp16", "dense", "boost", tuple(nodes))


def hits(where: str, node: str, gpu: int | None = None) -> bool:
    """Whether a place names a node, or one of its GPUs."""
    name, _, index = where.partition("/")
    there = name in ("all", "H", node, node[:2])
    return there and (not index or gpu is None or int(index) == gpu)


@dataclass
class Plain:
    """Plays the `do` tables of a scenario into a log."""

    scenario: dict[str, Any]
    log: Log = field(default_factory=Log)

    def play(self) -> Log:
        seconds = round(self.scenario["minutes"] * 60)
        for number, node in enumerate(site().nodes):
            self._node(node.name, number, seconds)
        self._around()
        self.log.settle()
        return self.log

    def _at(self, second: int, node: str, key: str) -> list[dict[str, Any]]:
        return [
            one for one in self.scenario.get("do", [])
            if key in one and one["at"] <= second < one.get("to", 1e9) and hits(one["where"], node)
        ]  # fmt: skip

    def _node(self, node: str, number: int, seconds: int) -> None:
        counters = {name: np.zeros(GPUS) for name in RATES}
        sequence, run, clock_before, sent = 0, 1_000 << 20, 0, -(10**6)
        for second in range(seconds):
            for name, usual in RATES.items():
                counters[name] += self._column(second, node, name, "rate", usual)
            clock = sum(one["clock"] for one in self._at(second, node, "clock"))
            if clock != clock_before:
                sequence, run, clock_before = 0, (1_000 + second + clock) << 20, clock
            every = max((one["every"] for one in self._at(second, node, "every")), default=1)
            silent = self._at(second, node, "silent")
            if any("/" not in one["where"] for one in silent) or second - sent < every:
                continue
            sent = second
            gone = {int(one["where"].split("/")[1]) for one in silent}
            kept = [at for at in range(GPUS) if at not in gone]
            values = self._values(second, node, counters, kept, every)
            event_us = T0 + second * S + number * 50_000
            record = NodeRecord(
                node, Origin.MEASURED, run, sequence, event_us + clock * S, 0,
                [SLOTS[at] for at in kept], [1] * len(kept), values,
            )  # fmt: skip
            self.log.put(GPU, node.encode(), encode(record), event_us + 30_000)
            sequence += 1

    def _values(
        self, second: int, node: str, counters: dict[str, Any], kept: list[int], every: int
    ) -> dict[str, list[float]]:
        out: dict[str, list[float]] = {}
        names = dict.fromkeys([*CALM, *self._named("set"), *counters])
        for name in names:
            row = CATALOGUE.by_name[name]
            if row.every_s >= SELDOM_S and every < SELDOM_S and second % SELDOM_S:
                continue
            if name in counters:
                column = counters[name]
                out[name] = [int(column[at]) for at in kept]
            else:
                column = self._column(second, node, name, "set", CALM.get(name, np.nan))
                if not np.isnan(column[kept]).all():
                    out[name] = [float(column[at]) for at in kept]
        missing = {name for one in self._at(second, node, "absent") for name in one["absent"]}
        return {name: column for name, column in out.items() if name not in missing}

    def _named(self, key: str) -> list[str]:
        return [name for one in self.scenario.get("do", []) for name in one.get(key, {})]

    def _column(self, second: int, node: str, name: str, key: str, usual: float) -> Any:
        column = np.full(GPUS, float(usual))
        for one in self._at(second, node, key):
            if name in one[key]:
                for gpu in range(GPUS):
                    if hits(one["where"], node, gpu):
                        column[gpu] = one[key][name]
        return column

    def _around(self) -> None:
        for one in self.scenario.get("event", []):
            node, _, index = one["where"].partition("/")
            slot = slot_text(SLOTS[int(index)]) if index else one.get("slot", "")
            event = Event(
                T0 + one["at"] * S, node, one["kind"], slot, code=one.get("code"),
                text=one.get("text", ""),
            )  # fmt: skip
            self._put(EVENTS, event, one.get("told_at", one["at"]))
        for number, one in enumerate(self.scenario.get("holder", [])):
            held = [n.name for n in site().nodes if hits(one["where"], n.name)]
            subjects = tuple(Subject(node) for node in held)
            allocation = Allocation(
                "test", str(number), one["tenant"], "", one.get("job", "job"), subjects,
                T0 + one.get("at", 0) * S, kind=one.get("kind", "job"),
            )  # fmt: skip
            self._put(ALLOC, allocation, one.get("at", 0))
        for one in self.scenario.get("board", []):
            for second in range(one["at"], one["to"], 5):
                rose = second - one["at"]
                values = {
                    name: [Row({}, value * rose if name in one.get("rising", []) else value)]
                    for name, value in one["values"].items()
                }
                board = HealthRecord(one["role"], "1", T0, T0 + second * S, values)
                self.log.put(LIVE, board.key, msgspec.json.encode(board), T0 + second * S)
        for one in self.scenario.get("reading", []):
            reading = FacilityReading(
                T0 + one["at"] * S, one["kind"], one["where"], one["metric"], one["value"]
            )
            self._put(FACILITY, reading, one["at"])

    def _put(self, topic: str, value: msgspec.Struct, second: int) -> None:
        self.log.put(topic, b"k", msgspec.json.encode(value), T0 + second * S)


class Told:
    """Findings as a scenario has them, in the place of the thermal physics."""

    def __init__(
        self, layout: FleetLayout, _: bytes = b"", *, findings: Sequence[dict[str, Any]]
    ) -> None:
        self._layout, self._findings = layout, findings

    def update(self, tick: Tick) -> tuple[dict[str, Floats], Sequence[Finding]]:
        second = tick.time_s - T0 // S
        return {}, [
            Finding(
                one["scope"], one["index"], one["cause"], 0.9, 2.0, T0 + one["at"] * S,
                np.arange(4), {"warmer_c": 4.0}, "its GPUs are 4.0 °C warmer than usual",
            )
            for one in self._findings
            if one["at"] <= second < one["to"]
        ]  # fmt: skip

    def save(self) -> bytes:
        return b""


def read(path: Path) -> dict[str, Any]:
    """A scenario file."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def played(scenario: dict[str, Any], tmp: Path, rules: list[Rule] | None = None) -> Life:
    """A life of the alerts over a scenario, read to its end."""
    rules = load_rules() if rules is None else rules
    only = scenario.get("only")
    rules = [rule for rule in rules if not only or rule.name in only]
    if "simulator" in scenario:
        text = "".join(
            "[[event]]\n" + "".join(f"{key} = {value!r}\n" for key, value in one.items())
            for one in scenario["fault"]
        )
        file = tmp / "faults.toml"
        file.write_text(text.replace("True", "true"))
        wanted = scenario["simulator"]
        log, inventory = simulated(wanted["minutes"], scenario=file, seed=wanted.get("seed", 1))
        physics: Any = ThermalPhysics
    else:
        log, inventory = Plain(scenario).play(), site()
        physics = partial(Told, findings=scenario.get("finding", []))
    life = Life(log, inventory, AlertOptions(rules, physics=physics))
    life.clock.now_us = T0
    life.read(random.Random(1))
    life.finish(scenario.get("silence", 0))
    return life


def transitions(life: Life, beside: Sequence[str] = ()) -> list[tuple[str, str, str, str, int]]:
    """(rule, subject, state, severity, second) of what fired and was resolved."""
    fired: set[str] = set()
    out: list[tuple[str, str, str, str, int]] = []
    for one in life.alerts:
        if one.rule in beside or one.state == "pending":
            continue
        if one.state == "resolved" and one.fingerprint not in fired:
            continue
        fired.add(one.fingerprint)
        second = (one.at_us - T0) // S
        out.append((one.rule, one.subject.name, one.state, one.severity, second))
    return out
