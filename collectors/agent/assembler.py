"""Turns the readings of one tick into a node record: one assembler is one run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import lt
from typing import NamedTuple

from collectors.agent.columns import Columns
from collectors.agent.integrals import ActivityRule, SlotIntegrals
from collectors.contract.catalogue import CATALOGUE, Own
from collectors.contract.flop import FlopWindow
from collectors.contract.identity import unpack_slot
from collectors.contract.models import GpuModel, find_model
from collectors.contract.record import NodeRecord, Origin, SlotLabels

_LABELS_EVERY_US = 60_000_000


class Reading(NamedTuple):
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
    counters: Sequence[float] = ()
    """The device's, in the catalogue's order: of each the value that was last given."""


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
        self._columns = Columns(CATALOGUE)
        self._device_counters = [
            metric.name for metric in CATALOGUE.counters if not isinstance(metric.read, Own)
        ]
        self._no_counters = [0.0] * len(self._device_counters)
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
            self._columns.of(rows),
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
        row = dict(reading.values or {})
        if math.isnan(sum(row.values())):
            row = {name: value for name, value in row.items() if not math.isnan(value)}
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
        changed = state.energy_epoch is not None and state.energy_epoch != epoch
        if state.labels is not reading.labels:
            changed |= state.labels != reading.labels
            if state.labels.model != reading.labels.model:
                state.model = find_model(reading.labels.model)
        state.labels, state.energy_epoch = reading.labels, epoch
        names, before = self._device_counters, state.counters or self._no_counters
        state.counters = now = [*map(row.get, names, before)]
        return changed or any(map(lt, now, before))

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
