"""Rules that are well written and can never speak, or never be silent, are refused too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pipeline.watch.alerts.expressions import PLACES, Expression
from pipeline.watch.alerts.rules import Rule

_SCOPES_OF_CAUSE = {
    "gpu_interface": ("gpu",),
    "outlier": ("gpu",),
    "node_cooling": ("node",),
    "rack_cooling": ("rack",),
    "rack_inlet": ("rack",),
    "hall_inlet": ("hall",),
    "site_inlet": ("site",),
    "power_brake": ("node", "rack"),
}
_OF_EVENTS = ("advice_severity", "advice_concerns", "codes", "not_codes")


class BadKeyError(ValueError):
    """What is wrong with a key of a rule."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def require_place(when: Expression, scope: str) -> None:
    """Raises BadKeyError where a quantity is never known of what the rule is about."""
    places = {"health": ("pipeline",), "health_rise": ("pipeline",), "facility": PLACES}
    allowed = places.get(when.name)
    if allowed is None and scope == "pipeline":
        raise BadKeyError("scope", f"{when.text} is of GPUs: write health(ROLE, NAME)")
    if allowed is not None and scope not in allowed:
        raise BadKeyError("scope", f"{when.text} is of {' or '.join(allowed)}")
    if when.name == "event" and scope not in ("gpu", "node"):
        raise BadKeyError("scope", "events are of a gpu or a node")
    for cause in when.args if when.name == "physics" else ():
        known = _SCOPES_OF_CAUSE[cause]
        if scope not in known:
            raise BadKeyError("scope", f"{cause} is found of a {' or '.join(known)}")


def require_sense(values: Mapping[str, Any], rule: Rule) -> None:
    """Raises BadKeyError for a rule that always holds or never ends, and for keys without effect."""
    for key in _OF_EVENTS if rule.when.name != "event" else ():
        if key in values:
            raise BadKeyError(key, f"{rule.when.text} is no event: leave it out")
    for key in ("each_above", "each_below") if not rule.each else ():
        if key in values:
            raise BadKeyError(key, "goes with each = count or each = fraction: leave it out")
    if "critical_for" in values and "critical" not in values:
        raise BadKeyError("critical_for", "goes with critical, which is missing")
    if not rule.eventful:
        _ends(rule)
    if "://" in rule.runbook and not urlsplit(rule.runbook).hostname:
        raise BadKeyError("runbook", f"write a whole address, not {rule.runbook!r}")


def _ends(rule: Rule) -> None:
    """A condition must be false of some value, and an alert must be able to end."""
    low, high = rule.when.valid
    if rule.each in ("count", "fraction"):
        low, high = 0.0, 1.0 if rule.each == "fraction" else float("inf")
    level = rule.steps[0].level
    key = "above" if rule.above else "below"
    for name, value in ((key, level), ("clear", rule.clear)):
        if value < low if rule.above else value > high:
            what = "it would always hold" if name == key else "alerts would never end"
            unit = "" if rule.each in ("count", "fraction") else rule.when.unit
            span = f"{low:g} to {high:g} {unit}".rstrip()
            raise BadKeyError(name, f"{value:g} lies outside of {span}: {what}")
