"""Writes node records as Protobuf without the Protobuf runtime, and reads them with it.

The agent writes with `struct` alone, since the runtime and NumPy would be a
third of its memory.  `parse` is the slow, ordinary path; the pipeline has a
columnar one that must agree with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from collectors.contract.catalogue import CATALOGUE, Kind, Metric
from collectors.contract.record import SCHEMA_VERSION, NodeRecord, Origin, SlotLabels
from collectors.contract.schema import LABELS_FIELD, message_class

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
MAX_SLOTS = 1024


class BrokenRecordError(ValueError):
    """Bytes that are no valid record; `reason` is short and fixed, for counters."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def varint(value: int) -> bytes:
    """Base-128 varint of a non-negative integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    """The key that stands before a field."""
    return varint(number << 3 | wire_type)


def _chunk(number: int, payload: bytes) -> bytes:
    return tag(number, _LEN) + varint(len(payload)) + payload


def _text(number: int, text: str) -> bytes:
    return _chunk(number, text.encode()) if text else b""


_HEADER = struct.Struct(
    "<" + "".join(f"{len(tag(n, _I32))}s{c}" for n, c in zip(range(1, 7), "IIQQQQ", strict=True))
)
_TAGS = tuple(tag(n, _I32 if n < 3 else _I64) for n in range(1, 7))


def encode_header(origin: Origin, run: int, sequence: int, time_us: int, label_epoch: int) -> bytes:
    """The fixed-width header: 46 bytes, every field present even where it is zero."""
    values = (SCHEMA_VERSION, int(origin), run, sequence, time_us, label_epoch)
    flat = [part for pair in zip(_TAGS, values, strict=True) for part in pair]
    return _HEADER.pack(*flat)


def encode_labels(labels: Sequence[SlotLabels]) -> bytes:
    """The label messages that end a record."""
    out: list[bytes] = []
    for label in labels:
        body = tag(1, _I64) + struct.pack("<Q", label.slot)
        body += _text(2, label.uuid) + _text(3, label.model)
        body += _text(4, label.serial) + _text(5, label.occupant)
        out.append(_chunk(LABELS_FIELD, body))
    return b"".join(out)


class _Layout:
    """What all records of a slot count share: packers, and the bytes before each array."""

    def __init__(self, metrics: tuple[Metric, ...], count: int) -> None:
        self.metrics = metrics
        self.integers, floats = struct.Struct(f"<{count}Q"), struct.Struct(f"<{count}f")
        self.slots_head = tag(8, _LEN) + varint(8 * count)
        self.epochs_head = tag(9, _LEN) + varint(8 * count)
        self.rows: list[tuple[str, bytes, Callable[..., bytes]]] = []
        for metric in metrics:
            packer = floats if metric.kind is Kind.GAUGE else self.integers
            head = tag(metric.number, _LEN) + varint(packer.size)
            self.rows.append((metric.name, head, packer.pack))


_layouts: dict[int, _Layout] = {}


def _layout(count: int) -> _Layout:
    """Kept per slot count (an agent has one), and made anew when the catalogue has changed."""
    layout = _layouts.get(count)
    if layout is None or layout.metrics is not CATALOGUE.metrics:
        if count > MAX_SLOTS:
            raise ValueError(f"a record holds at most {MAX_SLOTS} slots, not {count}")
        layout = _layouts[count] = _Layout(CATALOGUE.metrics, count)
    return layout


def encode(record: NodeRecord) -> bytes:
    """The record's bytes: header, node, slots, epochs, metrics by number, labels last.

    Raises ValueError above `MAX_SLOTS`, struct.error for an array that is not parallel.
    """
    layout = _layout(len(record.slots))
    integers, columns = layout.integers, record.values
    out = [
        encode_header(
            record.origin, record.run, record.sequence, record.time_us, record.label_epoch
        ),
        _text(7, record.node),
        layout.slots_head,
        integers.pack(*record.slots),
        layout.epochs_head,
        integers.pack(*record.energy_epochs),
    ]
    for name, head, pack in layout.rows:
        if name in columns:
            out += (head, pack(*columns[name]))
    if record.labels:
        out.append(encode_labels(record.labels))
    return b"".join(out)


def parse(data: bytes) -> NodeRecord:
    """Reads a record with the ordinary Protobuf parser.

    Raises BrokenRecordError: `undecodable`, `schema` (of a newer major), `origin`,
    `node` (empty name), `slots` (none, repeated or too many) or `shape` (an
    array that is not parallel to `slots`).
    """
    message = message_class()()
    try:
        message.ParseFromString(data)
    except Exception as error:  # the runtime's DecodeError has no public base beyond this
        raise BrokenRecordError("undecodable", str(error)) from error
    slots = list(message.slots)
    _check(message, slots)
    values: dict[str, Sequence[float]] = {}
    for metric in CATALOGUE:
        column = getattr(message, metric.name)
        if len(column) not in {0, len(slots)}:
            raise BrokenRecordError("shape", metric.name)
        if len(column):
            values[metric.name] = list(column)
    labels = [SlotLabels(x.slot, x.uuid, x.model, x.serial, x.occupant) for x in message.labels]
    return NodeRecord(
        message.node, Origin(message.origin), message.run, message.sequence, message.time_us,
        message.label_epoch, slots, list(message.energy_epochs), values, labels,
    )  # fmt: skip


def _check(message: object, slots: Sequence[int]) -> None:
    schema, origin = getattr(message, "schema"), getattr(message, "origin")  # noqa: B009
    if schema != SCHEMA_VERSION:
        raise BrokenRecordError("schema", str(schema))
    if origin not in {1, 2, 3}:
        raise BrokenRecordError("origin", str(origin))
    if not getattr(message, "node"):  # noqa: B009
        raise BrokenRecordError("node")
    if not 0 < len(slots) <= MAX_SLOTS or len(set(slots)) != len(slots):
        raise BrokenRecordError("slots", str(len(slots)))
    if len(getattr(message, "energy_epochs")) != len(slots):  # noqa: B009
        raise BrokenRecordError("shape", "energy_epochs")
