"""Turns the readings of one tick into a node record: one assembler is one run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from collectors.agent.integrals import ActivityRule, SlotIntegrals
from collectors.contract.catalogue import (
    CATALOGUE,
    COUNTER_ABSENT,
    COUNTER_LIMIT,
    Kind,
    Own,
)
from collectors.contract.flop import FlopWindow
from collectors.contract.identity import unpack_slot
from collectors.contract.models import GpuModel, find_model
from collectors.contract.record import NodeRecord, Origin, SlotLabels

_LABELS_EVERY_US = 60_000_000
_LARGEST_FLOAT = 3e38
"""Beyond it a 32-bit float overflows."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one slot said at a tick; `values` is None when it is known and could not be read."""

    labels: SlotLabels
    energy_epoch: int
    values: Mapping[str, float] | None
    flop: FlopWindow | None = None
    """What was measured of FLOP since the last reading, as `Sample.flop`."""


@dataclass(slots=True)
class _SlotState:
    integrals: SlotIntegrals
    labels: SlotLabels
    model: GpuModel | None
    time_us: int | None = None
    energy_epoch: int | None = None
    device_energy: bool = False
    labels_sent_us: int | None = None
    listed: bool = True
    """Whether the last record has it; a MIG instance can go."""
    counters: dict[str, float] = field(default_factory=dict[str, float])


class NodeAssembler:
    """Keeps what a run carries from record to record.

    `expected` are the slots whose first appearance is no change of layout.  A
    step longer than `longest_gap_us` leaves its time unobserved.
    """

    def __init__(
        self,
        node: str,
        origin: Origin,
        run: int,
        *,
        longest_gap_us: int,
        expected: Iterable[int] = (),
        rule: ActivityRule | None = None,
    ) -> None:
        self.node, self.origin, self.run = node, origin, run
        self._longest_gap_us = longest_gap_us
        self._expected = frozenset(expected)
        self._rule = rule or ActivityRule()
        self._states: dict[int, _SlotState] = {}
        self._metrics = [(metric.name, metric.kind is Kind.COUNTER) for metric in CATALOGUE]
        self._device_counters = [
            metric.name for metric in CATALOGUE.counters if not isinstance(metric.read, Own)
        ]
        self._sequence = 0
        self._label_epoch = 0

    def labels(self) -> Mapping[int, SlotLabels]:
        """The labels last seen, by slot, without instances that are gone."""
        return {slot: state.labels for slot, state in self._states.items() if state.listed}

    def assemble(self, time_us: int, readings: Sequence[Reading]) -> NodeRecord:
        """The next record.  Event times must not fall."""
        changed = self._forget_instances(readings)
        rows: list[dict[str, float]] = []
        states: list[_SlotState] = []
        for reading in readings:
            state, new = self._state(reading)
            row = self._advance(state, time_us, reading)
            changed |= new | self._news(state, reading, row)
            rows.append(row)
            states.append(state)
        if changed:
            self._label_epoch += 1
            for state in self._states.values():
                state.labels_sent_us = None
        record = NodeRecord(
            self.node, self.origin, self.run, self._sequence, time_us, self._label_epoch,
            [reading.labels.slot for reading in readings],
            [state.energy_epoch or 0 for state in states],
            self._columns(rows),
            self._due_labels(time_us, states),
        )  # fmt: skip
        self._sequence += 1
        return record

    def _forget_instances(self, readings: Sequence[Reading]) -> bool:
        """A MIG instance that is no longer there is neither down nor observed; whether one went.

        Its counters wait: where its slot is used again in this run, they go
        on, since a slot's never fall within a run.
        """
        here = {reading.labels.slot for reading in readings}
        if here >= self._states.keys():
            return False
        gone = [
            state
            for slot, state in self._states.items()
            if state.listed and slot not in here and unpack_slot(slot).gi >= 0
        ]
        for state in gone:
            state.listed, state.time_us = False, None
            state.integrals.interrupted()
        return bool(gone)

    def _state(self, reading: Reading) -> tuple[_SlotState, bool]:
        """The slot's state, and whether its appearance changes the layout of a running run."""
        slot = reading.labels.slot
        state = self._states.get(slot)
        if state is not None:
            back, state.listed = not state.listed, True
            return state, back
        labels = reading.labels
        state = _SlotState(SlotIntegrals(self._rule), labels, find_model(labels.model))
        self._states[slot] = state
        return state, self._sequence > 0 and slot not in self._expected

    def _advance(self, state: _SlotState, time_us: int, reading: Reading) -> dict[str, float]:
        """Integrates up to now; returns the slot's values with the run's own counters."""
        elapsed_us = 0 if state.time_us is None else time_us - state.time_us
        if elapsed_us > self._longest_gap_us:
            elapsed_us = 0
        state.time_us = time_us
        gauges = state.integrals.advance(elapsed_us, reading.values, state.model, reading.flop)
        row = {name: value for name, value in (reading.values or {}).items() if value == value}  # noqa: PLR0124 - NaN is absent
        row.update(gauges)
        row.update(state.integrals.counters())
        state.device_energy |= "energy_mj" in row
        has_power = "power_w" in row or "power_average_w" in row
        if not state.device_energy and has_power:
            row["energy_mj"] = state.integrals.energy_mj
        return row

    def _news(self, state: _SlotState, reading: Reading, row: Mapping[str, float]) -> bool:
        """Takes over labels, epoch and counters; whether they end the label epoch."""
        epoch = reading.energy_epoch if state.device_energy else self._own_epoch(reading)
        changed = state.labels != reading.labels or state.energy_epoch not in {None, epoch}
        if state.labels.model != reading.labels.model:
            state.model = find_model(reading.labels.model)
        state.labels, state.energy_epoch = reading.labels, epoch
        counters = state.counters
        for name in self._device_counters:
            value = row.get(name)
            if value is not None:
                changed |= value < counters.get(name, 0)
                counters[name] = value
        return changed

    def _own_epoch(self, reading: Reading) -> int:
        """The epoch of energy integrated from power: this run's, of this slot."""
        text = f"{self.run}\n{reading.labels.slot}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

    def _due_labels(self, time_us: int, states: Sequence[_SlotState]) -> list[SlotLabels]:
        due: list[SlotLabels] = []
        for state in states:
            sent_us = state.labels_sent_us
            if sent_us is None or time_us - sent_us >= _LABELS_EVERY_US:
                state.labels_sent_us = time_us
                due.append(state.labels)
        return due

    def _columns(self, rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
        """One array per metric that any slot has, absent where a slot has it not."""
        transposed = _transposed(rows)
        columns: dict[str, list[float]] = {}
        for name, counts in self._metrics:
            column = transposed.get(name)
            if column is not None:
                columns[name] = _counters(column) if counts else _gauges(column)
        return columns


def _transposed(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Columns of what any row has; GPUs that are alike give the same names in the same order."""
    if not rows:
        return {}
    names = list(rows[0])
    if all(list(row) == names for row in rows):
        return dict(
            zip(names, map(list, zip(*(row.values() for row in rows), strict=True)), strict=True)
        )
    there = set[str]().union(*rows)
    return {name: [row.get(name) for row in rows] for name in there}


def _counters(column: list[float | None]) -> list[float]:
    """Most columns are whole and within bounds, and pass as they are."""
    if None not in column:
        whole = cast("list[float]", column)
        if min(whole) >= 0 and max(whole) < COUNTER_LIMIT:
            return [int(value) for value in whole]
    return [_counter(value) for value in column]


def _gauges(column: list[float | None]) -> list[float]:
    if None not in column:
        whole = cast("list[float]", column)
        if min(whole) > -_LARGEST_FLOAT and max(whole) < _LARGEST_FLOAT:
            return whole
    return [_gauge(value) for value in column]


def _counter(value: float | None) -> int:
    known = value is not None and 0 <= value < COUNTER_LIMIT
    return int(value) if known and value is not None else COUNTER_ABSENT


def _gauge(value: float | None) -> float:
    known = value is not None and abs(value) < _LARGEST_FLOAT
    return float(value) if known and value is not None else math.nan
