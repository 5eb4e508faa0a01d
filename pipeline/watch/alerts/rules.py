"""One rule: what must hold for how long, at which severity, and what people are told."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.watch.alerts.expressions import Comparison, Expression

EACH = ("max", "min", "mean", "count", "fraction")
"""How a quantity of GPUs becomes one of their node, rack, hall, tenant or site."""
NO_DATA_S = 300
"""How long an alert whose condition is unknown stays as it is, then it is resolved as `no data`."""
ONLY_WHEN = {"allocated": "allocated >= 1", "busy": "busy >= 1", "idle": "busy <= 0"}


@dataclass(frozen=True, slots=True)
class Step:
    """A severity and the level from which it holds, after `for_s`."""

    severity: str
    level: float
    for_s: int


@dataclass(frozen=True, slots=True)
class Advised:
    """Which events count: those whose advice says so; empty is any."""

    severities: tuple[str, ...] = ()
    concerns: str = ""
    codes: tuple[int, ...] = ()
    not_codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """As written in the rules file, checked.

    `steps` rise; the first is the rule's own severity.  `above` says on which
    side of the levels the condition holds; it ends beyond `clear`.
    """

    name: str
    scope: str
    when: Expression
    above: bool
    clear: float
    steps: tuple[Step, ...]
    keep_s: int
    runbook: str
    summary: str
    title: str
    """A few words for headings and subjects of mail."""
    family: str
    """What it belongs to: see `collectors.contract.alerts.FAMILIES`."""
    each: str = ""
    each_above: bool = True
    each_level: float = 0.0
    also: tuple[Comparison, ...] = ()
    advised: Advised = Advised()
    concerns: str = "operator"
    action: str = ""
    cause: str = ""
    unit: str = ""
    scale: float = 1.0
    """Text shows values times this, in `unit`."""

    @property
    def eventful(self) -> bool:
        """Whether it is about happenings, which are or are not, and never unknown."""
        return self.when.name in ("event", "physics")


def expressions_of(rule: Rule) -> tuple[Expression, ...]:
    """All that a rule looks at."""
    return (rule.when, *(one.expression for one in rule.also))
