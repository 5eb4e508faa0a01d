"""A transition as the record that goes out: whom it hits, with which figures, in which words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from collectors.contract.alerts import Alert
from collectors.contract.xids import ACTIONS, advice
from pipeline.watch.alerts.derive import Values
from pipeline.watch.alerts.engine import Change
from pipeline.watch.alerts.inputs import Placed, Tick
from pipeline.watch.alerts.rules import Rule
from pipeline.watch.alerts.subjects import Subjects, fingerprint

EVIDENCE = (
    "gpu_temperature_c", "memory_temperature_c", "thermal_margin_c", "power_w", "gpu_utilization",
    "sm_clock_mhz",
)  # fmt: skip
CAUSE_TITLES = {
    "rack_inlet": "inlet of the rack too warm", "hall_inlet": "inlet of the hall too warm",
    "site_inlet": "inlet of the site too warm",
}  # fmt: skip
"""Of findings that say more than their rule."""
MOST_NAMES = 50


class Hit(Protocol):
    """Tenants and jobs that held some GPUs at a time: see `around.Holders.hit`."""

    def __call__(self, gpus: NDArray[np.intp], time_us: int) -> tuple[set[str], set[str]]: ...


def alert_of(change: Change, tick: Tick, values: Values, subjects: Subjects, hit: Hit) -> Alert:
    """The record of a transition."""
    rule, index = change.rule, change.index
    subject = subjects.subject(rule, index, tick.owners)
    finding = values.findings.get((rule.name, index))
    gpus = subjects.gpus(rule, index, tick) if finding is None else finding.gpus
    value = None if math.isnan(change.value) or rule.eventful else round(change.value, 4)
    tenants, jobs = _held(change, gpus, tick, values.events.get((rule.name, index)), hit)
    return Alert(
        fingerprint=fingerprint(rule.name, rule.scope, subjects.key(rule, index, tick.owners)),
        rule=rule.name,
        severity=rule.steps[change.step].severity,
        state=change.state,
        subject=subject,
        since_us=change.since_s * 1_000_000,
        at_us=change.at_s * 1_000_000,
        value=value,
        level=None if rule.eventful else rule.steps[change.step].level,
        metric=rule.when.metric or rule.when.text,
        unit=rule.when.unit,
        title=_title(rule, index, values),
        text=_text(change, subject.name, values),
        family=rule.family,
        cause=finding.cause if finding is not None else rule.cause,
        confidence=None if finding is None else round(finding.confidence, 3),
        evidence=_evidence(rule, index, tick, values),
        concerns=rule.concerns,
        tenants=tenants,
        jobs=jobs,
        gpus=len(gpus),
        pflops=round(float(tick.layout.pflops[gpus].sum()), 4) if len(gpus) else None,
        runbook=rule.runbook,
        action=_action(rule, index, values),
        origin=tick.origin,
    )


def _held(
    change: Change, gpus: NDArray[np.intp], tick: Tick, placed: Placed | None, hit: Hit
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tenants and jobs that hold some GPUs, by name; at most MOST_NAMES each.

    Of an event those count that held them when it happened, as the next job may have begun since;
    where nobody holds any now, those that did when it began.
    """
    held = gpus[tick.allocated[gpus]]
    if placed is not None and len(gpus):
        offset_s = float(np.nan_to_num(tick.clock_offset_s[gpus[0]]))
        at_us = placed.event.time_us + round(offset_s * 1e6)
        tenants, jobs = hit(gpus, min(at_us, tick.time_us))
    elif len(held):
        tenants, jobs = _names(tick.owner[held], tick.owners), _names(tick.job[held], tick.jobs)
    else:
        tenants, jobs = hit(gpus, change.since_s * 1_000_000)
    return tuple(sorted(tenants)[:MOST_NAMES]), tuple(sorted(jobs)[:MOST_NAMES])


def _names(codes: NDArray[np.int32], names: Sequence[str]) -> set[str]:
    some: list[int] = np.unique(codes).tolist()
    return {names[code] for code in some} - {""}


def _evidence(rule: Rule, index: int, tick: Tick, values: Values) -> dict[str, float]:
    finding = values.findings.get((rule.name, index))
    if finding is not None:
        return {name: round(float(value), 4) for name, value in finding.evidence.items()}
    placed = values.events.get((rule.name, index))
    if placed is not None and placed.event.code is not None:
        return {"code": float(placed.event.code)}
    if rule.scope != "gpu":
        return {}
    found = {name: float(tick.gauges[name][index]) for name in EVIDENCE if name in tick.gauges}
    return {name: round(value, 4) for name, value in found.items() if not math.isnan(value)}


def _action(rule: Rule, index: int, values: Values) -> str:
    """The rule's own words, else what the maker advises for the event."""
    placed = values.events.get((rule.name, index))
    if placed is not None:
        event = placed.event
        found = advice(event.kind, event.code, event.text)
        steps = [ACTIONS[one] for one in (found.action, found.then) if one in ACTIONS]
        if steps:
            return " Else: ".join(steps)
    return rule.action


def _title(rule: Rule, index: int, values: Values) -> str:
    """The rule's, or what the event or the finding is."""
    finding = values.findings.get((rule.name, index))
    if finding is not None:
        return CAUSE_TITLES.get(finding.cause, rule.title)
    placed = values.events.get((rule.name, index))
    if placed is None:
        return rule.title
    event = placed.event
    name = advice(event.kind, event.code, event.text).name
    return name if event.code is None else f"{event.kind.upper()} {event.code}, {name}"


def _text(change: Change, name: str, values: Values) -> str:
    rule = change.rule
    if change.state == "resolved":
        why = "nothing more was heard of it" if change.reason else "it is over"
        return f"{name}: {rule.summary} – {why}."
    finding = values.findings.get((rule.name, change.index))
    if finding is not None:
        return f"{name}: {finding.text}"
    placed = values.events.get((rule.name, change.index))
    if placed is not None:
        event = placed.event
        code = f" {event.code}" if event.code is not None else ""
        found = advice(event.kind, event.code, event.text)
        said = f" – {event.text}" if event.text else ""
        return f"{name}: {rule.summary}: {found.name} ({event.kind}{code}){said}"
    if rule.eventful or math.isnan(change.value):
        return f"{name}: {rule.summary}."
    side = "above" if rule.above else "below"
    level = rule.steps[change.step].level
    return f"{name}: {rule.summary}: {_figure(change.value, rule)}, {side} {_figure(level, rule)}."


def _figure(value: float, rule: Rule) -> str:
    if rule.each == "count":
        return f"{value:.0f} GPUs"
    if rule.each == "fraction":
        return f"{100 * value:.0f} %"
    if rule.unit == "ratio":
        return f"{100 * value * rule.scale:.3g} %"
    return f"{value * rule.scale:.4g} {rule.unit}".rstrip()
