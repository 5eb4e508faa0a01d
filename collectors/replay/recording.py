"""Recordings as one timeline: surveyed once, then read in order, tick by tick."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path

from collectors.contract.record import SlotLabels
from collectors.replay import pagelog, tablelog, textlog
from collectors.replay.csvlog import CsvLog, open_text
from collectors.replay.pagelog import PageLog
from collectors.replay.samples import Reader, Rejects, Sample
from collectors.replay.tablelog import TableLog
from collectors.replay.textlog import TextLog
from collectors.replay.xmllog import XmlLog

_SUFFIXES = (".gz", ".csv", ".xml", ".log", ".txt", ".prom", ".metrics")
_STEPS_AT_MOST = 100_000
"""Distinct steps that a survey counts; more are irregular enough without."""
_LEAST_STEP_US = 1_000
"""Shorter ones stand between rows with one stamp, moved apart by us: they say nothing of the log."""
_STEP_US = 1_000_000
"""Taken where a recording has no two rows of one GPU."""


@dataclass(frozen=True, slots=True)
class Tick:
    """All samples of a node with one timestamp."""

    node: str
    time_us: int
    samples: Sequence[Sample]


@dataclass(slots=True)
class NodeSurvey:
    """What is known of a node beforehand."""

    labels: dict[int, SlotLabels] = field(default_factory=dict[int, SlotLabels])
    steps: Counter[int] = field(default_factory=Counter[int])

    @property
    def step_us(self) -> int:
        """Median step between rows of one GPU, µs."""
        half = self.steps.total() / 2
        below = 0
        for step_us in sorted(self.steps):
            below += self.steps[step_us]
            if below >= half:
                return step_us
        return _STEP_US


@dataclass(slots=True)
class Survey:
    """The whole of the recordings."""

    rows: int = 0
    first_us: int = 0
    last_us: int = 0
    nodes: dict[str, NodeSurvey] = field(default_factory=dict[str, NodeSurvey])
    rejects: Rejects = field(default_factory=Rejects)


def node_name(path: Path) -> str:
    """The file's name without what says how it is kept."""
    name = path.name
    while any(name.lower().endswith(suffix) for suffix in _SUFFIXES):
        name = name.rpartition(".")[0]
    return name or path.name


def reader_for(path: Path, zone: tzinfo, model: str) -> Reader:
    """The reader that a file's first characters ask for.  Raises OSError."""
    with open_text(path) as file:
        start = file.read(4096).lstrip()
    if start.startswith("<"):
        return XmlLog(zone, model)
    if textlog.TITLE in start:
        return TextLog(zone, model)
    if tablelog.TITLE in start:
        return TableLog(zone, model)
    return PageLog(model) if start.startswith(pagelog.STARTS) else CsvLog(zone, model)


class Recording:
    """One or more files.  Raises ValueError for a file of no known kind, OSError."""

    def __init__(
        self, paths: Sequence[Path], *, zone: tzinfo, node: str | None = None, model: str = ""
    ) -> None:
        self._files = [(path, reader_for(path, zone, model)) for path in paths]
        self._node = node

    def survey(self, *, undated_us: int | None) -> Survey:
        """Reads all once.  A sample without a time gets `undated_us`; ValueError if that is None."""
        survey = Survey()
        last: dict[tuple[str, int], int] = {}
        for tick in self.ticks(survey.rejects, undated_us=undated_us):
            node = survey.nodes.setdefault(tick.node, NodeSurvey())
            survey.first_us = min(survey.first_us, tick.time_us) if survey.rows else tick.time_us
            survey.last_us = max(survey.last_us, tick.time_us)
            survey.rows += len(tick.samples)
            for sample in tick.samples:
                slot = sample.labels.slot
                node.labels[slot] = sample.labels
                before_us = last.get((tick.node, slot))
                step_us = 0 if before_us is None else tick.time_us - before_us
                if step_us >= _LEAST_STEP_US and len(node.steps) < _STEPS_AT_MOST:
                    node.steps[step_us] += 1
                last[tick.node, slot] = tick.time_us
        if not survey.rows:
            raise ValueError("nothing to replay: no row of these files could be read")
        return survey

    def ticks(self, rejects: Rejects, *, undated_us: int | None) -> Iterator[Tick]:
        """Ticks in order of time; rows that go back in time are left out and counted."""
        node, time_us = "", 0
        group: dict[int, Sample] = {}
        for at_us, name, sample in self._ordered(rejects, undated_us):
            slot = sample.labels.slot
            if group and (name != node or at_us != time_us or slot in group):
                yield Tick(node, time_us, list(group.values()))
                group = {}
            node, time_us = name, at_us
            group[slot] = sample
        if group:
            yield Tick(node, time_us, list(group.values()))

    def _ordered(
        self, rejects: Rejects, undated_us: int | None
    ) -> Iterator[tuple[int, str, Sample]]:
        streams = [self._dated(path, reader, rejects, undated_us) for path, reader in self._files]
        last: dict[tuple[str, int], tuple[int, int]] = {}
        for stamp_us, node, sample in heapq.merge(*streams, key=lambda entry: entry[0]):
            key = (node, sample.labels.slot)
            before_us, sent_us = last.get(key, (stamp_us - 1, stamp_us - 1))
            if stamp_us < before_us:
                rejects.add("out of order", f"{node}: {before_us - stamp_us} µs back")
                continue
            # Logs faster than their own clock repeat a stamp: each row still is a sample.
            at_us = max(stamp_us, sent_us + 1)
            last[key] = (stamp_us, at_us)
            yield at_us, node, sample

    def _dated(
        self, path: Path, reader: Reader, rejects: Rejects, undated_us: int | None
    ) -> Iterator[tuple[int, str, Sample]]:
        name = node_name(path)
        for sample in reader(path, rejects):
            time_us = undated_us if sample.time_us is None else sample.time_us
            if time_us is None:
                raise ValueError(f"{path} has no time of its own: leave out --keep-time")
            yield time_us, self._node or sample.node or name, sample
