"""inactive → pending → firing → resolved, on arrays: pure, and a function of the ticks alone.

Per rule only what is not inactive is held, so that a quiet second costs one
comparison per rule and GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.alerts.derive import Values
from pipeline.watch.alerts.expressions import OPERATORS
from pipeline.watch.alerts.inputs import Bools, Floats, Intp, Tick
from pipeline.watch.alerts.rules import NO_DATA_S, Rule

I64 = NDArray[np.int64]
ANNOUNCE_S = (5, 60)
"""A condition is told of as pending after half of its hold, within these bounds: what holds for
less is told to nobody."""
_NEVER = -1


class State(IntEnum):
    """What an alert that is not inactive is."""

    PENDING = 1
    FIRING = 2


@dataclass(frozen=True, slots=True)
class Change:
    """A transition: `state` is `pending`, `firing` or `resolved`; `step` that of the severity.

    `fired` says whether the alert was ever firing; `reason` is `no data` where
    it ends because nothing was heard.
    """

    rule: Rule
    index: int
    state: str
    step: int
    since_s: int
    at_s: int
    value: float
    fired: bool
    reason: str = ""


@dataclass(slots=True)
class Open:
    """The subjects of a rule that are not inactive, sorted by index; columns of equal length."""

    index: Intp
    state: NDArray[np.int8]
    step: NDArray[np.int8]
    since_s: I64
    held_s: I64
    """When it last held."""
    known_s: I64
    """When it was last known whether it holds."""
    beyond_s: I64
    """Since when the next severity's level is passed; −1: it is not."""
    announced: Bools

    @classmethod
    def at(cls, index: Intp, time_s: int) -> Open:
        """New ones, pending since now."""
        n = len(index)
        now = np.full(n, time_s, np.int64)
        return cls(
            index, np.full(n, State.PENDING, np.int8), np.zeros(n, np.int8), now, now.copy(),
            now.copy(), np.full(n, _NEVER, np.int64), np.zeros(n, np.bool_),
        )  # fmt: skip

    def columns(self) -> tuple[NDArray[np.generic], ...]:
        """All columns, in the order of the fields."""
        return (
            self.index, self.state, self.step, self.since_s, self.held_s, self.known_s,
            self.beyond_s, self.announced,
        )  # fmt: skip

    def take(self, rows: NDArray[np.generic]) -> Open:
        """Some of them."""
        return Open(*(column[rows] for column in self.columns()))  # type: ignore[arg-type]

    def joined(self, more: Open) -> Open:
        """Both, sorted by index."""
        if not len(more.index):
            return self
        pairs = zip(self.columns(), more.columns(), strict=True)
        both = Open(*(np.concatenate(pair) for pair in pairs))  # type: ignore[arg-type]
        return both.take(np.argsort(both.index, kind="stable"))


@dataclass(frozen=True, slots=True)
class Truth:
    """Of the candidates: whether the condition holds, has not ended, is unknown, is grave."""

    value: Floats
    holds: Bools
    stays: Bools
    unknown: Bools
    grave: Bools


def empty() -> Open:
    """None."""
    return Open.at(np.zeros(0, np.intp), 0)


class Engine:
    """All rules over one layout."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self.open: dict[str, Open] = {rule.name: empty() for rule in rules}

    def step(self, tick: Tick, values: Values) -> list[Change]:
        """The transitions of one second, by rule and then by subject."""
        changes: list[Change] = []
        for rule in self.rules:
            changes += self._rule(rule, tick, values)
        return changes

    def _rule(self, rule: Rule, tick: Tick, values: Values) -> list[Change]:
        column = values.of(rule)
        level = np.float32(rule.steps[0].level)
        hit = column > level if rule.above else column < level
        before = self.open[rule.name]
        if not hit.any() and not len(before.index):
            return []
        hit[before.index] = False
        opened = before.joined(Open.at(np.flatnonzero(hit), tick.time_s))
        truth = _truth(rule, column, opened.index, values)
        self.open[rule.name], changes = _advance(rule, opened, truth, tick.time_s)
        return changes

    def restore(self, opened: Mapping[str, Open]) -> None:
        """Goes on from what was open; rules that are no more are forgotten."""
        self.open = {rule.name: opened.get(rule.name, empty()) for rule in self.rules}


def _truth(rule: Rule, column: Floats, at: Intp, values: Values) -> Truth:
    value = _of(column, at)
    beyond = OPERATORS[">" if rule.above else "<"]
    level, clear = np.float32(rule.steps[0].level), np.float32(rule.clear)
    holds = beyond(value, level)
    stays = holds | beyond(value, clear)
    unknown = np.isnan(value)
    false = ~stays & ~unknown
    for one in rule.also:
        other = _of(values.column(one.expression, rule), at)
        true = OPERATORS[one.op](other, np.float32(one.level))
        missing = np.isnan(other)
        holds &= true
        stays &= true
        unknown |= missing
        false |= ~true & ~missing
    single = len(rule.steps) == 1
    grave = holds if single else holds & beyond(value, np.float32(rule.steps[-1].level))
    return Truth(value, holds, stays, unknown & ~false, grave)


def _of(column: Floats, at: Intp) -> Floats:
    """Some of a column; `at` is sorted, so that as many as there are are all."""
    return column if len(at) == len(column) else column[at]


def _settled(rule: Rule, now: Open, truth: Truth, time_s: int) -> bool:
    """Whether all fire, go on and can become no graver, as in most seconds of a storm: then nothing
    but the time is new."""
    if not (truth.stays.all() and (now.state == State.FIRING).all()):
        return False
    if len(rule.steps) > 1 and not (now.step == len(rule.steps) - 1).all():
        return False
    now.held_s[:] = now.known_s[:] = time_s
    return True


def _rising(rule: Rule, now: Open, truth: Truth, time_s: int) -> Bools:
    """Who has been beyond the next severity's level for long enough."""
    if len(rule.steps) == 1:
        return np.zeros(len(now.index), np.bool_)
    now.beyond_s[:] = np.where(
        truth.grave, np.where(now.beyond_s == _NEVER, time_s, now.beyond_s),
        np.where(truth.unknown, now.beyond_s, _NEVER),
    )  # fmt: skip
    higher = now.step < len(rule.steps) - 1
    return truth.grave & higher & (time_s - now.beyond_s >= rule.steps[-1].for_s)


def _advance(rule: Rule, now: Open, truth: Truth, time_s: int) -> tuple[Open, list[Change]]:
    """One second further: who rises, fires, is told of, and is over."""
    if _settled(rule, now, truth, time_s):
        return now, []
    pending = now.state == State.PENDING
    firing = ~pending
    held = np.where(pending, truth.holds, truth.stays)
    now.held_s[held] = time_s
    now.known_s[~truth.unknown] = time_s
    silent = truth.unknown & (time_s - now.known_s >= NO_DATA_S)
    kept = time_s - now.held_s < rule.keep_s
    over = silent | (~truth.unknown & ~held & (pending | ~kept))
    first, rises = rule.steps[0], _rising(rule, now, truth, time_s)
    fires = pending & truth.holds & ((time_s - now.since_s >= first.for_s) | rises)
    wait_s = min(max(first.for_s // 2, ANNOUNCE_S[0]), ANNOUNCE_S[1])
    told = pending & ~fires & ~over & ~now.announced & (time_s - now.since_s >= wait_s)
    now.state[fires] = State.FIRING
    now.step[rises & (firing | fires)] = len(rule.steps) - 1
    ended = over & (firing | now.announced)
    now.announced[fires | told] = True
    out: list[Change] = []
    marked = fires | told | (rises & firing) | ended
    for row in np.flatnonzero(marked).tolist():
        state = "resolved" if over[row] else "pending" if told[row] else "firing"
        out.append(
            Change(
                rule, int(now.index[row]), state, int(now.step[row]), int(now.since_s[row]),
                time_s, float(truth.value[row]), bool(firing[row] or fires[row]),
                "no data" if silent[row] else "",
            )
        )  # fmt: skip
    return (now.take(~over) if over.any() else now), out
