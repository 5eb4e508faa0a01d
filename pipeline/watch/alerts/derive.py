"""The columns that rules compare, made once per second of what the tick holds.

What needs memory (slopes, increases, time idle) is kept here and saved with
the state of the alerts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.xids import advice
from pipeline import waste
from pipeline.watch.alerts.expressions import OPERATORS, PHYSICS, REASON_BITS, Expression
from pipeline.watch.alerts.groups import Groups, like_neighbours
from pipeline.watch.alerts.inputs import Bools, Finding, Floats, Placed, Tick
from pipeline.watch.alerts.rules import Advised, Rule, expressions_of
from pipeline.watch.layout import FleetLayout

F32 = NDArray[np.float32]
NEIGHBOURS_EVERY_S = 10
OVERDUE_INTERVALS = 2.5
_LONGEST_INTERVAL_S = 60.0
_BUSY = 0.5
_SILENCES = ("overdue", "node_age", "rack_age", "site_age")


class Values:
    """Columns by expression and by rule, for one layout.

    `begin` once per second, before any of the others; what came of events and
    findings can then be asked for by rule and subject.
    """

    def __init__(self, rules: Sequence[Rule], layout: FleetLayout) -> None:
        self._groups = Groups(layout)
        n = len(layout.places)
        self._slots = max((len(node.slots) for node in layout.nodes), default=1)
        known = {node.model: waste.loaded_idle_w(node.model) for node in layout.nodes}
        idle_w = [known[node.model] or np.nan for node in layout.nodes]
        self._loaded_idle_w = np.array(idle_w, np.float64)[layout.node]
        self._absent: Floats = np.full(n, np.nan, np.float32)
        self._tick: Any = None
        self._named: tuple[NDArray[np.int32], Bools] | None = None
        self._cache: dict[tuple[str, str], Floats] = {}
        wanted = {one.text: one for rule in rules for one in expressions_of(rule)}
        of = {name: [x for x in wanted.values() if x.name == name] for name in
              ("slope", "increase", "health_rise", "neighbours")}  # fmt: skip
        self._slopes, self._increases = of["slope"], of["increase"]
        self._neighbours = of["neighbours"]
        self.memory: dict[str, F32] = {
            one.text: np.full(n, np.nan, np.float32)
            for one in (*self._slopes, *self._increases, *self._neighbours)
        }
        """Per GPU: means that slopes lag behind, increases that fade, differences between turns."""
        self.totals: dict[str, list[float]] = {one.text: [0.0, np.nan] for one in of["health_rise"]}
        """Per figure of a health board: what it rose by lately, and its last value."""
        self.events: dict[tuple[str, int], Placed] = {}
        self.findings: dict[tuple[str, int], Finding] = {}

    def begin(self, tick: Tick) -> None:
        """Goes on to a second."""
        self._tick = tick
        self._named = None
        self._cache.clear()
        self.events.clear()
        self.findings.clear()
        for one in self._slopes:
            self._follow(self.memory[one.text], tick.gauges[one.args[0]], tick, float(one.args[1]))
        for one in self._increases:
            _fade(self.memory[one.text], tick.steps[one.args[0]], float(one.args[1]))
        for text in self.totals:
            self._rise(text, tick.health)
        for one in self._neighbours:
            self._compare(self.memory[one.text], tick.gauges[one.args[0]], tick)

    def _compare(self, known: F32, column: Floats, tick: Tick) -> None:
        """Differences from neighbours, of those nodes whose turn it is: a share each second."""
        node = self._groups.index["node"]
        turn, nodes = tick.time_s % NEIGHBOURS_EVERY_S, len(tick.layout.nodes)
        edges = (turn * nodes // NEIGHBOURS_EVERY_S, (turn + 1) * nodes // NEIGHBOURS_EVERY_S)
        rows = slice(*np.searchsorted(node, edges).tolist())
        if rows.start < rows.stop:
            power, among = tick.gauges["power_w"][rows], node[rows] - edges[0]
            known[rows] = like_neighbours(column[rows], power, among, self._slots)

    def _follow(self, mean: F32, column: Floats, tick: Tick, window_s: float) -> None:
        """A mean that lags; anew where it began or where the GPU was away for long."""
        away = np.isnan(mean) | (tick.age_s > window_s)
        share = np.float32(1.0 - np.exp(-1.0 / window_s))
        mean += share * (column - mean)
        mean[away] = column[away]

    def _rise(self, text: str, health: Mapping[tuple[str, str], float]) -> None:
        role, name = text[len("health_rise(") : -1].split(", ")
        rose, last = self.totals[text]
        now = health.get((role, name), np.nan)
        step = now - last if now > last else 0.0
        self.totals[text] = [rose * float(np.exp(-1.0 / 60.0)) + step, now]

    def of(self, rule: Rule) -> Floats:
        """The rule's quantity by subject; NaN is unknown, and what is in maintenance."""
        if rule.when.name == "event":
            return self._events(rule)
        if rule.when.name == "physics":
            return self._suspicions(rule)
        if rule.when.name in ("health", "health_rise", "facility"):
            return self._outside(rule)
        column = self.gpus(rule.when)
        if self._tick.maintenance is not None:
            column = np.where(self._tick.maintenance, np.float32(np.nan), column)
        if rule.scope == "gpu":
            return column
        compare = OPERATORS[">" if rule.each_above else "<"]
        level = np.float32(rule.each_level)

        def counted(values: Floats) -> Bools:
            return compare(values, level)

        made = self._groups.reduce(rule.each, column, rule.scope, self._tick, counted)
        if rule.scope == "tenant":
            made[:2] = np.nan  # nobody, and maintenance
        return made

    def column(self, one: Expression, rule: Rule) -> Floats:
        """Another quantity by the rule's subjects: the mean of their GPUs."""
        if rule.scope == "gpu":
            return self.gpus(one)
        key = (one.text, rule.scope)
        if key not in self._cache:
            self._cache[key] = self._groups.reduce(
                "mean", self.gpus(one), rule.scope, self._tick, np.isnan
            )
        return self._cache[key]

    def gpus(self, one: Expression) -> Floats:
        """A quantity of all GPUs."""
        key = (one.text, "gpu")
        if key not in self._cache:
            self._cache[key] = self._made(one)
        return self._cache[key]

    def _made(self, one: Expression) -> Floats:
        tick: Tick = self._tick
        if one.name in tick.gauges:
            return tick.gauges[one.name]
        if one.name in PHYSICS:
            return tick.physics.get(one.name, self._absent)
        if one.name in _SIMPLE:
            return _SIMPLE[one.name](tick).astype(np.float32)
        made = {
            "hung": self._hung,
            "throttle_fraction": lambda: self._throttled(one.args[0]),
            "rate": lambda: tick.rates[one.args[0]],
            "slope": lambda: self._slope(one),
            **{name: lambda: self._silence(one.name) for name in _SILENCES},
        }
        return made[one.name]() if one.name in made else self.memory[one.text]

    def _throttled(self, reason: str) -> Floats:
        """Of the time, by the driver's own counter or, where that is absent or stands still while
        the driver names the reason, by the reason of the last sample."""
        tick: Tick = self._tick
        counted = tick.rates[f"throttle_{reason}_us"] * np.float32(1e-6)
        bits, known = self._reasons()
        named = (bits & REASON_BITS[reason]) > 0
        if named.any():
            return np.fmax(counted, np.where(known, named, np.float32(np.nan)).astype(np.float32))
        # Nobody names it, as nearly always: then the reasons only say that it is not so.
        missing = np.isnan(counted) & known
        return np.where(missing, np.float32(0), counted) if missing.any() else counted

    def _reasons(self) -> tuple[NDArray[np.int32], Bools]:
        """The reasons that the drivers name, 0 where they say none, and where they are known."""
        if self._named is None:
            reasons = self._tick.gauges["clocks_event_reasons"]
            known = ~np.isnan(reasons)
            self._named = np.where(known, reasons, 0).astype(np.int32), known
        return self._named

    def _slope(self, one: Expression) -> Floats:
        """Per minute: what a mean of so many seconds lags behind, over those."""
        lag = self._tick.gauges[one.args[0]] - self.memory[one.text]
        slope: Floats = lag * np.float32(60.0 / float(one.args[1]))
        return slope

    def _hung(self) -> Floats:
        """1 where a GPU is busy without work, as the reports say it; 0 where not, or nobody can
        tell."""
        tick: Tick = self._tick
        gauges, rates = tick.gauges, tick.rates
        out = np.zeros(len(self._absent), np.float32)
        busy = np.flatnonzero(gauges["gpu_utilization"] >= waste.USUAL.utilization)

        def of(column: Any) -> NDArray[np.float64]:
            return column[busy].astype(np.float64)

        signals = waste.Signals(
            utilization=of(gauges["gpu_utilization"]),
            tensor=of(gauges["tensor_activity"]),
            nvlink=of(rates["nvlink_tx_bytes"]) + of(rates["nvlink_rx_bytes"]),
            power_w=of(gauges["power_w"]),
            idle_loaded_w=of(self._loaded_idle_w),
            dram=of(gauges["dram_activity"]),
            fp64=of(gauges["fp64_activity"]),
            fp32=of(gauges["fp32_activity"]),
        )
        out[busy] = waste.hung(signals)
        return out

    def _silence(self, name: str) -> Floats:
        tick: Tick = self._tick
        usual = np.minimum(np.nan_to_num(tick.interval_s), _LONGEST_INTERVAL_S)
        overdue = np.maximum(tick.age_s - OVERDUE_INTERVALS * usual, 0).astype(np.float32)
        if name == "overdue":
            return overdue
        scope = name.removesuffix("_age")
        return self._groups.extreme(overdue, scope, np.fmin)[self._groups.index[scope]]

    def _outside(self, rule: Rule) -> Floats:
        tick: Tick = self._tick
        one = rule.when
        if one.name == "health":
            return np.array([tick.health.get((one.args[0], one.args[1]), np.nan)], np.float32)
        if one.name == "health_rise":
            rose, last = self.totals[one.text]
            return np.array([np.nan if np.isnan(last) else rose], np.float32)
        found = tick.facility.get((rule.scope, one.args[0]))
        return np.full(self._groups.size[rule.scope], np.nan) if found is None else found

    def _events(self, rule: Rule) -> Floats:
        out = np.zeros(self._groups.size[rule.scope], np.float32)
        for placed in self._tick.events:
            at = placed.gpu if rule.scope == "gpu" else placed.node
            fits = (rule.scope == "node") == (placed.gpu < 0)
            if fits and at >= 0 and counts(rule, placed):
                out[at] += placed.event.count
                self.events.setdefault((rule.name, at), placed)
        return out

    def _suspicions(self, rule: Rule) -> Floats:
        n = len(self._tick.owners) if rule.scope == "tenant" else self._groups.size[rule.scope]
        out = np.zeros(n, np.float32)
        for finding in self._tick.findings:
            if finding.scope == rule.scope and finding.cause in rule.when.args:
                out[finding.index] = 1.0
                self.findings[rule.name, finding.index] = finding
        return out


def counts(rule: Rule, placed: Placed) -> bool:
    """Whether an event is one of a rule's: its kind, and what the maker advises."""
    event, wanted = placed.event, rule.advised
    if event.kind not in rule.when.args:
        return False
    if wanted == Advised():
        return True
    if (wanted.codes and event.code not in wanted.codes) or event.code in wanted.not_codes:
        return False
    found = advice(event.kind, event.code, event.text)
    return (not wanted.severities or found.severity in wanted.severities) and (
        not wanted.concerns or found.concerns == wanted.concerns
    )


def _fade(total: F32, step: Floats, window_s: float) -> None:
    """Adds what came to what fades; NaN until the counter was read for the first time."""
    total *= np.float32(np.exp(-1.0 / window_s))
    came = np.flatnonzero(~np.isnan(step))
    if not len(came):
        return
    total[came] = np.nan_to_num(total[came]) + step[came]


def _busy(tick: Tick) -> Floats:
    busy = tick.gauges["gpu_utilization"]
    return np.where(np.isnan(busy), busy, busy >= _BUSY)


_SIMPLE: dict[str, Callable[[Tick], Any]] = {
    "age": lambda tick: tick.age_s,
    "interval": lambda tick: tick.interval_s,
    "idle": lambda tick: tick.idle_s,
    "down_fraction": lambda tick: tick.rates["down_us"] * 1e-6,
    "allocated": lambda tick: tick.allocated,
    "busy": _busy,
    "clock_offset": lambda tick: np.abs(tick.clock_offset_s),
    "power_share": lambda tick: tick.gauges["power_w"] / tick.gauges["power_limit_w"],
}
