"""The live frame's bytes: a JSON header and one byte per GPU and column, deflated once for all.

`docs/live-frame.md` describes it for readers in other languages.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

MAGIC = b"PWF1"
_LARGE = 200_000
"""Bytes above which deflating hard costs more of the second than it saves on the wire."""
ABSENT = 255
COLUMNS = ("temperature_c", "utilization", "power_w", "delivered", "state", "tenant")
SCALE = {"temperature_c": 1.0, "utilization": 200.0, "power_w": 1 / 6, "delivered": 200.0}
"""Multiplied with the value, rounded and held within 0–254."""
OTHER_TENANT, NO_TENANT = 254, 255

REPORTING, ACTIVE, THROTTLED, DOWN, ALLOCATED, POWER_CAPPED = 1, 2, 4, 8, 16, 32


def quantize(values: NDArray[Any], scale: float) -> NDArray[np.uint8]:
    """A column's bytes; NaN becomes `ABSENT`."""
    scaled = np.clip(np.rint(values * scale), 0, ABSENT - 1)
    return np.where(np.isnan(scaled), ABSENT, scaled).astype(np.uint8)


def encode_frame(header: Mapping[str, Any], columns: Mapping[str, NDArray[np.uint8]]) -> bytes:
    """The frame's bytes; every column is uint8[N] in layout order."""
    text = msgspec.json.encode({**header, "columns": list(COLUMNS)})
    body = b"".join(
        [struct.pack("<I", len(text)), text, *(columns[name].tobytes() for name in COLUMNS)]
    )
    large = len(body) > _LARGE
    return MAGIC + zlib.compress(body, 1 if large else 6)
