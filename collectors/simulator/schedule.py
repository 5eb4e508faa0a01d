"""Which faults a simulation has: a scenario file, random ones at published rates, and telemetry's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from collectors.contract.inventory import InstalledNode
from collectors.kit.toml_file import closest
from collectors.simulator.faults import FAULTS, Family, FaultKind, names
from collectors.simulator.random_faults import random_faults
from collectors.simulator.scenario import FaultEvent, gpus_of, read_scenario
from collectors.simulator.sites import GPUS_PER_NODE

OPTIONS = ("scenario", "faults", "telemetry_faults")
_MONTH_US = 30 * 86_400_000_000
_SHARE = 16
"""One node in so many has each kind of telemetry fault."""


def make_schedule(
    extra: Mapping[str, str],
    entries: Sequence[InstalledNode],
    seed: int,
    length_us: int | None,
) -> list[FaultEvent]:
    """All faults of a simulation of `length_us` (None: without end), in order of time.

    `scenario` is a file, `faults` is `none`, `random` or `random:TIMES`,
    `telemetry_faults` is `none`, `all` or kinds with commas between.
    Raises ValueError (ScenarioError where a file is wrong).
    """
    events: list[FaultEvent] = []
    if extra.get("scenario"):
        events += read_scenario(Path(extra["scenario"]))
    times = _times(extra.get("faults", "none"))
    if times:
        events += random_faults(entries, seed, length_us or _MONTH_US, times=times)
    kinds = _kinds(extra.get("telemetry_faults", "none"))
    events += _spread(kinds, entries, seed, length_us or 86_400_000_000)
    for event in events:
        gpus_of(event, entries)
    return sorted(events, key=lambda event: (event.at_us, event.kind.name, event.name))


def _times(text: str) -> float:
    word, _, number = text.partition(":")
    if word == "none" and not number:
        return 0.0
    try:
        times = float(number) if number else 1.0
    except ValueError:
        times = 0.0
    if word != "random" or times <= 0:
        raise ValueError(
            f"faults {text!r}: write none, random, or random:10 for ten times the rates"
        )
    return times


def _kinds(text: str) -> list[FaultKind]:
    known = names(Family.TELEMETRY)
    if text == "none":
        return []
    wanted = known if text == "all" else [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in known:
            raise ValueError(
                f"no telemetry fault {name!r}; {closest(name, [*known, 'all', 'none'])}"
            )
    return [FAULTS[name] for name in wanted]


def _spread(
    kinds: Sequence[FaultKind], entries: Sequence[InstalledNode], seed: int, length_us: int
) -> list[FaultEvent]:
    """Each kind on some nodes, somewhere in the middle of the time; on a node at most as many
    as there are kinds, since they may meet there as they do in the field."""
    rng = np.random.default_rng([seed, 13])
    events: list[FaultEvent] = []
    for kind in kinds:
        count = max(1, len(entries) // _SHARE)
        chosen: list[int] = rng.choice(len(entries), count, replace=False).tolist()
        for node in chosen:
            at_us = int(rng.uniform(0.05, 0.6) * length_us)
            for_us = None
            if kind.lasts_s is not None:
                for_us = min(int(kind.lasts_s * 1e6), length_us // 4)
            place = "node" if "node" in kind.scopes else "gpu"
            name = entries[node].name
            if place == "gpu":
                name = f"{name}/{int(rng.integers(GPUS_PER_NODE))}"
            strength = kind.strength.default if kind.strength is not None else 0.0
            events.append(FaultEvent(kind, at_us, for_us, place, name, strength))
    return events
