"""Scenarios: what goes wrong when and where, as a TOML list of events.

[[event]]
fault = "rack_pump_failure"     # `petawatch simulate --list-faults`
at = "10m"                      # from the simulation's start
for = "20m"                     # else as long as the kind lasts
over = "6h"                     # grows over; else as the kind does
rack = "a03"                    # or gpu = "a03n01/2", node, hall, site = true
strength = 0.6                  # else the kind's own
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collectors.contract.inventory import InstalledNode
from collectors.kit.toml_file import ConfigError, closest, line_of, read_toml
from collectors.simulator.faults import FAULTS, Family, FaultKind
from collectors.simulator.sites import GPUS_PER_NODE

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_TIME = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_KEYS = ("fault", "at", "for", "over", "strength", "gpu", "node", "rack", "hall", "site")
_PLACES = ("gpu", "node", "rack", "hall", "site")


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """One fault: from `at_us` after the start, for `for_us` (None: to the end), at full strength
    after `over_us` (None: as its kind).

    `place` is `gpu`, `node`, `rack`, `hall` or `site`, `name` which one ("" for
    the site; a GPU is written as `node/index`).
    """

    kind: FaultKind
    at_us: int
    for_us: int | None
    place: str
    name: str
    strength: float
    over_us: int | None = None

    @property
    def ramp_us(self) -> int:
        """How long it takes to full strength; a fault that is shorter grows faster."""
        ramp_us = round(self.kind.ramp_s * 1e6) if self.over_us is None else self.over_us
        return ramp_us if self.for_us is None else min(ramp_us, self.for_us)

    @property
    def end_us(self) -> int | None:
        """When it is over, µs after the start."""
        return None if self.for_us is None else self.at_us + self.for_us


class ScenarioError(ConfigError):
    """A scenario that cannot be played: where the slip stands and what to write instead."""


def read_scenario(path: Path) -> list[FaultEvent]:
    """The events of a file, in order of time.  Raises ScenarioError."""
    try:
        text, content = read_toml(path)
    except ConfigError as error:
        raise ScenarioError(str(error)) from error
    unknown = [key for key in content if key != "event"]
    if unknown or not isinstance(content.get("event", []), list):
        raise ScenarioError(f"{path}: a scenario is a list of [[event]] tables, nothing else")
    events: list[FaultEvent] = []
    for nth, table in enumerate(content.get("event", [])):
        try:
            events.append(_event(table))
        except ValueError as error:
            line = line_of(text, "event", nth=nth)
            raise ScenarioError(f"{path}, line {line}: {error}") from error
    return sorted(events, key=lambda event: event.at_us)


def _event(table: Mapping[str, Any]) -> FaultEvent:
    for key in table:
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r}; {closest(key, list(_KEYS))}")
    name = str(table.get("fault", ""))
    kind = FAULTS.get(name)
    if kind is None:
        raise ValueError(f"no fault {name!r}; {closest(name, list(FAULTS))}")
    place, where = _place(kind, table)
    for_us, over = table.get("for"), table.get("over")
    lasts_us = None if kind.lasts_s is None else int(kind.lasts_s * 1e6)
    return FaultEvent(
        kind,
        duration_us(table.get("at", "0s")),
        lasts_us if for_us is None else duration_us(for_us),
        place,
        where,
        _strength(kind, table.get("strength")),
        None if over is None else duration_us(over),
    )


def _place(kind: FaultKind, table: Mapping[str, Any]) -> tuple[str, str]:
    given = [place for place in _PLACES if place in table]
    allowed = " or ".join(kind.scopes)
    if len(given) != 1:
        raise ValueError(f"{kind.name} needs one place: write {allowed}")
    place = given[0]
    if place not in kind.scopes:
        raise ValueError(f"{kind.name} cannot hit a {place}: write {allowed}")
    return place, "" if place == "site" else str(table[place])


def _strength(kind: FaultKind, given: object) -> float:
    if kind.strength is None:
        if given is not None:
            raise ValueError(f"{kind.name} has no strength: leave it out")
        return 0.0
    if given is None:
        return kind.strength.default
    low, high = kind.strength.low, kind.strength.high
    if isinstance(given, bool) or not isinstance(given, int | float) or not low <= given <= high:
        unit = kind.strength.unit
        raise ValueError(f"strength of {kind.name}: write a number from {low} to {high} ({unit})")
    return float(given)


def duration_us(text: object) -> int:
    """µs of `90s`, `10m`, `1h30m`, `2d` or of a number of seconds.  Raises ValueError."""
    if isinstance(text, int | float) and not isinstance(text, bool) and text >= 0:
        return round(text * 1e6)
    if not isinstance(text, str) or _TIME.fullmatch(text.strip()) is None:
        raise ValueError(f"not a time: {text!r}; write 90s, 10m, 1h30m or 2d")
    parts = _PART.findall(text)
    return round(sum(float(number) * _UNITS[unit] for number, unit in parts) * 1e6)


def gpus_of(event: FaultEvent, entries: Sequence[InstalledNode]) -> list[int]:
    """The site-wide indices of the GPUs that an event hits.  Raises ScenarioError for a place
    that the site has not."""
    if event.place == "site":
        return list(range(len(entries) * GPUS_PER_NODE))
    if event.place == "gpu":
        return [_gpu(event.name, entries)]
    nodes = [
        index
        for index, entry in enumerate(entries)
        if event.name == {"node": entry.name, "rack": entry.rack, "hall": entry.hall}[event.place]
    ]
    if not nodes:
        known = sorted(
            {getattr(e, "name" if event.place == "node" else event.place) for e in entries}
        )
        raise ScenarioError(
            f"the site has no {event.place} {event.name!r}; {closest(event.name, known)}"
        )
    return [node * GPUS_PER_NODE + gpu for node in nodes for gpu in range(GPUS_PER_NODE)]


def _gpu(text: str, entries: Sequence[InstalledNode]) -> int:
    name, _, index = text.rpartition("/")
    node = next((at for at, entry in enumerate(entries) if entry.name == name), None)
    if node is None or not index.isdecimal() or int(index) >= GPUS_PER_NODE:
        raise ScenarioError(f"the site has no GPU {text!r}; write node/index, as in a01n01/2")
    return node * GPUS_PER_NODE + int(index)


def of_family(events: Sequence[FaultEvent], family: Family) -> list[FaultEvent]:
    """The events of a family."""
    return [event for event in events if event.kind.family is family]
