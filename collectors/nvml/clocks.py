"""SM clock readings that the driver buffers between ours, where it has them and is quick."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from collectors.contract.source import TransientError, UnsupportedError
from collectors.kit.clock import Clock
from collectors.nvml.api import Nvml
from collectors.nvml.errors import error_for
from collectors.nvml.fields import raw_value

_PROCESSOR_CLOCK = 5
"""NVML_PROCESSOR_CLK_SAMPLES."""
_SAMPLE = struct.Struct("=QQ")
_FUNCTION = "nvmlDeviceGetSamples"
_ROOM_AT_MOST = 4096
_SLOWEST_US = 1_000
"""A call that takes longer, twice in a row, is not worth it: both ends of a window will do."""
_IN_A_ROW = 2
_NOTHING_AT_MOST = 5
_OTHER_SHARE = 0.1
_OTHER_AT_MOST = 10
"""So many times in a row the newest one may differ from what the clock is now."""


class Buffered(NamedTuple):
    """Readings since the last question, in order, and the time from the first to the last."""

    clocks_mhz: list[float]
    span_us: int


class ClockBuffer:
    """Asks for the readings since the last question; gives up for good where there are none."""

    def __init__(self, nvml: Nvml, handle: Any, clock: Clock) -> None:
        self._nvml, self._handle, self._clock = nvml, handle, clock
        self._seen_us = 0
        self._slow = self._nothing = self._other = 0
        self._function: Callable[..., int] | None = None
        self._kind, self._count = ctypes.c_uint(), ctypes.c_uint()
        self._room = bytearray()
        self._array: Any = None
        self.useful = True

    def take(self, now_mhz: float | None = None) -> Buffered:
        """Empty where there is nothing.  `now_mhz` is the clock by the usual call: a buffer that
        holds something else is given up.

        Raises DeviceLostError, DriverGoneError or RestartNeededError.
        """
        if not self.useful:
            return Buffered([], 0)
        began_us = self._clock.monotonic_us()
        try:
            buffered = self._read()
        except UnsupportedError:
            self.useful = False
            return Buffered([], 0)
        except TransientError:
            buffered = Buffered([], 0)
        slow = self._clock.monotonic_us() - began_us > _SLOWEST_US
        self._slow = self._slow + 1 if slow else 0
        self._nothing = 0 if buffered.clocks_mhz else self._nothing + 1
        if buffered.clocks_mhz and now_mhz is not None:
            other = abs(buffered.clocks_mhz[-1] - now_mhz) > _OTHER_SHARE * now_mhz
            self._other = self._other + 1 if other else 0
        self.useful = (
            self._slow < _IN_A_ROW
            and self._nothing < _NOTHING_AT_MOST
            and self._other < _OTHER_AT_MOST
        )
        return buffered if not self._other else Buffered([], 0)

    def _ask(self, array: Any) -> None:
        function = self._function
        if function is None:
            function = self._function = self._nvml.function(_FUNCTION)
        code = function(
            self._handle, _PROCESSOR_CLOCK, ctypes.c_ulonglong(self._seen_us),
            ctypes.byref(self._kind), ctypes.byref(self._count), array,
        )  # fmt: skip
        if code:
            raise error_for(code, _FUNCTION)

    def _read(self) -> Buffered:
        if self._array is None:
            self._ask(None)
            room = min(self._count.value, _ROOM_AT_MOST)
            if not room:
                return Buffered([], 0)
            self._room = bytearray(room * _SAMPLE.size)
            self._array = (ctypes.c_char * len(self._room)).from_buffer(self._room)
        self._count.value = len(self._room) // _SAMPLE.size
        self._ask(self._array)
        kind, before_us = self._kind.value, self._seen_us
        given = memoryview(self._room)[: self._count.value * _SAMPLE.size]
        found = [
            (stamp, mhz)
            for stamp, bits in _SAMPLE.iter_unpack(given)
            if stamp > before_us and (mhz := raw_value(kind, bits))
        ]
        if not found:
            return Buffered([], 0)
        found.sort()
        self._seen_us = found[-1][0]
        return Buffered([mhz for _, mhz in found], self._seen_us - found[0][0])
