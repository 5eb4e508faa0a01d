"""What a rule may look at: a metric, or one of a small fixed set of derived quantities.

`power_w`, `throttle_fraction(hw_thermal)`, `slope(gpu_temperature_c, 60)`; a
comparison is `EXPRESSION OP NUMBER`.  Each has a unit and a range within
which levels make sense.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from collectors.contract.catalogue import CATALOGUE, Kind
from collectors.contract.xids import kinds
from collectors.kit.toml_file import closest

REASONS = ("power_cap", "sw_thermal", "hw_thermal", "power_brake", "sync_boost")
CAUSES = (
    "gpu_interface", "node_cooling", "rack_cooling", "rack_inlet", "hall_inlet", "site_inlet",
    "power_brake", "outlier",
)  # fmt: skip
"""Of the findings of the thermal physics: see `pipeline.watch.physics.findings`."""
PHYSICS = {
    "expected_temperature_c": ("°C", (-40.0, 150.0)),
    "thermal_residual_c": ("°C", (-150.0, 150.0)),
    "thermal_resistance_c_per_w": ("°C/W", (0.0, 2.0)),
    "thermal_resistance_ratio": ("ratio", (0.0, 10.0)),
}
"""Columns that the thermal physics derives, with unit and range."""
_PLAIN: dict[str, tuple[str, tuple[float, float]]] = {
    "age": ("s", (0, math.inf)),
    "overdue": ("s", (0, math.inf)),
    "node_age": ("s", (0, math.inf)),
    "rack_age": ("s", (0, math.inf)),
    "site_age": ("s", (0, math.inf)),
    "interval": ("s", (0, 3_600)),
    "idle": ("s", (0, math.inf)),
    "down_fraction": ("ratio", (0, 1)),
    "allocated": ("", (0, 1)),
    "busy": ("", (0, 1)),
    "clock_offset": ("s", (0, 3_600)),
    "power_share": ("ratio", (0, 2)),
    "hung": ("", (0, 1)),
}
ROLES = ("store", "watch", "alerts", "books", "serve", "notify")
"""Whose health boards are read."""
REASON_BITS = {
    "power_cap": 4, "sync_boost": 16, "sw_thermal": 32, "hw_thermal": 64, "power_brake": 128,
}  # fmt: skip
"""Of `clocks_event_reasons`."""
NEEDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "power_share": (("power_w", "power_limit_w"), ()),
    "throttle_fraction": (("clocks_event_reasons",), ()),
    "hung": (
        ("dram_activity", "fp64_activity", "fp32_activity"),
        ("nvlink_tx_bytes", "nvlink_rx_bytes"),
    ),
}
"""Gauges and counters (as rates) behind quantities of more than one."""
PLACES = ("rack", "hall", "site")
_CALL = re.compile(r"\s*([a-z_][a-z0-9_]*)\s*(?:\(([^()]*)\))?\s*")
_COMPARISON = re.compile(r"(.+?)\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)\s*")
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A quantity: its name, arguments, unit and the range of what it can be."""

    name: str
    args: tuple[str, ...]
    unit: str
    valid: tuple[float, float]

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.name}({', '.join(self.args)})" if self.args else self.name

    @property
    def metric(self) -> str:
        """The catalogue's metric behind it, "" where there is none."""
        if self.name in CATALOGUE.by_name:
            return self.name
        if self.name == "throttle_fraction":
            return f"throttle_{self.args[0]}_us"
        first = self.args[0] if self.args else ""
        return first if first in CATALOGUE.by_name else ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`EXPRESSION OP NUMBER`."""

    expression: Expression
    op: str
    level: float


def parse(text: str) -> Expression:
    """The expression of a text.  Raises ValueError that says what to write instead."""
    match = _CALL.fullmatch(text)
    if match is None:
        raise ValueError(f"not an expression: {text!r}; write a metric, or NAME(ARGUMENTS)")
    name = match[1]
    args = tuple(arg.strip() for arg in (match[2] or "").split(",") if arg.strip())
    if name in _CALLS:
        return _CALLS[name](name, args)
    if args:
        raise ValueError(f"{name} takes no arguments; {closest(name, list(_CALLS))}")
    if name in _PLAIN or name in PHYSICS:
        unit, valid = (_PLAIN | PHYSICS)[name]
        return Expression(name, (), unit, valid)
    row = CATALOGUE.by_name.get("thermal_margin_c" if name == "margin" else name)
    if row is None:
        known = [*CATALOGUE.by_name, *_PLAIN, *PHYSICS, *_CALLS]
        raise ValueError(f"no metric or quantity {name!r}; {_near(name, known)}")
    if row.kind is Kind.COUNTER:
        raise ValueError(f"{name} is a counter: write rate({name}) or increase({name}, SECONDS)")
    return Expression(row.name, (), row.unit, row.valid)


def compare(text: str) -> Comparison:
    """The comparison of a text.  Raises ValueError."""
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise ValueError(f"not a comparison: {text!r}; write for example gpu_utilization >= 0.95")
    expression, level = parse(match[1]), float(match[3])
    require_reachable(expression, level, above=match[2][0] == ">", itself="=" in match[2])
    return Comparison(expression, match[2], level)


def require_reachable(
    expression: Expression, level: float, *, above: bool, itself: bool = False
) -> None:
    """Raises ValueError where no valid value can ever be beyond the level, or at it: `itself`."""
    low, high = expression.valid
    beyond = level > high if above else level < low
    if beyond or (not itself and level == (high if above else low)):
        raise ValueError(
            f"{level:g} is out of reach: {expression.text} is from {low:g} to {high:g} "
            f"{expression.unit}".rstrip()
        )


def _near(name: str, known: Sequence[str]) -> str:
    text = closest(name, list(known))
    return text if text.startswith("did") else "docs/alerts.md lists what there is"


def _gauge(name: str) -> Any:
    row = CATALOGUE.by_name.get(name)
    if row is None or row.kind is not Kind.GAUGE:
        gauges = [metric.name for metric in CATALOGUE.gauges]
        raise ValueError(f"no gauge {name!r}; {_near(name, gauges)}")
    return row


def _counter(name: str) -> Any:
    row = CATALOGUE.by_name.get(name)
    if row is None or row.kind is not Kind.COUNTER:
        counters = [metric.name for metric in CATALOGUE.counters]
        raise ValueError(f"no counter {name!r}; {_near(name, counters)}")
    return row


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"write a number of seconds, not {text!r}") from error
    if not 1 <= value <= 86_400:
        raise ValueError(f"write from 1 to 86400 seconds, not {text}")
    return value


def _need(name: str, args: tuple[str, ...], count: int, example: str) -> None:
    if len(args) != count:
        raise ValueError(f"{name} takes {count}: write for example {example}")


def _throttle(name: str, args: tuple[str, ...]) -> Expression:
    _need(name, args, 1, "throttle_fraction(hw_thermal)")
    if args[0] not in REASONS:
        raise ValueError(f"no throttle reason {args[0]!r}; {closest(args[0], list(REASONS))}")
    return Expression(name, args, "ratio", (0.0, 1.0))


def _slope(name: str, args: tuple[str, ...]) -> Expression:
    _need(name, args, 2, "slope(gpu_temperature_c, 60)")
    row = _gauge(args[0])
    span = (row.valid[1] - row.valid[0]) * 60.0 / _seconds(args[1])
    return Expression(name, args, f"{row.unit}/min", (-span, span))


def _neighbours(name: str, args: tuple[str, ...]) -> Expression:
    _need(name, args, 1, "neighbours(gpu_temperature_c)")
    row = _gauge(args[0])
    span = row.valid[1] - row.valid[0]
    return Expression(name, args, row.unit, (-span, span))


def _rate(name: str, args: tuple[str, ...]) -> Expression:
    _need(name, args, 1, "rate(nvlink_tx_bytes)")
    row = _counter(args[0])
    high = 1e6 if row.unit == "µs" else math.inf
    return Expression(name, args, f"{row.unit or '1'}/s", (0.0, high))


def _increase(name: str, args: tuple[str, ...]) -> Expression:
    _need(name, args, 2, "increase(ecc_uncorrected, 60)")
    row = _counter(args[0])
    _seconds(args[1])
    return Expression(name, args, row.unit, (0.0, row.valid[1]))


def _events(name: str, args: tuple[str, ...]) -> Expression:
    known = [*kinds(), "xid"]
    for kind in args:
        if kind not in known:
            raise ValueError(f"no kind of event {kind!r}; {closest(kind, known)}")
    if not args:
        raise ValueError("event needs kinds: write for example event(xid)")
    return Expression(name, args, "", (0.0, math.inf))


def _physics(name: str, args: tuple[str, ...]) -> Expression:
    for cause in args:
        if cause not in CAUSES:
            raise ValueError(f"no cause {cause!r}; {closest(cause, list(CAUSES))}")
    if not args:
        raise ValueError("physics needs causes: write for example physics(rack_cooling)")
    return Expression(name, args, "", (0.0, math.inf))


def _facility(name: str, args: tuple[str, ...]) -> Expression:
    _need(name, args, 1, "facility(inlet_c)")
    unit, _, _ = args[0][::-1].partition("_")
    unit = {"c": "°C", "kw": "kW"}.get(unit[::-1], unit[::-1])
    return Expression(name, args, unit, (-math.inf, math.inf))


def _health(name: str, args: tuple[str, ...]) -> Expression:
    _need(name, args, 2, "health(store, lag_s)")
    if args[0] not in ROLES:
        raise ValueError(f"no role {args[0]!r}; {closest(args[0], list(ROLES))}")
    unit = "s" if args[1].endswith("_s") else "d" if args[1].endswith("_days") else ""
    return Expression(name, args, unit, (-math.inf, math.inf))


_CALLS: dict[str, Callable[[str, tuple[str, ...]], Expression]] = {
    "throttle_fraction": _throttle,
    "slope": _slope,
    "neighbours": _neighbours,
    "rate": _rate,
    "increase": _increase,
    "event": _events,
    "physics": _physics,
    "facility": _facility,
    "health": _health,
    "health_rise": _health,
}
