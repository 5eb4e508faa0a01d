"""A detector's state as bytes: named arrays of several parts, checked when they are read."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

State = dict[str, NDArray[Any]]
FORMAT = 3


class StateError(ValueError):
    """Bytes that are no state of this fleet: start anew."""


def pack(parts: Mapping[str, Mapping[str, NDArray[Any]]], layout: str) -> bytes:
    """All arrays of all parts; `layout` names the fleet that they are of."""
    arrays: State = {
        f"{part}/{name}": a for part, state in parts.items() for name, a in state.items()
    }
    arrays["header"] = np.frombuffer(f"{FORMAT} {layout}".encode(), np.uint8)
    buffer = io.BytesIO()
    save: Any = np.savez_compressed
    save(buffer, **arrays)
    return buffer.getvalue()


def unpack(data: bytes, layout: str) -> dict[str, State]:
    """The parts again.  Raises StateError for another fleet's, another format's or broken bytes."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise StateError(f"no state of a thermal detector: {error}") from error
    header = arrays.pop("header", np.zeros(0, np.uint8)).tobytes().decode(errors="replace")
    if header != f"{FORMAT} {layout}":
        raise StateError(f"a state of another fleet or version ({header!r})")
    out: dict[str, State] = {}
    for name, array in arrays.items():
        part, _, own = name.partition("/")
        out.setdefault(part, {})[own] = array
    return out
