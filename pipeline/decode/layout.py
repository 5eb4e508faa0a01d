"""Learns where each array of a record lies, so that equal records decode together.

On the wire a packed array is tag, length, contiguous little-endian numbers.
Records whose tags, lengths and order are equal (their *skeleton*) differ in
fixed-width payload only; one layout then serves them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, Kind
from collectors.contract.schema import LABELS_FIELD

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_HEADER_TYPES = {1: _I32, 2: _I32, 3: _I64, 4: _I64, 5: _I64, 6: _I64, 7: _LEN, 8: _LEN, 9: _LEN}
_NODE, _SLOTS, _EPOCHS = 7, 8, 9
LABELS_TAG = LABELS_FIELD << 3 | _LEN
"""The byte that a label message begins with."""


class UnusualError(ValueError):
    """The record is perhaps valid, but not of the kind that can be learnt."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field as it lies in a record: the payload is data[start:end]."""

    number: int
    wire_type: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the metrics of one kind lie that a reader wants and a layout has.

    `row` are their places among those wanted, `start` where their payloads
    begin, `at` all the payloads' bytes one after the other.
    """

    row: NDArray[np.intp]
    start: Sequence[int]
    at: NDArray[np.intp]


def columns_of(spans: Mapping[int, tuple[int, int]], numbers: Sequence[int]) -> Columns:
    """The columns of the metrics `numbers`."""
    rows = [row for row, number in enumerate(numbers) if number in spans]
    there = [spans[numbers[row]] for row in rows]
    bytes_at = [np.arange(start, end) for start, end in there]
    at = np.concatenate(bytes_at) if bytes_at else np.zeros(0, np.intp)
    return Columns(np.array(rows, np.intp), [start for start, _ in there], at)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is in a record of `length` bytes (its labels not counted).

    `spans` maps field numbers to the payload's (start, end); `count` is the
    number of slots; `identity` spans the node's name to the last slot.
    `columns` is what readers keep of it, by the metrics that they want.
    """

    length: int
    count: int
    spans: dict[int, tuple[int, int]]
    identity: tuple[int, int]
    skeleton_at: NDArray[np.intp]
    skeleton: NDArray[np.uint8]
    columns: dict[tuple[int, ...], Columns] = field(
        default_factory=dict[tuple[int, ...], Columns], compare=False
    )

    def wanted(self, numbers: tuple[int, ...]) -> Columns:
        """Where the metrics `numbers` lie, as far as they are there."""
        found = self.columns.get(numbers)
        if found is None:
            found = self.columns[numbers] = columns_of(self.spans, numbers)
        return found

    def fits(self, matrix: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which rows of uint8[n, length] have this skeleton; bool[n]."""
        return np.all(matrix[:, self.skeleton_at] == self.skeleton, axis=1)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise UnusualError("varint too long")


def scan(data: bytes) -> list[Field]:
    """The top-level fields of a Protobuf message, in the order in which they lie.

    Raises UnusualError for what is cut off, for groups and for bare varints.
    """
    fields: list[Field] = []
    at, size = 0, len(data)
    try:
        while at < size:
            key, at = _varint(data, at)
            number, wire_type = key >> 3, key & 7
            if wire_type == _LEN:
                length, at = _varint(data, at)
            elif wire_type in {_I64, _I32}:
                length = 8 if wire_type == _I64 else 4
            else:
                raise UnusualError("wire type")
            fields.append(Field(number, wire_type, at, at + length))
            at += length
    except IndexError as error:
        raise UnusualError("cut off") from error
    if at != size:
        raise UnusualError("cut off")
    return fields


def split_labels(fields: list[Field], data: bytes) -> int:
    """Where the labels at the end begin (the length of `data` where there are none).

    Raises UnusualError when labels stand elsewhere.
    """
    first = next((i for i, field in enumerate(fields) if field.number == LABELS_FIELD), None)
    if first is None:
        return len(data)
    if any(field.number != LABELS_FIELD for field in fields[first:]):
        raise UnusualError("labels not last")
    return fields[first - 1].end if first else 0


def only_labels(tail: bytes) -> bool:
    """Whether bytes that Protobuf can parse are label messages and nothing else."""
    at = 0
    while at < len(tail):
        if tail[at] != LABELS_TAG:
            return False
        length, at = _varint(tail, at + 1)
        at += length
    return True


def _widths() -> dict[int, int]:
    return {m.number: 4 if m.kind is Kind.GAUGE else 8 for m in CATALOGUE}


def learn(fields: list[Field], data: bytes, length: int) -> Layout:
    """The layout of data[:length]; raises UnusualError when it can't be learnt."""
    fields = [field for field in fields if field.end <= length]
    spans = {field.number: (field.start, field.end) for field in fields}
    types = {field.number: field.wire_type for field in fields}
    if len(spans) != len(fields) or any(types.get(n) != t for n, t in _HEADER_TYPES.items()):
        raise UnusualError("header")
    start, end = spans[_SLOTS]
    count = (end - start) // 8
    widths = _widths()
    for number, (a, b) in spans.items():
        width = 8 if number in {_SLOTS, _EPOCHS} else widths.get(number)
        if width is not None and (types[number] != _LEN or b - a != count * width):
            raise UnusualError("shape")
    name = spans[_NODE]
    if count == 0 or name[0] == name[1] or start < name[1]:
        raise UnusualError("identity")
    payload = np.zeros(length, bool)
    for a, b in spans.values():
        payload[a:b] = True
    at = np.flatnonzero(~payload)
    skeleton = np.frombuffer(data, np.uint8, count=length)[at].copy()
    return Layout(length, count, spans, (name[0], end), at, skeleton)
