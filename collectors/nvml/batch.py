"""The fields of one device in one call: what is due now, without what it does not give."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from collectors.contract.source import TransientError, UnsupportedError
from collectors.nvml.api import Nvml
from collectors.nvml.errors import NO_DATA, UnknownFaultError, error_for
from collectors.nvml.fields import BLANK_64, UNSIGNED_32, PlannedField, raw_value

_FIELD_VALUE = struct.Struct("=II16xiIQ")
"""nvmlFieldValue_t: id, scope, stamp and latency (not written by us), type, return code, value."""
_ANSWER = struct.Struct("=24xiIQ")
"""What is read of it: type, return code, value."""
_USUAL = {1: "24xQI4x", 2: "24xQQ", 3: "24xQQ"}
"""Unsigned types, which nearly all fields are: type and return code (0) as one number, value."""
_INVALID_ARGUMENT = 2
_FUNCTION = "nvmlDeviceGetFieldValues"


class _Prepared(NamedTuple):
    """A batch's memory, what it must hold before each call, and what its answers become."""

    memory: bytearray
    blank: bytes
    array: Any
    planned: tuple[PlannedField, ...]
    usual: list[_Usual]
    """None or one: how the answers looked when they were last all well."""


class _Usual:
    """Answers that are all there, of the types that they had before: read without a look at each.

    Reading them one by one costs several times as much.
    """

    def __init__(self, planned: Sequence[PlannedField], kinds: Sequence[int]) -> None:
        self._kinds = tuple(kinds)
        self._unpack = struct.Struct("=" + "".join(_USUAL[kind] for kind in kinds)).unpack
        self._rows = [
            (one.metric, one.factor, one.divisor, one.counter, one.low, one.high) for one in planned
        ]

    def values(self, memory: bytearray) -> dict[str, float] | None:
        """None where an answer is not as usual."""
        found = self._unpack(memory)
        raw = found[1::2]
        if found[::2] != self._kinds or UNSIGNED_32 in raw or max(raw) >= BLANK_64:
            return None
        values: dict[str, float] = {}
        for (name, factor, divisor, counter, low, high), one in zip(self._rows, raw, strict=True):
            value = one * factor // divisor if counter else one * factor / divisor
            if low <= value <= high:
                values[name] = value
        return values


def _prepare(planned: Sequence[PlannedField]) -> _Prepared:
    # An entry that the driver does not write says "no data", rather than its last value again.
    blank = b"".join(_FIELD_VALUE.pack(one.field, one.scope, -1, NO_DATA, 0) for one in planned)
    memory = bytearray(blank)
    array = (ctypes.c_char * len(memory)).from_buffer(memory)
    return _Prepared(memory, blank, array, tuple(planned), [])


class FieldBatch:
    """Reads the planned fields whose cadence is due.

    A field that fails for good leaves the batch, or makes room for the next of
    its metric: `on_unsupported(planned, error)` is told of the first kind.
    """

    def __init__(
        self,
        nvml: Nvml,
        handle: Any,
        plan: Iterable[PlannedField],
        on_unsupported: Callable[[PlannedField, UnsupportedError], None],
    ) -> None:
        self._nvml, self._handle = nvml, handle
        self._plan = list(plan)
        self._on_unsupported = on_unsupported
        self._ready: dict[frozenset[float], _Prepared] = {}
        self._function: Callable[..., int] | None = None

    def read(self, due: frozenset[float]) -> dict[str, float]:
        """Values in catalogue units of the rows whose `every_s` is in `due`.

        Raises TransientError, DeviceLostError, DriverGoneError or
        RestartNeededError; UnknownFaultError also where every field says so.
        """
        prepared = self._ready.get(due)
        if prepared is None:
            chosen = [one for one in self._plan if one.every_s in due]
            prepared = self._ready[due] = _prepare(chosen)
        if not prepared.planned:
            return {}
        try:
            self._ask(prepared)
        except UnsupportedError as error:
            for planned in list(self._plan):
                self._give_up(planned, error, again=False)
            return {}
        return self._answers(prepared)

    def _ask(self, prepared: _Prepared) -> None:
        function = self._function
        if function is None:
            function = self._function = self._nvml.function(_FUNCTION)
        prepared.memory[:] = prepared.blank
        code = function(self._handle, len(prepared.planned), prepared.array)
        if code:
            raise error_for(code, _FUNCTION)

    def _answers(self, prepared: _Prepared) -> dict[str, float]:
        values = prepared.usual[0].values(prepared.memory) if prepared.usual else None
        return self._one_by_one(prepared) if values is None else values

    def _one_by_one(self, prepared: _Prepared) -> dict[str, float]:
        values: dict[str, float] = {}
        unknown: UnknownFaultError | None = None
        answers = list(_ANSWER.iter_unpack(prepared.memory))
        if not any(code for _, code, _ in answers) and all(k in _USUAL for k, _, _ in answers):
            prepared.usual[:] = [_Usual(prepared.planned, [kind for kind, _, _ in answers])]
        for planned, (kind, code, bits) in zip(prepared.planned, answers, strict=True):
            if code:
                error = self._failed(planned, code)
                unknown = error if isinstance(error, UnknownFaultError) else unknown
                continue
            raw = raw_value(kind, bits)
            value = None if raw is None else planned.convert(raw)
            if value is not None:
                values[planned.metric] = value
        if unknown is not None and not values:
            raise unknown
        return values

    def _failed(self, planned: PlannedField, code: int) -> TransientError | None:
        """Drops a field for good, or raises what concerns more than the field."""
        what = f"field {planned.field}"
        error = error_for(code, what)
        if code == _INVALID_ARGUMENT:  # a field that this driver has never heard of
            error = UnsupportedError(str(error))
        if isinstance(error, UnsupportedError):
            self._give_up(planned, error, again=True)
            return None
        if isinstance(error, TransientError):
            return error
        raise error

    def _give_up(self, planned: PlannedField, error: UnsupportedError, *, again: bool) -> None:
        position = self._plan.index(planned)
        other = planned.next() if again else None
        if other is not None:
            self._plan[position] = other
        else:
            del self._plan[position]
        self._ready.clear()
        if other is None:
            self._on_unsupported(planned, error)

    def drop(self, metrics: frozenset[str]) -> None:
        """Leaves out metrics that turned out to be something else."""
        self._plan = [one for one in self._plan if one.metric not in metrics]
        self._ready.clear()
