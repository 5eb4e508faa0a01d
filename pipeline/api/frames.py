"""Reads live frames: the header that people's figures come from, and the columns of the map.

The format: `PWF1`, then a zlib stream of the header's length (u32, little
endian), the header (JSON) and one byte per GPU of the layout and column.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

MAGIC = b"PWF1"
_MAX_BYTES = 64 * 2**20
ABSENT = 255
REPORTING, ACTIVE, THROTTLED, DOWN, ALLOCATED, POWER_CAPPED = 1, 2, 4, 8, 16, 32
STATES: Mapping[str, int] = {
    "reporting": REPORTING,
    "active": ACTIVE,
    "throttled": THROTTLED,
    "down": DOWN,
    "allocated": ALLOCATED,
    "power_capped": POWER_CAPPED,
}
"""Bits of the column `state`."""


class BrokenFrameError(ValueError):
    """Bytes that are no live frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A frame as it goes to the viewers (`payload`), and what the API reads of it.

    `columns` maps a name to N bytes in layout order; `bus_us` is when the bus took it.
    """

    payload: bytes
    bus_us: int
    header: Mapping[str, Any]
    columns: Mapping[str, NDArray[np.uint8]]

    @property
    def time_us(self) -> int:
        """Event time, µs since 1970."""
        return self.header["time_us"]


def parse_frame(payload: bytes, bus_us: int) -> Frame:
    """Unpacks a frame; raises BrokenFrameError."""
    if payload[:4] != MAGIC:
        raise BrokenFrameError("it does not begin with PWF1")
    try:
        body = zlib.decompressobj().decompress(payload[4:], _MAX_BYTES)
        end = 4 + int.from_bytes(body[:4], "little")
        header = msgspec.convert(orjson.loads(body[4:end]), dict[str, Any])
        names: list[str] = header["columns"]
        cells = np.frombuffer(body, np.uint8, offset=end).reshape(len(names), -1)
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise BrokenFrameError(str(error)) from error
    if not isinstance(header.get("time_us"), int):
        raise BrokenFrameError("it has no time_us")
    return Frame(payload, bus_us, header, dict(zip(names, cells, strict=True)))
