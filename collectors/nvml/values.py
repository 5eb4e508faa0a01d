"""All values of one device at a tick: fields and calls, less what it does not give."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from collectors.contract.catalogue import CATALOGUE, CallRead, FieldRead
from collectors.contract.source import DeviceLostError, TransientError, UnsupportedError
from collectors.nvml.api import Nvml
from collectors.nvml.batch import FieldBatch
from collectors.nvml.cadence import Cadence, Thing
from collectors.nvml.counters import GrowingCounter
from collectors.nvml.errors import DeniedError, UnknownFaultError
from collectors.nvml.fields import PlannedField
from collectors.nvml.links import LinkErrors
from collectors.nvml.readings import Readings
from collectors.nvml.throttle import ThrottleCheck

_log = logging.getLogger(__name__)
_FAULTS_AT_MOST = 3
"""So many unknown faults in a row, with no answer between them, are a sick device."""
_BYTES_PER_S_AT_MOST = {
    "pcie_tx_bytes": 128e9, "pcie_rx_bytes": 128e9, "nvlink_tx_bytes": 2e12, "nvlink_rx_bytes": 2e12,
}  # fmt: skip
"""PCIe 6 with 16 lanes, and twice NVLink 5, each way."""
_NVLINK = frozenset({"nvlink_tx_bytes", "nvlink_rx_bytes", "nvlink_errors"})
_SAME_QUANTITY = frozenset({"power_w", "energy_mj"})
"""Rows whose call says what their field says: it can take over in mid-run."""
_ALWAYS = frozenset({0.0})
_NOT_A_VALUE = 0xFFFFFFFF


class Faults:
    """Counts unknown faults of a device, whatever part of it met them."""

    def __init__(self) -> None:
        self.in_a_row = 0
        """To be set to 0 by whatever gets what it asked for."""

    def failed(self, error: TransientError) -> None:
        """A call gave nothing this time; DeviceLostError at the third unknown fault in a row."""
        self.in_a_row = self.in_a_row + 1 if isinstance(error, UnknownFaultError) else 0
        if self.in_a_row >= _FAULTS_AT_MOST:
            raise DeviceLostError(f"{error}, {self.in_a_row} times in a row") from error


class _CallRow(NamedTuple):
    name: str
    method: Callable[[], float]
    low: float
    high: float


class DeviceValues:
    """Reads what is due.  `unsupported` says of each row why this device does not give it."""

    def __init__(
        self,
        nvml: Nvml,
        handle: Any,
        uuid: str,
        plan: Sequence[PlannedField],
        *,
        phase: float = 0.0,
    ) -> None:
        self._nvml, self._handle, self._uuid = nvml, handle, uuid
        self._whole_plan, self._phase = tuple(plan), phase
        self.faults = Faults()
        self.unsupported: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()
        self._readings = Readings(nvml, handle)
        self._traffic = {name: GrowingCounter(most) for name, most in _BYTES_PER_S_AT_MOST.items()}
        self._given: set[str] = set()
        self._rated: set[str] = set()
        self.ask_again(mig=False)

    def ask_again(self, *, mig: bool) -> None:
        """Asks anew for everything, as after a change of the MIG mode, which gives and takes
        whole groups of rows; NVLink's are none of a divided GPU's."""
        self.unsupported = {}
        self._throttle = ThrottleCheck()
        plan = [one for one in self._whole_plan if not (mig and one.metric in _NVLINK)]
        self._batch = FieldBatch(self._nvml, self._handle, plan, self._field_missing)
        self._calls = self._named_calls({one.metric for one in self._whole_plan}, mig=mig)
        seldom: dict[Thing, float] = {one.every_s: one.every_s for one in plan if one.every_s}
        rows = [CATALOGUE.by_name[name] for name in self._calls]
        seldom |= {row.name: row.every_s for row in rows if row.every_s}
        self._always = [self._calls[row.name] for row in rows if not row.every_s]
        self._cadence = Cadence(seldom, self._phase)

    def _named_calls(self, planned: set[str], *, mig: bool) -> dict[str, _CallRow]:
        """Rows read by a call, and those whose field this driver's branch does not have."""
        calls: dict[str, _CallRow] = {}
        for metric in CATALOGUE:
            read = metric.read
            if mig and metric.name in _NVLINK:
                self.unsupported[metric.name] = "not given of a GPU that is divided (MIG)"
            elif isinstance(read, CallRead | FieldRead) and metric.name not in planned:
                name = read.method if isinstance(read, CallRead) else metric.name
                method = self._method(name)
                if method is not None:
                    calls[metric.name] = _CallRow(metric.name, method, *metric.valid)
                elif isinstance(read, FieldRead):
                    self.unsupported[metric.name] = "this driver's branch has no such field"
        return calls

    def _method(self, name: str) -> Callable[[], float] | None:
        if name == "nvlink_errors":
            return LinkErrors(self._nvml, self._handle).read
        return getattr(self._readings, name, None)

    def read(self, now_us: int) -> dict[str, float]:
        """Values in catalogue units and ranges.  Raises DeviceLostError, DriverGoneError or
        RestartNeededError; what fails otherwise is left out."""
        due = self._cadence.due(now_us)
        fields = _ALWAYS.union(key for key in due if isinstance(key, float)) if due else _ALWAYS
        values = self._read_fields(fields)
        self._grow(values, now_us)
        self._readings.begin()
        self._read_calls(self._always, values)
        if due:
            seldom = [
                self._calls[key] for key in due if isinstance(key, str) and key in self._calls
            ]
            self._read_calls(seldom, values)
        self._check_throttle(values, now_us)
        self._given |= values.keys()
        return values

    def _check_throttle(self, values: dict[str, float], now_us: int) -> None:
        wrong = self._throttle.wrong(values, now_us)
        for name in wrong:
            del values[name]
            self._drop_call(name)
            self._say(name, UnsupportedError("it stands still while its clocks are lowered"))
        if wrong:
            self._batch.drop(wrong)

    def _read_fields(self, due: frozenset[float]) -> dict[str, float]:
        try:
            values = self._batch.read(due)
        except TransientError as error:
            self.faults.failed(error)
            return {}
        if values:
            self.faults.in_a_row = 0
        return values

    def _grow(self, values: dict[str, float], now_us: int) -> None:
        for name, counter in self._traffic.items():
            if name not in values:
                continue
            try:
                values[name] = counter.take(int(values[name]), now_us)
            except UnsupportedError as error:
                del values[name]
                self._batch.drop(frozenset({name}))
                self._say(name, error)

    def add_traffic(self, values: dict[str, float], bytes_moved: Mapping[str, float]) -> None:
        """Rows whose field this device does not give, by amounts that were measured otherwise."""
        for name, amount in bytes_moved.items():
            if name in self._rated or name in self.unsupported:
                self._rated.add(name)
                self.unsupported.pop(name, None)
                values[name] = self._traffic[name].add(amount)

    def _read_calls(self, rows: Sequence[_CallRow], values: dict[str, float]) -> None:
        faults = self.faults
        for row in rows:
            try:
                value = row.method()
            except UnsupportedError as error:
                self._drop_call(row.name)
                self._say(row.name, error)
            except TransientError as error:
                faults.failed(error)
            else:
                faults.in_a_row = 0
                if row.low <= value <= row.high and value != _NOT_A_VALUE:
                    values[row.name] = value

    def _drop_call(self, name: str) -> None:
        self._calls.pop(name, None)
        self._always = [row for row in self._always if row.name != name]

    def _field_missing(self, planned: PlannedField, error: UnsupportedError) -> None:
        """A field is left out for good; a call of the row's name stands in, but not for a
        counter that has been read: another one's value is no continuation of it."""
        name = planned.metric
        method = self._method(name)
        if method is None or (name in self._given and name not in _SAME_QUANTITY):
            self._say(name, error)
        else:
            row = self._calls[name] = _CallRow(name, method, planned.low, planned.high)
            self._always = [*self._always, row]

    def _say(self, name: str, error: UnsupportedError) -> None:
        self.unsupported[name] = str(error)
        if (name, str(error)) in self._told:
            return
        self._told.add((name, str(error)))
        if isinstance(error, DeniedError):
            _log.warning("metric_denied name=%s uuid=%s reason=%s", name, self._uuid, error)
        else:  # facts tell it of each GPU: in the log it would be ten lines of each
            _log.debug("metric_unsupported name=%s uuid=%s reason=%s", name, self._uuid, error)
