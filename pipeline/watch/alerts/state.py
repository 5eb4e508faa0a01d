"""The alerts' memory on `petawatch.state`: compact, in pieces, valid only as a whole.

Two copies take turns, so that one half written by a process that dies leaves
the other; the newest whose pieces make up its digest counts.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from contextlib import suppress

import msgspec
import numpy as np
from numpy.typing import NDArray

from collectors.contract.bus import Bus, Message
from collectors.contract.topics import STATE, Allocation
from pipeline.watch.alerts.engine import Open
from pipeline.watch.alerts.whole import whole

VERSION = 1
PIECE_BYTES = 512 * 1024
_KEY = b"watch/alerts/"
_BEGUN = b"watch/alerts-begun"


class SavedOpen(msgspec.Struct, frozen=True):
    """What is open of a rule: keys of subjects, and the other columns of `Open` in order."""

    keys: list[str]
    columns: list[list[int]]


class Saved(msgspec.Struct, frozen=True):
    """Everything that cannot be made anew by reading the log from `positions`.

    Per-GPU columns are float32 by name, in the order of `places`.
    """

    version: int
    layout_id: str
    places: bytes
    done_s: int
    """The last second that was evaluated."""
    warm_from_us: int
    """Bus time at which `positions` stand."""
    positions: dict[str, int]
    """`topic/partition` → offset."""
    newest_us: int
    began_s: int
    offsets: dict[str, tuple[int, ...]]
    open: dict[str, SavedOpen]
    columns: dict[str, bytes]
    totals: dict[str, list[float]]
    allocations: list[Allocation]
    incidents: bytes
    physics: bytes
    origin: int


class Manifest(msgspec.Struct, frozen=True):
    """Says which pieces are one snapshot."""

    done_s: int
    pieces: int
    digest: str


class Begun(msgspec.Struct, frozen=True):
    """Where one began that found no snapshot: until there is one, others begin there too."""

    positions: dict[str, int]
    """`topic/partition` → offset."""
    at_us: int
    """When that was, by the clock on the wall."""


def begun_message(begun: Begun, prefix: str) -> Message:
    """Its record."""
    return Message(prefix + STATE, _BEGUN, msgspec.json.encode(begun))


def packed_places(places: list[tuple[str, int]]) -> bytes:
    """The order of positions, to be compared or followed over layouts."""
    return zlib.compress("\n".join(f"{node} {slot}" for node, slot in places).encode(), 1)


def unpacked_places(data: bytes) -> list[tuple[str, int]]:
    """The inverse of `packed_places`."""
    text = zlib.decompress(data).decode()
    pairs = [line.rsplit(" ", 1) for line in text.split("\n") if line]
    return [(node, int(slot)) for node, slot in pairs]


def packed(column: NDArray[np.float32]) -> bytes:
    """A column's bytes."""
    return zlib.compress(column.astype("<f4").tobytes(), 1)


def unpacked(data: bytes, moved: NDArray[np.intp]) -> NDArray[np.float32]:
    """A column in a layout of today; `moved` is the old position of each, −1 for none."""
    old = np.frombuffer(zlib.decompress(data), "<f4")
    if not len(old):
        return np.full(len(moved), np.nan, np.float32)
    return np.where(moved >= 0, old[moved], np.float32(np.nan)).astype(np.float32)


def saved_open(opened: Open, keys: list[str]) -> SavedOpen:
    """An `Open` with its indices as keys."""
    return SavedOpen(keys, [column.astype(np.int64).tolist() for column in opened.columns()[1:]])


def restored_open(saved: SavedOpen, index: list[int | None]) -> Open:
    """The same in a layout of today; subjects that it lacks are gone."""
    rows = [row for row, at in enumerate(index) if at is not None]
    at = np.array([index[row] for row in rows], np.intp)
    cut = [np.array([column[row] for row in rows]) for column in saved.columns]
    state, step, since, held, known, beyond, announced = cut
    made = Open(
        at, state.astype(np.int8), step.astype(np.int8), since.astype(np.int64),
        held.astype(np.int64), known.astype(np.int64), beyond.astype(np.int64),
        announced.astype(np.bool_),
    )  # fmt: skip
    return made.take(np.argsort(at, kind="stable"))


def messages(saved: Saved, prefix: str, turn: int) -> list[Message]:
    """The records of a snapshot: pieces, then the manifest."""
    data = zlib.compress(msgspec.msgpack.encode(saved), 1)
    pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
    copy = _KEY + (b"a" if turn % 2 else b"b")
    manifest = Manifest(saved.done_s, len(pieces), hashlib.sha256(data).hexdigest())
    topic = prefix + STATE
    out = [Message(topic, copy + f"/{at}".encode(), piece) for at, piece in enumerate(pieces)]
    return [*out, Message(topic, copy, msgspec.json.encode(manifest))]


def assembled(records: Mapping[bytes, bytes]) -> Saved | None:
    """The newest whole snapshot among the topic's records; None without any."""
    found: list[tuple[int, bytes]] = []
    for copy in (_KEY + b"a", _KEY + b"b"):
        if copy not in records:
            continue
        manifest = msgspec.json.decode(records[copy], type=Manifest)
        pieces = [records.get(copy + f"/{at}".encode(), b"") for at in range(manifest.pieces)]
        data = b"".join(pieces)
        if hashlib.sha256(data).hexdigest() == manifest.digest:
            found.append((manifest.done_s, data))
    for _, data in sorted(found, reverse=True):
        try:
            saved = msgspec.msgpack.decode(zlib.decompress(data), type=Saved)
        except (msgspec.DecodeError, msgspec.ValidationError, zlib.error):
            continue
        if saved.version == VERSION:
            return saved
    return None


async def read_state(bus: Bus, prefix: str) -> tuple[Saved | None, Begun | None]:
    """The newest snapshot on the bus, and where the one began that had none; each None where there
    is none.  Raises BusUnavailableError."""
    records: dict[bytes, bytes] = {}
    async for chunk in whole(bus, prefix + STATE):
        pairs = zip(chunk.keys, chunk.values, strict=True)
        records.update((key, value) for key, value in pairs if key.startswith((_KEY, _BEGUN)))
    begun = None
    with suppress(msgspec.DecodeError, msgspec.ValidationError):
        begun = msgspec.json.decode(records.get(_BEGUN, b""), type=Begun)
    return assembled(records), begun
