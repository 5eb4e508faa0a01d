"""Nodes whose clocks are wrong: their records as an agent on such a clock would send them.

An agent's event time is the wall clock at its run's start plus the monotonic
clock; a step of more than a second begins a new run, whose own counters begin
at zero.  A drift that NTP allows goes into the event time as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind, Own
from collectors.contract.identity import new_run
from collectors.contract.record import NodeRecord
from collectors.contract.wire import encode, parse
from collectors.simulator.scenario import FaultEvent

KINDS = frozenset(("clock_skew", "clock_drift"))


@dataclass(slots=True)
class _Run:
    """The run that a node's agent has begun by itself, in place of the one simulated."""

    simulated: int
    offset_us: int
    run: int = 0
    first: int = 0
    label_epoch: int = 0
    base: dict[str, list[float]] = field(default_factory=dict[str, list[float]])


class WrongClocks:
    """Rewrites the records of nodes with a wrong clock; `start_us` is the site's start."""

    def __init__(self, events: Mapping[str, Sequence[FaultEvent]], start_us: int) -> None:
        self._events = events
        self._start_us = start_us
        self._runs: dict[str, _Run] = {}

    def rewrite(self, node: str, data: bytes, time_us: int) -> bytes:
        """The record as this node would send it at a true time."""
        events = self._events.get(node)
        if not events:
            return data
        since_us = time_us - self._start_us
        step_us = sum(_skew_us(event, since_us) for event in events)
        drift_us = sum(_drift_us(event, since_us) for event in events)
        state = self._runs.get(node)
        if step_us == 0 and drift_us == 0 and state is None:
            return data
        record = parse(data)
        record = self._in_run(record, state, step_us)
        told_us = record.time_us + step_us + drift_us
        return encode(replace(record, time_us=told_us))

    def _in_run(self, record: NodeRecord, state: _Run | None, step_us: int) -> NodeRecord:
        if state is None:
            if step_us == 0:
                return record
            state = _Run(record.run, 0)
        if state.simulated != record.run:
            # The agent was started again meanwhile: its new run is on the clock as it is.
            state = _Run(record.run, step_us, record.run)
        if state.offset_us != step_us or not state.run:
            state = _Run(
                record.run,
                step_us,
                new_run(record.time_us + step_us, record.sequence & 0xFFFFF),
                record.sequence,
                record.label_epoch,
                _own(record),
            )
        self._runs[record.node] = state
        return _rebased(record, state)


def _skew_us(event: FaultEvent, since_us: int) -> int:
    if event.kind.name != "clock_skew" or since_us < event.at_us:
        return 0
    over = event.end_us is not None and since_us >= event.end_us
    return 0 if over else round(event.strength * 1e6)


def _drift_us(event: FaultEvent, since_us: int) -> int:
    """Away at the rate, and back at the same rate once NTP takes hold again."""
    if event.kind.name != "clock_drift" or since_us < event.at_us:
        return 0
    length_us = event.for_us if event.for_us is not None else 1 << 62
    gone_us = since_us - event.at_us
    away_us = gone_us if gone_us <= length_us else max(0, 2 * length_us - gone_us)
    return round(away_us * event.strength * 1e-6)


def _own(record: NodeRecord) -> dict[str, list[float]]:
    return {
        metric.name: list(record.values[metric.name])
        for metric in CATALOGUE
        if metric.kind is Kind.COUNTER
        and isinstance(metric.read, Own)
        and metric.name in record.values
    }


def _rebased(record: NodeRecord, state: _Run) -> NodeRecord:
    values = dict(record.values)
    for name, base in state.base.items():
        if name in values:
            values[name] = [
                value if COUNTER_ABSENT in {value, zero} else max(0, value - zero)
                for value, zero in zip(values[name], base, strict=True)
            ]
    return replace(
        record,
        run=state.run,
        sequence=record.sequence - state.first,
        label_epoch=max(0, record.label_epoch - state.label_epoch),
        values=values,
    )
